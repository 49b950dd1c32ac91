import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readPartFooter } from '../src/parts/footer.ts';
import { encodeParquet, text } from '../src/parts/parquet.ts';
import { encodePart, readPart } from '../src/parts/part.ts';
import type { Store } from '../src/stores/store.ts';
import { makeProvenance, makeShardRows } from './helpers/shard-rows.ts';

const options = { dimension: 2048, topK: 5, embeddingType: 'float32' } as const;
const rows = makeShardRows(40);
const part = encodePart(rows, makeProvenance(), options);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lensmill-part-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A store of one object that tells how many bytes each read asks for. */
function storeOf(object: Uint8Array, onRead: (count: number) => void = () => {}): Pick<Store, 'read'> {
  return {
    async read(_key, { first, count } = { first: 0, count: object.length }) {
      onRead(count);
      return object.subarray(first, first + count);
    },
  };
}

/** What DuckDB answers; PART in the SQL stands for `bytes`. */
async function query(bytes: Uint8Array, sql: string) {
  const path = join(folder, 'part.parquet');
  await writeFile(path, bytes);
  const duckdb = await (await DuckDBInstance.create()).connect();
  try {
    return (await duckdb.runAndReadAll(sql.replaceAll('PART', `'${path}'`))).getRowObjectsJson();
  } finally {
    duckdb.closeSync();
  }
}

test('what was written is read back, row by row', () => {
  const table = readPart(part, 'part');
  expect(table.ids).toEqual(rows.items.map((item) => item.id));
  expect(table.uris).toEqual(rows.items.map((item) => item.uri));
  expect(table.etags).toEqual(rows.items.map((item) => item.etag));
  expect(table.bytes).toEqual(rows.items.map((item) => item.size));
  for (const [row, outcome] of rows.outcomes.entries()) {
    expect(table.statuses[row]).toBe(outcome.status);
    expect(table.sha256s[row]).toBe(outcome.sha256 ?? null);
    expect(table.widths[row]).toBe(outcome.width ?? null);
    expect(table.heights[row]).toBe(outcome.height ?? null);
    expect(table.formats[row]).toBe(outcome.format ?? null);
    expect(table.errors[row]).toBe(outcome.status === 'failed' ? outcome.error : null);
    expect(table.messages[row]).toBe(outcome.status === 'failed' ? outcome.message : null);
    const isOk = outcome.status === 'ok';
    const embedding = rows.embeddings.slice(row * 2048, (row + 1) * 2048);
    expect(table.embeddings.slice(row * 2048, (row + 1) * 2048)).toEqual(
      isOk ? embedding : new Float32Array(2048),
    );
    const scores = rows.scores.slice(row * 5, (row + 1) * 5);
    expect(table.scores.slice(row * 5, (row + 1) * 5)).toEqual(isOk ? scores : new Float32Array(5));
    const labels = rows.labels.slice(row * 5, (row + 1) * 5);
    expect(table.labels.slice(row * 5, (row + 1) * 5)).toEqual(isOk ? labels : new Int32Array(5));
  }
});

test('the same rows make the same bytes, whatever the slots of failed items hold', () => {
  const rubbish = makeShardRows(40);
  rubbish.embeddings.fill(Number.NaN, 3 * 2048, 4 * 2048); // Row 3 failed.
  const again = encodePart(rubbish, structuredClone(makeProvenance()), options);
  expect(Buffer.compare(part, again)).toBe(0);
});

test('provenance given with its keys in another order makes the same bytes', () => {
  const reversed = Object.fromEntries(Object.entries(makeProvenance()).reverse());
  const again = encodePart(rows, makeProvenance(reversed), options);
  expect(Buffer.compare(part, again)).toBe(0);
});

