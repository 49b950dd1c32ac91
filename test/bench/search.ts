/**
 * How long a search takes: the index, the comparison of all images, and usearch (HNSW in memory), over the same synthetic
 * embeddings, one search after the other for ten hits. On a folder, or on an S3 server that this starts.
 *
 *   first     what opening the index and one search take: what `lensmill search` does after its start
 *   recall    of the ten true answers, which the comparison of all images gives
 *   queries   so many, of larger indexes fewer: comparing a million with 100 takes ten minutes in a folder, and half an hour on S3
 *
 * node test/bench/search.ts [--images 10000,100000] [--dimension 2048] [--queries 100] [--places file,s3] [--usearch-up-to 100000]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { Index, MetricKind, ScalarKind } from 'usearch';
import { openIndex } from '../../src/search/open-index.ts';
import {
  type Answer,
  answerByScan,
  answerQueries,
  checkIndex,
  drawQueries,
  percentileMs,
  recallOf,
} from '../../src/search/recall.ts';
import type { SearchIndex } from '../../src/search/search-index.ts';
import { s3OptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { startRadosgw } from '../helpers/servers.ts';
import { makeSyntheticIndex } from '../helpers/synthetic-index.ts';
import { clusteredVectors } from '../helpers/vectors.ts';

interface Wanted {
  images: number;
  dimension: number;
  queries: number;
  /** Else it is left out: its graph takes a minute for each ten thousand images. */
  withUsearch: boolean;
}

type Row = Record<string, string>;

const seed = 1;
const k = 10;
/** Images that are compared in all, at most: of a million, 20 queries. */
const comparisons = 20_000_000;

/** One place, one size. Rows by what was asked. */
async function benchPlace(place: string, uri: string, wanted: Wanted): Promise<Record<string, Row>> {
  const { images, dimension, queries, withUsearch } = wanted;
  const s3 = s3OptionsOf(resolveSettings({}, process.env, {}).values);
  const store = openStore(uri, s3);
  await store.probe();
  try {
    const startedAt = performance.now();
    const vectors = clusteredVectors({ dimension, seed });
    const record = await makeSyntheticIndex(store, { images, dimension, s3, vectors });
    const buildSeconds = (performance.now() - startedAt) / 1_000;
    const openedAt = performance.now();
    const index = await openIndex(store, { s3 });
    try {
      const [query] = await drawQueries(index, 1);
      if (!query) throw new Error('the index is empty: this is a bug');
      await answerQueries(index, [query], { k, exact: false });
      const firstMs = performance.now() - openedAt;
      const check = await checkIndex(index, { queries });
      const name = `${images.toLocaleString('en-US')} on ${place}`;
      const kind = `${record.kind} ${JSON.stringify(record.parameters)}`;
      console.error(`${name}: ${kind}, generated and built in ${buildSeconds.toFixed(0)} s`);
      const rows: Record<string, Row> = {
        [`${name}, index`]: rowOf({
          p50: check.p50Ms,
          p99: check.p99Ms,
          recall: check.recallAt10,
          first: firstMs,
          ratio: check.exactP50Ms / check.p50Ms,
        }),
        [`${name}, all compared`]: rowOf({
          p50: check.exactP50Ms,
          p99: check.exactP99Ms,
          recall: 1,
          ratio: 1,
        }),
      };
      if (withUsearch)
        rows[`${name}, usearch in memory`] = await benchUsearch(index, wanted, check.exactP50Ms);
      return rows;
    } finally {
      await index.close();
    }
  } finally {
    await store.close();
  }
}

/** With usearch's own defaults, and halves as the index has them. */
async function benchUsearch(index: SearchIndex, wanted: Wanted, exactP50Ms: number): Promise<Row> {
  const { dimension, queries } = wanted;
  const graph = new Index({
    dimensions: dimension,
    metric: MetricKind.Cos,
    quantization: ScalarKind.F16,
    connectivity: 0,
    expansion_add: 0,
    expansion_search: 0,
    multi: false,
  });
  const asked = await drawQueries(index, queries);
  const names = new Map(asked.map(({ key }) => [key, -1n]));
  const startedAt = performance.now();
  let added = 0n;
  for await (const { images, vectors } of index.scan()) {
    const numbers = BigUint64Array.from(images, (_, row) => added + BigInt(row));
    for (const [row, { key }] of images.entries()) if (names.has(key)) names.set(key, numbers[row] as bigint);
    graph.add(numbers, vectors, 0);
    added += BigInt(images.length);
  }
  console.error(`usearch: built in ${((performance.now() - startedAt) / 1_000).toFixed(0)} s`);
  const truths = await answerByScan(index, asked, { k });
  const answers = asked.map(({ key, vector }): Answer => {
    const askedAt = performance.now();
    const { keys, distances } = graph.search(vector, k + 1, 1);
    const ms = performance.now() - askedAt;
    const own = names.get(key);
    const scores = [...distances].map((distance) => 1 - distance).filter((_, at) => keys[at] !== own);
    return { scores: scores.slice(0, k), ms };
  });
  const p50 = percentileMs(answers, 0.5);
  return rowOf({
    p50,
    p99: percentileMs(answers, 0.99),
    recall: recallOf(truths, answers, k),
    ratio: exactP50Ms / p50,
  });
}

function rowOf(found: { p50: number; p99: number; recall: number; ratio: number; first?: number }): Row {
  const { p50, p99, recall, ratio, first } = found;
  return {
    'p50 ms': p50.toFixed(1),
    'p99 ms': p99.toFixed(1),
    'recall@10': recall.toFixed(3),
    'times as fast as all compared': ratio.toFixed(1),
    'first ms': first?.toFixed(0) ?? '',
  };
}

async function withS3(run: (uri: string) => Promise<void>): Promise<void> {
  const server = await startRadosgw();
  try {
    process.env.AWS_ACCESS_KEY_ID = server.accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = server.secretAccessKey;
    process.env.AWS_ENDPOINT_URL_S3 = server.endpoint;
    process.env.AWS_REGION = server.region;
    const client = new S3Client({ endpoint: server.endpoint, region: server.region, forcePathStyle: true });
    await client.send(new CreateBucketCommand({ Bucket: 'bench' }));
    client.destroy();
    await run('s3://bench');
  } finally {
    await server.close();
  }
}

export async function benchSearch(sizes: readonly Wanted[], places: readonly string[]): Promise<void> {
  for (const wanted of sizes) {
    if (places.includes('file')) {
      const folder = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
      try {
        console.table(await benchPlace('file', folder, wanted));
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }
    if (places.includes('s3')) {
      await withS3(async (bucket) => {
        const place = { ...wanted, withUsearch: false };
        console.table(await benchPlace('S3', `${bucket}/${wanted.images}`, place));
      });
    }
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      images: { type: 'string', default: '10000,100000' },
      dimension: { type: 'string', default: '2048' },
      queries: { type: 'string', default: '100' },
      places: { type: 'string', default: 'file' },
      'usearch-up-to': { type: 'string', default: '100000' },
    },
  });
  const sizes = values.images
    .split(',')
    .map(Number)
    .map((images) => ({
      images,
      dimension: Number(values.dimension),
      queries: Math.min(Number(values.queries), Math.ceil(comparisons / images)),
      withUsearch: images <= Number(values['usearch-up-to']),
    }));
  await benchSearch(sizes, values.places.split(','));
}
