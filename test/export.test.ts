import { rmSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DuckDBConnection, DuckDBInstance } from '@duckdb/node-api';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type ExportRequest, exportFormats, exportRun } from '../src/export.ts';
import { partKey } from '../src/layout.ts';
import { fromHalf } from '../src/models/half.ts';
import { encodePart } from '../src/parts/part.ts';
import { FileStore } from '../src/stores/file.ts';
import type { Provenance, ShardRows } from '../src/types.ts';
import { makeProvenance, makeShardRows } from './helpers/shard-rows.ts';

/** Three parts of 20, 30 and 10 rows; 3 + 4 + 1 of them failed. */
const shards = [20, 30, 10].map((count, shard) => makeShardRows(count, { shard }));
const asItStands = (key: string) => ({ key, replaced: [], dropped: [] });
const parts = shards.map((_, shard) => asItStands(partKey('holiday', shard)));
const options = { dimension: 2048, topK: 5, embeddingType: 'float32' } as const;

let root: string;
let store: FileStore;
let duckdb: DuckDBConnection;
let to: string;
let target = 0;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'lensmill-export-'));
  store = new FileStore(join(root, 'store'));
  for (const [shard, rows] of shards.entries()) await putPart(shard, rows);
  duckdb = await (await DuckDBInstance.create()).connect();
});
afterAll(async () => {
  duckdb.closeSync();
  await store.close();
  await rm(root, { recursive: true });
});
beforeEach(() => {
  to = join(root, `export-${target++}`);
});

async function putPart(shard: number, rows: ShardRows, change: Partial<Provenance> = {}): Promise<string> {
  const provenance = makeProvenance({ shard, ...change });
  const key = partKey(provenance.run, shard);
  await store.create(key, encodePart(rows, provenance, options));
  return key;
}

const run = (request: Partial<ExportRequest>) =>
  exportRun({ store, run: 'holiday', parts, to, format: 'npy', rowsPerFile: 1_000_000, ...request });

async function query(sql: string) {
  return (await duckdb.runAndReadAll(sql)).getRowObjectsJson();
}