test.each([
  ['only ok rows', () => false, 0],
  ['only failed rows', () => true, 9],
])('a part of %s is a part like any other', (_, isFailed, failed) => {
  const table = readPart(encodePart(makeShardRows(9, { isFailed }), makeProvenance(), options), 'part');
  expect(table.footer).toMatchObject({ rows: 9, ok: 9 - failed, failed });
  expect(table.embeddings.length).toBe(9 * 2048);
  expect(table.embeddings.some((value) => value > 0)).toBe(failed === 0);
});

test('a row of one item is enough', () => {
  const table = readPart(encodePart(makeShardRows(1), makeProvenance(), options), 'part');
  expect(table.embeddings).toEqual(makeShardRows(1).embeddings);
});

test('an item that was never read keeps the size it was listed with', () => {
  const table = readPart(part, 'part');
  expect(table.errors[3]).toBe('not-found');
  expect(table.sha256s[3]).toBeNull();
  expect(table.bytes[3]).toBe(rows.items[3]?.size);
});

describe('the footer', () => {
  test('says how the part was made, over one read of its end', async () => {
    const big = encodePart(makeShardRows(300), makeProvenance({ shard: 42 }), options);
    const reads: number[] = [];
    const store = storeOf(big, (count) => reads.push(count));
    const footer = await readPartFooter(store, 'part', big.length);
    expect(footer).toEqual({
      ...makeProvenance({ shard: 42 }),
      embedding: 'float32',
      rows: 300,
      ok: 257,
      failed: 43,
      gone: 0,
      failures: { 'not-found': 22, truncated: 21 },
      fingerprint: 'ab'.repeat(32),
    });
    expect(reads).toEqual([65_536]);
    expect(readPart(big, 'part').footer).toEqual(footer);
  });

  test('is read in two steps where it is larger than the first read', async () => {
    const source = `s3://bucket/${'deep/'.repeat(20_000)}`;
    const large = encodePart(makeShardRows(1), makeProvenance({ source }), options);
    expect((await readPartFooter(storeOf(large), 'part', large.length)).source).toBe(source);
  });
});

describe('DuckDB', () => {
  test('reads embeddings of 2048 floats, and null for failed rows', async () => {
    const sql = `SELECT status, typeof(embedding) AS type, len(embedding) AS length, count(*)::INT AS rows,
        count(error)::INT AS errors, count(labels)::INT AS labelled FROM PART GROUP BY ALL ORDER BY status`;
    expect(await query(part, sql)).toEqual([
      { status: 'failed', type: 'FLOAT[]', length: null, rows: 6, errors: 6, labelled: 0 },
      { status: 'ok', type: 'FLOAT[]', length: '2048', rows: 34, errors: 0, labelled: 34 },
    ]);
  });

  test('sees the types that were meant', async () => {
    const columns = await query(part, `SELECT column_name, column_type FROM (DESCRIBE FROM PART)`);
    expect(Object.fromEntries(columns.map((row) => [row.column_name, row.column_type]))).toEqual({
      id: 'VARCHAR',
      uri: 'VARCHAR',
      etag: 'VARCHAR',
      sha256: 'VARCHAR',
      bytes: 'BIGINT',
      width: 'INTEGER',
      height: 'INTEGER',
      format: 'VARCHAR',
      status: 'VARCHAR',
      error: 'VARCHAR',
      extra: 'VARCHAR',
      message: 'VARCHAR',
      labels: 'INTEGER[]',
      scores: 'FLOAT[]',
      embedding: 'FLOAT[]',
    });
  });

  test('reads the very numbers', async () => {
    const [row] = await query(part, 'SELECT embedding, labels FROM PART LIMIT 1');
    expect(row?.embedding).toEqual([...rows.embeddings.subarray(0, 2048)]);
    expect(row?.labels).toEqual([...rows.labels.subarray(0, 5)]);
  });

  test('reads the provenance', async () => {
    const sql = `SELECT decode(value)::JSON->>'$.model.fingerprint' AS fingerprint FROM parquet_kv_metadata(PART)
        WHERE key = 'lensmill'`;
    expect(await query(part, sql)).toEqual([{ fingerprint: 'ab'.repeat(32) }]);
  });

  test('sees one row group', async () => {
    const sql =
      'SELECT num_rows::INT AS rows, num_row_groups::INT AS groups FROM parquet_file_metadata(PART)';
    expect(await query(part, sql)).toEqual([{ rows: 40, groups: 1 }]);
  });
});

