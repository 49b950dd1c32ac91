/** Increments: what a run that goes on from another plans, and what both are together. */
import { copyFileSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import type { FailureCode } from '../src/errors.ts';
import { exportRun } from '../src/export.ts';
import { openPlan } from '../src/page.ts';
import type { Lister } from '../src/plan.ts';
import { failedItems } from '../src/retry.ts';
import type { Run, RunRequest } from '../src/runs/run.ts';
import { openTable, tableParts, tableRows } from '../src/runs/table.ts';
import { type FinishedRun, openView } from '../src/runs/view.ts';
import { changedItems } from '../src/since.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item } from '../src/types.ts';
import { verifyRun } from '../src/verify.ts';
import { lensmill, smallModel } from './helpers/cli.ts';
import { type Ends, embeddingValue, itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

/** What an archive holds: an etag by id. */
type Archive = Record<string, string>;

function itemsIn(archive: Archive): Item[] {
  return itemsOf(Object.keys(archive).toSorted()).map((item) => ({
    ...item,
    etag: archive[item.id] as string,
  }));
}

async function newStore(): Promise<Store> {
  return openStore(tempFolder(), s3Defaults);
}

async function indexAll(store: Store, id: string, archive: Archive, ends: Ends = {}): Promise<FinishedRun> {
  return makeFinishedRun(store, id, { ends, lister: listerOf(itemsIn(archive)) });
}

async function indexSince(
  store: Store,
  id: string,
  since: string,
  archive: Archive,
  { ends = {}, request = {} }: { ends?: Ends; request?: Partial<RunRequest> } = {},
): Promise<FinishedRun> {
  const table = await openTable(store, since);
  const asked = makeRequest(id, { ...request, since });
  const lister: Lister = changedItems(
    listerOf(itemsIn(archive)),
    (after) => tableRows(store, table, after),
    asked,
  );
  return makeFinishedRun(store, id, { ends, lister, request: { ...request, since }, rowsBefore: table.rows });
}

async function planOf(store: Store, { run }: FinishedRun): Promise<Item[]> {
  const readItems = openPlan(store);
  const shards = await Promise.all(Array.from({ length: run.shards }, (_, shard) => readItems(run, shard)));
  return shards.flat();
}

/** The run that made each row that counts. */
async function rowsOf(store: Store, id: string): Promise<Record<string, string>> {
  const rows = await Array.fromAsync(tableRows(store, await openTable(store, id)));
  return Object.fromEntries(rows.map((row) => [row.id, row.run.run]));
}

test('a second run has items only for what is new, changed or gone', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '1', b: '1', c: '1', d: '1', e: '1' });
  const second = await indexSince(store, 'r2', 'r1', { a: '1', aa: '1', c: '2', d: '1', f: '1' });
  const planned = (await planOf(store, second)).map(({ id, gone, replaces }) => [
    id,
    gone ? 'gone' : replaces ? 'changed' : 'new',
  ]);
  expect(planned).toEqual([
    ['aa', 'new'],
    ['b', 'gone'],
    ['c', 'changed'],
    ['e', 'gone'],
    ['f', 'new'],
  ]);
  expect(second.run).toMatchObject({ items: 5, replaced: 3, gone: 2, kept: 2 });
  expect(second.success).toMatchObject({ items: 5, ok: 3, failed: 0, gone: 2 });
  expect(await rowsOf(store, 'r2')).toEqual({ a: 'r1', aa: 'r2', c: 'r2', d: 'r1', f: 'r2' });
  expect((await openTable(store, 'r2')).rows).toBe(5);
  expect((await verifyRun(store, second.run, second.success)).problems).toEqual([]);
});

test('an unchanged archive gives a finished run without a shard, and keeps every row', async () => {
  const store = await newStore();
  const archive = { a: '1', b: '1' };
  await indexAll(store, 'r1', archive);
  const { run, success } = await indexSince(store, 'r2', 'r1', archive);
  expect(run).toMatchObject({ items: 0, shards: 0, pages: 0, kept: 2 });
  expect((await verifyRun(store, run, success)).problems).toEqual([]);
  expect(await rowsOf(store, 'r2')).toEqual({ a: 'r1', b: 'r1' });
});

test('verify finds an increment whose base is not what it was planned on', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '1', b: '1', c: '1' });
  const { run, success } = await indexSince(store, 'r2', 'r1', { a: '1', b: '2', d: '1' });
  const problemsOf = async (changes: Partial<Run>) =>
    (await verifyRun(store, { ...run, ...changes }, success)).problems;
  expect(await problemsOf({})).toEqual([]);
  await indexAll(store, 'other', { a: '1', d: '1' });
  expect((await problemsOf({ since: 'other' })).join('\n')).toMatch(
    /b has no row in run other.*d has a row in run other/s,
  );
  expect((await problemsOf({ kept: 7 })).join('\n')).toMatch(/keeps 7 rows, run r1 has 1 left/);
});

