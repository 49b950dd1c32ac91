/** What an index holds, whatever happened to its output and to its builders. */
import { execa } from 'execa';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { FailureCode } from '../src/errors.ts';
import { retryId } from '../src/layout.ts';
import type { Lister } from '../src/plan.ts';
import { failedItems } from '../src/retry.ts';
import { openTable, tableRows } from '../src/runs/table.ts';
import { openView } from '../src/runs/view.ts';
import { buildIndex } from '../src/search/build.ts';
import { ImageTable } from '../src/search/lance.ts';
import { takeLease } from '../src/search/lease.ts';
import { openIndex } from '../src/search/open-index.ts';
import { createRecord, findRecord, listIndexes } from '../src/search/record.ts';
import { tableLayout } from '../src/search/search-index.ts';
import { changedItems } from '../src/since.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { dyingBuilder, dyingLease, moments } from './helpers/dying-builder.ts';
import { type Ends, itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { makeBucket, testEndpoint, testS3Options } from './helpers/s3.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { syntheticModel } from './helpers/synthetic-index.ts';
import { tempFolder } from './helpers/temp.ts';

const s3 = testS3Options();
const model = syntheticModel(16);
const { fingerprint } = model;

async function newStore(): Promise<Store> {
  const store = openStore(tempFolder(), s3);
  await store.probe();
  return store;
}

const claimedAt = (n: number): string => new Date(Date.UTC(2026, 0, 1, 0, n)).toISOString();

/** The run that made each image's row, by id. */
async function indexedRuns(store: Store): Promise<Record<string, string>> {
  const index = await openIndex(store, { s3 });
  try {
    const found: [string, string][] = [];
    for await (const { images } of index.scan()) for (const { id, run } of images) found.push([id, run]);
    expect(found.length).toBe(index.record.images);
    return Object.fromEntries(found.toSorted());
  } finally {
    await index.close();
  }
}

async function tableRuns(store: Store, last: string): Promise<Record<string, string>> {
  const rows = await Array.fromAsync(tableRows(store, await openTable(store, last)));
  const ok = rows.filter(({ error }) => error === null).map(({ id, run }) => [id, run.run] as const);
  return Object.fromEntries(ok.toSorted());
}

const allOf = (ids: string, end: 'ok' | FailureCode = 'ok'): Ends =>
  Object.fromEntries([...ids].map((id) => [id, end]));

test('an index holds the ok rows of the table, whatever increments and retries there were', async () => {
  const ids = ['a', 'a/b', 'a0', 'b', "c'", 'd', 'ü', '😀'];
  const archive = fc.dictionary(fc.constantFrom(...ids), fc.constantFrom('1', '2'), { minKeys: 1 });
  const end = fc.constantFrom('ok', 'ok', 'corrupt', 'timeout');
  const ends = fc.record(Object.fromEntries(ids.map((id) => [id, end])));
  // Whether the archive is where it was: items keep their ids when it moves.
  const increment = fc.record({ archive, ends, moved: fc.boolean(), indexed: fc.boolean() });
  const retry = fc.record({ mends: fc.nat(), ends, indexed: fc.boolean() });
  const history = fc.tuple(increment, fc.array(fc.oneof(increment, retry), { maxLength: 5 }));

  await fc.assert(
    fc.asyncProperty(history, async ([first, rest]) => {
      const store = await newStore();
      const runs: string[] = [];
      const retries = new Map<string, number>();
      for (const [at, step] of [first, ...rest].entries()) {
        const request = { model, createdAt: claimedAt(at) };
        const stepEnds = step.ends as Ends; // of the values above
        if ('archive' in step) {
          const root = step.moved ? 'elsewhere' : 'nowhere';
          const lister = listerOf(
            itemsOf(Object.keys(step.archive).toSorted()).map((item) => ({
              ...item,
              etag: step.archive[item.id] as string,
              uri: `file:///${root}/${item.id}`,
            })),
          );
          const since = runs.at(-1) ?? null;
          await makeFinishedRun(store, `r${at}`, {
            ends: stepEnds,
            request: { ...request, since },
            ...(since === null ? { lister } : await incrementOf(store, since, lister)),
          });
          runs.push(`r${at}`);
        } else {
          const mended = runs[step.mends % runs.length] as string;
          const view = await openView(store, mended);
          if (view.failed === 0) continue;
          const n = (retries.get(mended) ?? 0) + 1;
          retries.set(mended, n);
          await makeFinishedRun(store, retryId(mended, n), {
            ends: stepEnds,
            request: { ...request, retryOf: mended },
            lister: failedItems(store, view, {}),
          });
        }
        if (step.indexed) await buildIndex(store, { fingerprint, s3 });
      }
      await buildIndex(store, { fingerprint, s3 });
      expect(await indexedRuns(store)).toEqual(await tableRuns(store, runs.at(-1) as string));
    }),
    { numRuns: 12 },
  );
});

async function incrementOf(store: Store, since: string, lister: Lister) {
  const table = await openTable(store, since);
  const rowsBehind = (after?: string) => tableRows(store, table, after);
  return { lister: changedItems(lister, rowsBehind, makeRequest('any')), rowsBefore: table.rows };
}

test('runs of the same images count in the order of their claims, whichever is finished first', async () => {
  const store = await newStore();
  const make = (id: string, minute: number, ends: Ends) =>
    makeFinishedRun(store, id, { ends, request: { model, createdAt: claimedAt(minute) } });
  await make('first', 1, allOf('abc'));
  await make('third', 3, { a: 'ok', c: 'corrupt' });
  expect((await buildIndex(store, { fingerprint, s3 })).how).toBe('built');
  await make('second', 2, allOf('abcd'));
  const { how, record } = await buildIndex(store, { fingerprint, s3 });
  expect([how, record.runs]).toEqual(['extended', ['first', 'second', 'third']]);
  expect(await indexedRuns(store)).toEqual({ a: 'third', b: 'second', d: 'second' });
  await make('zeroth', 0, allOf('e'));
  expect((await buildIndex(store, { fingerprint, s3 })).how).toBe('rebuilt');
  expect(await indexedRuns(store)).toEqual({ a: 'third', b: 'second', d: 'second', e: 'zeroth' });
  expect((await buildIndex(store, { fingerprint, s3, rebuild: true })).record.generation).toBe(4);
  expect(await indexedRuns(store)).toEqual({ a: 'third', b: 'second', d: 'second', e: 'zeroth' });
});

test('runs of two models have an index each, and one is chosen', async () => {
  const store = await newStore();
  const other = syntheticModel(24);
  await makeFinishedRun(store, 'one', { ends: allOf('ab'), request: { model } });
  await expect(openIndex(store, { s3 })).rejects.toMatchObject({ code: 'no-index' });
  await makeFinishedRun(store, 'two', { ends: allOf('abc'), request: { model: other } });
  for (const { fingerprint } of [model, other]) await buildIndex(store, { fingerprint, s3 });
  expect((await listIndexes(store)).map(({ images }) => images).toSorted()).toEqual([2, 3]);
  await expect(openIndex(store, { s3 })).rejects.toMatchObject({ code: 'which-index' });
  for (const choice of [{ run: 'two' }, { fingerprint: other.fingerprint.slice(0, 8) }]) {
    const index = await openIndex(store, { s3, ...choice });
    expect(index.record.images).toBe(3);
    await index.close();
  }
  await expect(buildIndex(store, { fingerprint: 'f'.repeat(64), s3 })).rejects.toMatchObject({
    code: 'no-run',
  });
});

test('a table that another version laid out is not read, and built anew where that version is older', async () => {
  const store = await newStore();
  await makeFinishedRun(store, 'r', { ends: allOf('abc'), request: { model } });
  const { record } = await buildIndex(store, { fingerprint, s3 });
  const make = (generation: number, v: number) => createRecord(store, { ...record, generation, v });
  await make(2, tableLayout - 1);
  await expect(openIndex(store, { s3 })).rejects.toMatchObject({
    code: 'other-version',
    message: expect.stringContaining('lensmill build-index'),
  });
  const built = await buildIndex(store, { fingerprint, s3 });
  expect(built).toMatchObject({ how: 'rebuilt', record: { generation: 3, images: 3 } });
  await make(4, tableLayout + 1);
  await expect(openIndex(store, { s3 })).rejects.toMatchObject({ code: 'other-version' });
  await expect(buildIndex(store, { fingerprint, s3 })).rejects.toMatchObject({ code: 'other-version' });
  expect((await buildIndex(store, { fingerprint, s3, rebuild: true })).record.generation).toBe(5);
});

describe.each(['file', 's3'] as const)('on %s', (kind) => {
  const makeStore = async (): Promise<Store> => {
    const store = kind === 'file' ? await newStore() : openStore(`s3://${await makeBucket()}/out`, s3);
    await store.probe();
    return store;
  };
  const make = (store: Store, id: string, ends: Ends) =>
    makeFinishedRun(store, id, { ends, request: { model, createdAt: claimedAt(id.length) } });

  test('a build that ends early is not seen, and the next one begins where the last whole one ended', async () => {
    const store = await makeStore();
    await make(store, 'r', allOf('ab'));
    await buildIndex(store, { fingerprint, s3 });
    await make(store, 'rr', allOf('bcdefghij'));
    const stopped = new AbortController();
    const onProgress = ({ done }: { done: number }): void => {
      if (done > 0) stopped.abort(new Error('stopped'));
    };
    await expect(buildIndex(store, { fingerprint, s3, signal: stopped.signal, onProgress })).rejects.toThrow(
      'stopped',
    );
    const table = await ImageTable.openLatest({ output: store.uri, fingerprint, s3 });
    expect(await table?.count()).toBe(10);
    table?.close();
    expect(await indexedRuns(store)).toEqual({ a: 'r', b: 'r' });
    const { record } = await buildIndex(store, { fingerprint, s3 });
    expect([record.generation, record.images]).toEqual([2, 10]);
    expect(await indexedRuns(store)).toMatchObject({ a: 'r', b: 'rr', j: 'rr' });
  });

  test.each(moments)('of a build that is killed with the %s, nothing or all is seen', async (moment) => {
    const store = await makeStore();
    await make(store, 'r', allOf('ab'));
    await buildIndex(store, { fingerprint, s3 });
    await make(store, 'rr', allOf('bcdefghij'));
    const env = { AWS_ENDPOINT_URL_S3: testEndpoint() };
    const builder = [dyingBuilder, store.uri, fingerprint, moment];
    const { signal } = await execa(process.execPath, builder, { env, reject: false });
    expect(signal).toBe('SIGKILL');
    const whole = { a: 'r', b: 'rr', j: 'rr' };
    const isVisible = moment === 'record made';
    expect(await indexedRuns(store)).toMatchObject(isVisible ? whole : { a: 'r', b: 'r' });
    const { record, changed } = await eventually(() =>
      buildIndex(store, { fingerprint, s3, lease: dyingLease }),
    );
    expect([record.generation, record.images, changed]).toEqual([2, 10, !isVisible]);
    expect(await indexedRuns(store)).toMatchObject(whole);
  });

  test('of two builders at once one builds, and the other is told who', async () => {
    const store = await makeStore();
    await make(store, 'r', allOf('ab'));
    const ends = await Promise.allSettled([1, 2, 3].map(() => buildIndex(store, { fingerprint, s3 })));
    const refused = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []));
    // One that came when another was done has nothing to do.
    expect(ends.some((end) => end.status === 'fulfilled' && end.value.changed)).toBe(true);
    for (const reason of refused)
      expect(reason).toMatchObject({ code: 'index-busy', message: expect.stringContaining('process') });
    expect(await findRecord(store, fingerprint)).toMatchObject({ generation: 1, images: 2 });
  });
});