describe('a float16 part', () => {
  const half = encodePart(rows, makeProvenance(), { ...options, embeddingType: 'float16' });

  test('is half as large, and within half of a unit in the last place', () => {
    expect(half.length).toBeLessThan(part.length * 0.55);
    const { embeddings, footer } = readPart(half, 'part');
    expect(footer.embedding).toBe('float16');
    for (let i = 0; i < 3 * 2048; i++) {
      const exact = rows.embeddings[i] ?? Number.NaN;
      // 11 significant bits: half of 2^-10 relative, and half of 2^-24 where a half is subnormal.
      expect(Math.abs((embeddings[i] ?? Number.NaN) - exact)).toBeLessThanOrEqual(
        Math.max(exact * 2 ** -11, 2 ** -25),
      );
    }
  });

  test('is a list of FLOAT to DuckDB', async () => {
    const sql = `SELECT typeof(embedding) AS type, embedding FROM PART LIMIT 1`;
    const [row] = await query(half, sql);
    expect(row?.type).toBe('FLOAT[]');
    expect(row?.embedding).toEqual([...readPart(half, 'part').embeddings.subarray(0, 2048)]);
  });
});

describe('what is no part is named', () => {
  test('no Parquet at all', () => {
    expect(() => readPart(Buffer.from('PAR1 or not'), 'parts/part-00007.parquet')).toThrow(
      /^parts\/part-00007\.parquet is damaged or no part/,
    );
    expect(() => readPart(new Uint8Array(), 'part')).toThrow(/^part is damaged or no part/);
  });

  test('a part cut short', async () => {
    const short = part.subarray(0, part.length - 100);
    expect(() => readPart(short, 'part')).toThrow(/is damaged or no part/);
    await expect(readPartFooter(storeOf(short), 'part', short.length)).rejects.toThrow(
      /is damaged or no part/,
    );
  });

  test('a Parquet file without its columns', () => {
    const footer = readPart(encodePart(makeShardRows(2), makeProvenance(), options), 'part').footer;
    const bytes = encodeParquet([text('id', ['a', 'b']), text('uri', ['a', 'b'])], footer);
    expect(() => readPart(bytes, 'part')).toThrow(/no column 'etag'/);
  });

  test("a Parquet file of another program's", () => {
    const bytes = encodeParquet([text('id', ['a'])], {});
    expect(() => readPart(bytes, 'part')).toThrow(/lensmill/);
  });

  test('a part whose rows are not as many as it says', () => {
    const footer = readPart(part, 'part').footer;
    const bytes = encodeParquet([text('id', ['a'])], footer);
    expect(() => readPart(bytes, 'part')).toThrow(
      /1 rows, but its metadata says 34 ok \+ 6 failed \+ 0 gone = 40/,
    );
  });

  test('an unreadable store stays its own error', async () => {
    const store = { read: () => Promise.reject(new Error('socket hang up')) };
    await expect(readPartFooter(store, 'part', 1000)).rejects.toThrow(/^socket hang up$/);
  });

  test('a part that is gone', async () => {
    const store = { read: async () => undefined };
    await expect(readPartFooter(store, 'parts/part-00007.parquet', 1000)).rejects.toThrow(
      'parts/part-00007.parquet is gone',
    );
  });
});

test('arrays of the wrong length are a bug, not a part', () => {
  const wrong = { ...rows, embeddings: rows.embeddings.subarray(1) };
  expect(() => encodePart(wrong, makeProvenance(), options)).toThrow(/this is a bug/);
});