test('what failed for what is in its bytes is kept; what failed otherwise is done again', async () => {
  const store = await newStore();
  const codes: FailureCode[] = [
    'access-denied', 'changed', 'corrupt', 'crashed-worker', 'empty', 'encrypted', 'not-found', 'read-failed', 'timeout',
    'too-many-bytes', 'too-many-pixels', 'truncated', 'unsupported-format',
  ]; // biome-ignore format: a table
  const archive = Object.fromEntries(codes.map((code) => [code, '1']));
  await indexAll(store, 'r1', archive, Object.fromEntries(codes.map((code) => [code, code])));
  const again = ['access-denied', 'changed', 'crashed-worker', 'not-found', 'read-failed', 'timeout'];
  const second = await indexSince(store, 'r2', 'r1', archive);
  expect((await planOf(store, second)).map(({ id }) => id)).toEqual(again);
  const request = { maxBytes: 2_000_000 };
  const third = await indexSince(store, 'r3', 'r2', archive, { request });
  expect((await planOf(store, third)).map(({ id }) => id)).toEqual(['too-many-bytes']);
});

test('a changed image that failed in an increment can be done again', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '1', b: '1' });
  await indexSince(store, 'r2', 'r1', { a: '1', b: '2' }, { ends: { b: 'timeout' } });
  const view = await openView(store, 'r2');
  const lister = failedItems(store, view, {});
  await makeFinishedRun(store, 'r2.retry-1', { ends: {}, lister, request: { retryOf: 'r2' } });
  expect(await rowsOf(store, 'r2')).toEqual({ a: 'r1', b: 'r2.retry-1' });
});

test('an item whose version nobody knows is read again', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '', b: '1' });
  expect(
    (await planOf(store, await indexSince(store, 'r2', 'r1', { a: '', b: '1' }))).map(({ id }) => id),
  ).toEqual(['a']);
});

test('a source that has become empty deletes no rows', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '1' });
  await expect(indexSince(store, 'r2', 'r1', {})).rejects.toMatchObject({ code: 'empty-source' });
});

test('a retry counts in the run that it mends, and the run after goes on from it', async () => {
  const store = await newStore();
  await indexAll(store, 'r1', { a: '1', b: '1', c: '1' }, { a: 'timeout', b: 'timeout' });
  await makeFinishedRun(store, 'r1.retry-1', {
    ends: { a: 'ok', b: 'timeout' },
    lister: listerOf(itemsIn({ a: '1', b: '1' })),
    request: { retryOf: 'r1' },
  });
  const second = await indexSince(store, 'r2', 'r1', { a: '1', b: '1', c: '1' });
  expect((await planOf(store, second)).map(({ id }) => id)).toEqual(['b']);
  expect(await rowsOf(store, 'r2')).toEqual({ a: 'r1.retry-1', b: 'r2', c: 'r1' });
});

test('a run after one that is not finished is refused', async () => {
  const store = await newStore();
  await expect(openTable(store, 'r1')).rejects.toMatchObject({ code: 'no-run' });
});

test('an export of the last run is the whole archive as it is, an image once', async () => {
  const store = await newStore();
  const ids = Array.from({ length: 20 }, (_, at) => `i${String(at).padStart(2, '0')}`);
  await indexAll(store, 'r1', Object.fromEntries(ids.map((id) => [id, '1'])), { i03: 'timeout' });
  const changed = Object.fromEntries(ids.slice(4).map((id, at) => [id, at % 5 === 0 ? '2' : '1']));
  await indexSince(store, 'r2', 'r1', { ...changed, i99: '1' });
  const to = join(tempFolder(), 'to');
  const manifest = await exportRun({
    store,
    run: 'r2',
    parts: tableParts(store, await openTable(store, 'r2')),
    to,
    format: 'jsonl',
    rowsPerFile: 1000,
  });
  expect(manifest).toMatchObject({ run: 'r2', rows: 17, ok: 17, failed: 0, runs: ['r1', 'r2'] });
  const lines = readFileSync(join(to, 'images-00000.jsonl'), 'utf8').trimEnd().split('\n');
  const rows: { id: string; embedding: number[] }[] = lines.map((line) => JSON.parse(line));
  expect(rows.map(({ id }) => id).toSorted()).toEqual([...ids.slice(4), 'i99']);
  for (const { id, embedding } of rows) {
    const run = id === 'i99' || changed[id] === '2' ? 'r2' : 'r1';
    expect({ id, value: embedding[7] }).toEqual({ id, value: embeddingValue(run, id) });
  }
});

