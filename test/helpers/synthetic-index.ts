/** An index without a run: of embeddings that nobody made, for benches and for tests of what many images need. */

import { toHalf } from '../../src/models/half.ts';
import { identify } from '../../src/models/identity.ts';
import type { S3Options } from '../../src/s3/client.ts';
import { type BuildProgress, writeGeneration } from '../../src/search/build.ts';
import { rowsPerFile } from '../../src/search/kind.ts';
import { takeLease } from '../../src/search/lease.ts';
import { findRecord } from '../../src/search/record.ts';
import { imageKey, type RowBatch } from '../../src/search/rows.ts';
import type { IndexedImage, IndexRecord } from '../../src/search/search-index.ts';
import type { Store } from '../../src/stores/store.ts';
import type { ModelIdentity } from '../../src/types.ts';
import { toUnit } from '../../src/vectors.ts';
import { makeRequest } from './requests.ts';

export interface SyntheticIndex {
  images: number;
  dimension: number;
  /** Fills the next rows: [rows × dimension] (vectors.ts). */
  vectors: (rows: number) => Float32Array;
  s3: S3Options;
  onProgress?: (progress: BuildProgress) => void;
}

/** Builds one in a store that is probed, or adds to the one that it built there before. */
export async function makeSyntheticIndex(store: Store, request: SyntheticIndex): Promise<IndexRecord> {
  const { images, dimension, vectors, s3, onProgress } = request;
  const model = syntheticModel(dimension);
  const record = await findRecord(store, model.fingerprint);
  const runs = [...(record?.runs ?? []), `run-${record?.runs.length ?? 0}`].map((run) => ({ run }));
  const lease = await takeLease(store, model.fingerprint);
  try {
    return await writeGeneration(store, lease, {
      model,
      how: record ? 'extended' : 'built',
      record,
      base: record,
      allRuns: runs,
      batches: batchesOf(record?.images ?? 0, images, dimension, vectors, runs.at(-1)?.run ?? ''),
      total: images,
      s3,
      signal: undefined,
      ...(onProgress && { onProgress }),
    });
  } finally {
    await lease.release();
  }
}

export function syntheticModel(dimension: number): ModelIdentity {
  const { fingerprint: _, ...model } = makeRequest('any').model;
  return identify({ ...model, dimension });
}

async function* batchesOf(
  first: number,
  count: number,
  dimension: number,
  vectors: (rows: number) => Float32Array,
  run: string,
): AsyncGenerator<RowBatch> {
  for (let done = 0; done < count; done += rowsPerFile) {
    const rows = Math.min(rowsPerFile, count - done);
    const batch = vectors(rows);
    for (let row = 0; row < rows; row++) toUnit(batch.subarray(row * dimension, (row + 1) * dimension));
    const images = Array.from({ length: rows }, (_, row) => imageOf(first + done + row, run));
    yield { keys: [], ids: [], rows: { images, halves: toHalf(batch) }, taken: rows, leftOut: {} };
  }
}

function imageOf(n: number, run: string): IndexedImage {
  const id = `2026/${String(n % 100).padStart(2, '0')}/photo-${n}.jpg`;
  const uri = `file:///photos/${id}`;
  return {
    key: imageKey(uri, id),
    id,
    uri,
    etag: `etag-${n}`,
    run,
    runAt: '2026-01-01T00:00:00.000Z',
    sha256: imageKey(id, '').repeat(2),
    bytes: 10_000 + n,
    width: 200 + (n % 1000),
    height: 300 + (n % 700),
    format: 'jpeg',
    labels: [n % 1000, (n + 1) % 1000],
    scores: [0.6, 0.2],
  };
}