test('a lease that its holder does not renew can be taken once it is over, and is then lost to it', async () => {
  const store = await newStore();
  const isFrozen = { now: false };
  const frozen = wrapStore(store, {
    create: (key, body) => (isFrozen.now ? new Promise(() => {}) : store.create(key, body)),
  });
  const first = await takeLease(frozen, fingerprint, { heldMs: 300, marginMs: 100 });
  isFrozen.now = true;
  await expect(takeLease(store, fingerprint, { marginMs: 100 })).rejects.toMatchObject({
    code: 'index-busy',
  });
  await new Promise((resolve) => first.lost.addEventListener('abort', resolve));
  expect(() => first.check()).toThrow('lost');
  const second = await eventually(() => takeLease(store, fingerprint, { marginMs: 100 }));
  second.check();
  await second.release();
  await second.release();
  const third = await takeLease(store, fingerprint);
  await third.release();
});

test('a lease goes on for as long as it is held', async () => {
  const store = await newStore();
  const lease = await takeLease(store, fingerprint, { heldMs: 300, marginMs: 0 });
  const before = (await Array.fromAsync(store.list('index/'))).length;
  await eventually(async () => {
    if ((await Array.fromAsync(store.list('index/'))).length < before + 4) throw new Error('not yet');
  });
  lease.check();
  await expect(takeLease(store, fingerprint, { marginMs: 0 })).rejects.toMatchObject({ code: 'index-busy' });
  await lease.release();
});

test('a table that somebody else writes to makes no generation', async () => {
  const store = await newStore();
  await makeFinishedRun(store, 'r', { ends: allOf('abcdefgh'), request: { model } });
  await buildIndex(store, { fingerprint, s3 });
  await makeFinishedRun(store, 'rr', { ends: allOf('hijk'), request: { model, createdAt: claimedAt(5) } });
  const intruder = await ImageTable.openLatest({ output: store.uri, fingerprint, s3 });
  const wrapped = wrapStore(store, {
    read: async (key, range) => {
      const bytes = await store.read(key, range);
      // The parts are read when the builder has its table.
      if (key.includes('/rr/parts/')) await intruder?.remove("id = 'a'");
      return bytes;
    },
  });
  await expect(buildIndex(wrapped, { fingerprint, s3 })).rejects.toThrow('another process wrote');
  intruder?.close();
  expect(Object.keys(await indexedRuns(store))).toHaveLength(8);
  await buildIndex(store, { fingerprint, s3 });
  expect(Object.keys(await indexedRuns(store))).toHaveLength(11);
});

async function eventually<T>(act: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await act();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