test('whatever an archive becomes, run after run, the table is the archive', async () => {
  const ids = ['a', 'a/b', 'a0', 'b', 'c', 'd!e', 'ü', '😀'];
  const archives = fc.array(
    fc.dictionary(fc.constantFrom(...ids), fc.constantFrom('1', '2'), { minKeys: 1 }),
    { minLength: 2, maxLength: 4 },
  );
  await fc.assert(
    fc.asyncProperty(archives, async (versions) => {
      const store = await newStore();
      const madeBy: Record<string, string> = {};
      for (const [at, archive] of versions.entries()) {
        const made =
          at === 0
            ? await indexAll(store, 'r0', archive)
            : await indexSince(store, `r${at}`, `r${at - 1}`, archive);
        for (const { id, gone } of await planOf(store, made)) {
          if (gone) delete madeBy[id];
          else madeBy[id] = `r${at}`;
        }
        const rows = await Array.fromAsync(tableRows(store, await openTable(store, `r${at}`)));
        expect(Object.fromEntries(rows.map(({ id, etag }) => [id, etag]))).toEqual({ ...archive });
        expect(Object.fromEntries(rows.map(({ id, run }) => [id, run.run]))).toEqual(madeBy);
      }
    }),
    { numRuns: 25 },
  );
});

describe('lensmill index --since', () => {
  const folder = tempFolder();
  const output = tempFolder();
  const small = ['--output', output, '--model', smallModel, '--shard-size', '4', '--json'];
  const index = async (...flags: string[]) => {
    const { exitCode, stdout, stderr } = await lensmill(['index', folder, ...small, ...flags]);
    return { exitCode, stderr, result: stdout === '' ? {} : JSON.parse(stdout) };
  };
  const paint = (shade: number) =>
    sharp({ create: { width: 60, height: 40, channels: 3, background: { r: shade, g: 255 - shade, b: 30 } } })
      .jpeg()
      .toBuffer();

  test('does what changed, takes known bytes from where they are, and is exported whole', async () => {
    for (const [at, name] of ['a', 'b', 'c', 'd', 'e', 'f'].entries())
      writeFileSync(join(folder, `${name}.jpg`), await paint(at * 20));
    copyFileSync(join(folder, 'a.jpg'), join(folder, 'a-again.jpg'));
    const first = await index('--since', 'latest', '--run', 'r1');
    expect(first.result).toMatchObject({ items: 7, ok: 7, failed: 0, reused: 1 });

    renameSync(join(folder, 'b.jpg'), join(folder, 'moved.jpg'));
    rmSync(join(folder, 'c.jpg'));
    writeFileSync(join(folder, 'd.jpg'), await paint(111));
    const second = await index('--since', 'latest', '--run', 'r2');
    expect(second.exitCode).toBe(0);
    expect(second.result).toMatchObject({
      since: 'r1',
      new: 1,
      changed: 1,
      gone: 2,
      kept: 4,
      ok: 2,
      reused: 1,
    });
    const third = await index('--since', 'r2', '--run', 'r3');
    expect(third.result).toMatchObject({ since: 'r2', new: 0, changed: 0, gone: 0, kept: 6, items: 0 });
    for (const run of ['r2', 'r3']) {
      const { exitCode, stdout } = await lensmill(['verify', run, '--output', output, '--deep', '10']);
      expect({ run, exitCode, stdout }).toMatchObject({ run, exitCode: 0 });
    }

    const to = join(tempFolder(), 'to');
    const exported = await lensmill([
      'export',
      output,
      '--run',
      'r3',
      '--to',
      to,
      '--format',
      'jsonl',
      '--json',
    ]);
    expect(JSON.parse(exported.stdout)).toMatchObject({ rows: 6, ok: 6, runs: ['r1', 'r2'] });
    const lines = readFileSync(join(to, 'images-00000.jsonl'), 'utf8').trimEnd().split('\n');
    const rows = new Map(lines.map((line) => JSON.parse(line)).map((row) => [row.id, row.embedding]));
    expect([...rows.keys()].toSorted()).toEqual([
      'a-again.jpg',
      'a.jpg',
      'd.jpg',
      'e.jpg',
      'f.jpg',
      'moved.jpg',
    ]);
    expect(rows.get('a.jpg')).toEqual(rows.get('a-again.jpg'));
    expect(rows.get('a.jpg')).not.toEqual(rows.get('e.jpg'));
  });

  test('goes on only from a finished run of the same source and model', async () => {
    const wrong = [
      [['--since', 'nobody'], 'no run nobody'],
      [['--since', 'r1', '--top-k', '3'], 'leave out --since'],
      [['--since', 'r1', '--model', 'random:9:1-1-1-1'], 'leave out --since'],
    ] as const;
    for (const [flags, message] of wrong) {
      const { exitCode, stderr } = await index(...flags);
      expect({ flags, exitCode }).toEqual({ flags, exitCode: 2 });
      expect(stderr).toContain(message);
    }
  });
});