async function readLines(name: string) {
  const text = await readFile(join(to, name), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** Parses a .npy file as NumPy does: magic, version, header length, and a dictionary that ends on a multiple of 64. */
async function readNpy(name: string): Promise<{ header: string; halves: Uint16Array }> {
  const bytes = await readFile(join(to, name));
  expect(bytes.subarray(0, 8).toString('latin1')).toBe('\x93NUMPY\x01\x00');
  const end = 10 + bytes.readUInt16LE(8);
  expect(end % 64).toBe(0);
  expect(bytes[end - 1]).toBe(0x0a);
  const halves = new Uint16Array(bytes.buffer.slice(bytes.byteOffset + end, bytes.byteOffset + bytes.length));
  return { header: bytes.subarray(10, end).toString('latin1').trimEnd(), halves };
}

const everyRow = shards.flatMap(({ items, outcomes, embeddings, labels, scores }) =>
  items.map((item, row) => ({
    item,
    outcome: outcomes[row],
    embedding: embeddings.subarray(row * 2048, (row + 1) * 2048),
    labels: [...labels.subarray(row * 5, (row + 1) * 5)],
    scores: scores.subarray(row * 5, (row + 1) * 5),
  })),
);
const okRows = everyRow.filter((row) => row.outcome?.status === 'ok');
const failedRows = everyRow.filter((row) => row.outcome?.status === 'failed');

describe('npy', () => {
  test('has an embedding for each ok row, as NumPy lays it out', async () => {
    const manifest = await run({});
    expect(manifest).toMatchObject({ format: 'npy', run: 'holiday', rows: 60, ok: 52, failed: 8 });
    const { header, halves } = await readNpy('img_emb/img_emb_0.npy');
    expect(header).toBe("{'descr': '<f2', 'fortran_order': False, 'shape': (52, 2048), }");
    expect(halves.length).toBe(52 * 2048);
    for (const [row, { embedding }] of okRows.entries()) {
      const written = fromHalf(halves.subarray(row * 2048, (row + 1) * 2048));
      // Half a unit in the last place of 11 significant bits; subnormal halves come in steps of 2^-24.
      const isNear = (value: number, i: number) =>
        Math.abs(value - (embedding[i] ?? Number.NaN)) <= Math.max(value * 2 ** -11, 2 ** -25);
      expect(written.every(isNear)).toBe(true);
    }
  });

  test('has metadata row for row, with paths that can be opened', async () => {
    await run({});
    const metadata = await query(`FROM '${to}/metadata/metadata_0.parquet'`);
    expect(Object.keys(metadata[0] ?? {})[0]).toBe('image_path');
    expect(metadata.map((row) => row.id)).toEqual(okRows.map((row) => row.item.id));
    expect(metadata.map((row) => row.labels)).toEqual(okRows.map((row) => row.labels));
    expect(metadata[0]?.image_path).toBe('/photos/album 0/ü-00000.jpg');
  });

  test('lists failed images beside, with their reasons', async () => {
    await run({});
    expect(await readLines('failed.jsonl')).toEqual(
      failedRows.map(({ item, outcome }) => {
        if (outcome?.status !== 'failed') throw new Error('not failed');
        return { id: item.id, uri: item.uri, error: outcome.error, message: outcome.message };
      }),
    );
  });

  test('pairs its files by number where it is cut', async () => {
    await run({ rowsPerFile: 45 });
    expect((await readdir(join(to, 'img_emb'))).sort()).toEqual(['img_emb_0.npy', 'img_emb_1.npy']);
    for (const [index, ok] of [17, 35].entries()) {
      const { header } = await readNpy(`img_emb/img_emb_${index}.npy`);
      expect(header).toContain(`(${ok}, 2048)`);
      const [count] = await query(
        `SELECT count(*)::INT AS rows FROM '${to}/metadata/metadata_${index}.parquet'`,
      );
      expect(count).toEqual({ rows: ok });
    }
    expect(await readLines('failed.jsonl')).toHaveLength(8);
  });

  test('of failed images alone is a list of them', async () => {
    const key = await putPart(90, makeShardRows(3, { isFailed: () => true }), { run: 'all-bad' });
    const manifest = await run({ parts: [asItStands(key)] });
    expect(manifest).toMatchObject({ rows: 3, ok: 0, failed: 3 });
    expect(manifest.files.map((file) => file.name)).toEqual(['failed.jsonl']);
  });
});

describe('jsonl', () => {
  test('has an object for each image, and every float32 survives', async () => {
    const labelNames = Array.from({ length: 1000 }, (_, label) => `class ${label}`);
    await run({ format: 'jsonl', labelNames });
    const objects = await readLines('images-00000.jsonl');
    expect(objects.map((object) => object.id)).toEqual(everyRow.map((row) => row.item.id));
    for (const [row, { item, outcome, embedding, labels, scores }] of everyRow.entries()) {
      const object = objects[row];
      if (outcome?.status === 'failed') {
        const { error, message } = outcome;
        expect(object).toEqual({ id: item.id, uri: item.uri, status: 'failed', error, message });
      } else {
        expect(object).toMatchObject({ id: item.id, uri: item.uri, status: 'ok', labels });
        expect(object.labelNames).toEqual(labels.map((label) => `class ${label}`));
        expect(Float32Array.from(object.scores)).toEqual(scores);
        expect(Float32Array.from(object.embedding)).toEqual(embedding);
      }
    }
  });

  test('leaves names out where they are not known', async () => {
    await run({ format: 'jsonl', parts: parts.slice(0, 1) });
    const [first] = await readLines('images-00000.jsonl');
    expect(Object.keys(first)).toEqual(['id', 'uri', 'status', 'labels', 'scores', 'embedding']);
  });
});

describe('parquet', () => {
  test('has the rows of the parts in their order, failed ones too', async () => {
    const manifest = await run({ format: 'parquet' });
    expect(manifest.files.map((file) => file.name)).toEqual(['images-00000.parquet']);
    const rows = await query(`SELECT id, status, error, len(embedding)::INT AS length, labels
        FROM '${to}/images-00000.parquet'`);
    expect(rows).toEqual(
      everyRow.map(({ item, outcome, labels }) =>
        outcome?.status === 'ok'
          ? { id: item.id, status: 'ok', error: null, length: 2048, labels }
          : {
              id: item.id,
              status: 'failed',
              error: outcome?.status === 'failed' && outcome.error,
              length: null,
              labels: null,
            },
      ),
    );
  });

  test('is cut into files that read as one table, and says which model made it', async () => {
    await run({ format: 'parquet', rowsPerFile: 30 });
    const [sum] = await query(`SELECT count(*)::INT AS rows, count(embedding)::INT AS ok,
        count(DISTINCT filename)::INT AS files FROM read_parquet('${to}/*.parquet', filename = true)`);
    expect(sum).toEqual({ rows: 60, ok: 52, files: 3 });
    const [made] = await query(`SELECT decode(value)::JSON->>'$.model.fingerprint' AS fingerprint
        FROM parquet_kv_metadata('${to}/images-00001.parquet') WHERE key = 'lensmill'`);
    expect(made).toEqual({ fingerprint: 'ab'.repeat(32) });
  });
});

describe.each(exportFormats)('any export (%s)', (format) => {
  test('closes with a manifest of what is there', async () => {
    const manifest = await run({ format });
    expect(JSON.parse(await readFile(join(to, 'export.json'), 'utf8'))).toEqual(manifest);
    expect(manifest).toMatchObject({
      run: 'holiday',
      devices: ['cpu, onnxruntime 1.30.0'],
      model: { untrained: true },
    });
    const sizes = manifest.files.map(async ({ name }) => (await readFile(join(to, name))).length);
    expect(await Promise.all(sizes)).toEqual(manifest.files.map((file) => file.bytes));
    expect(await readdir(to)).not.toContain('.partial');
  });

  test('fails, rather than waits, where a file cannot be written', async () => {
    // Someone takes the folder away while it is being filled.
    const onProgress = () => void rmSync(join(to, '.partial'), { recursive: true });
    await expect(run({ format, rowsPerFile: 1, onProgress })).rejects.toThrow(/ENOENT/);
    expect(await readdir(to)).toEqual([]);
  });

  test('refuses a folder that has something in it, and leaves it alone', async () => {
    await mkdir(to);
    await writeFile(join(to, 'mine.txt'), 'mine');
    await expect(run({ format })).rejects.toMatchObject({ code: 'export-target-not-empty' });
    expect(await readdir(to)).toEqual(['mine.txt']);
  });

  test('says so where its target cannot be a folder', async () => {
    await writeFile(to, 'a file');
    const unwritable = { code: 'export-target-not-writable' };
    await expect(run({ format })).rejects.toMatchObject(unwritable);
    await expect(run({ format, to: join(to, 'below') })).rejects.toMatchObject(unwritable);
  });

  test('leaves nothing behind where a part is gone', async () => {
    await expect(run({ format, parts: [...parts, asItStands('parts/gone.parquet')] })).rejects.toThrow(
      'parts/gone.parquet is gone',
    );
    expect(await readdir(to)).toEqual([]);
  });

  test('stops when told to, and leaves nothing behind', async () => {
    const abort = new AbortController();
    const onProgress = () => abort.abort();
    await expect(run({ format, onProgress, signal: abort.signal })).rejects.toMatchObject({
      name: 'AbortError',
    });
    expect(await readdir(to)).toEqual([]);
  });

  test('takes over from one that was killed', async () => {
    await mkdir(join(to, '.partial', 'img_emb'), { recursive: true });
    await writeFile(join(to, '.partial', 'img_emb', 'img_emb_0.npy'), 'half');
    expect((await run({ format })).rows).toBe(60);
  });

  test('never mixes models', async () => {
    const model = { ...makeProvenance().model, fingerprint: 'cd'.repeat(32) };
    const other = await putPart(91, makeShardRows(2), { model });
    await expect(run({ format, parts: [...parts, asItStands(other)] })).rejects.toThrow(/by model cdcd/);
  });

  test('has each row once where it is cut after every part', async () => {
    const progress: number[] = [];
    const manifest = await run({ format, rowsPerFile: 1, onProgress: ({ rows }) => progress.push(rows) });
    expect(manifest.rows).toBe(60);
    expect(progress).toEqual([20, 50, 60]);
  });
});

test('a run without parts has nothing to export', async () => {
  await expect(run({ parts: [] })).rejects.toMatchObject({ code: 'nothing-to-export' });
});
