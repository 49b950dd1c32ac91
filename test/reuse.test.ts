/** The same bytes go to the device once, and no row is lost over it. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { rmSync, truncateSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep, setImmediate as tick } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { type BatchStages, openBatcher } from '../src/batch.ts';
import { partKey } from '../src/layout.ts';
import { encodeItems } from '../src/page.ts';
import { openReuse, type Reuse } from '../src/reuse.ts';
import type { Run, RunRequest } from '../src/runs/run.ts';
import { makeSeenTable, openSeenTable } from '../src/seen.ts';
import { openSheets, readSheet, type Sheet } from '../src/sheet.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item, KnownRow } from '../src/types.ts';
import type { LaneOptions, LaneReply, LaneRequest } from '../workers/lane.ts';
import { openThread } from '../workers/thread.ts';
import { moduleUrl } from './helpers/child.ts';
import { type Ends, embeddingValue, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { entriesOf, putValues, type SlotEntry, type Told, tellOutcomes } from './helpers/slot-entries.ts';
import { sourceDefaults } from './helpers/source-options.ts';
import { tempFolder } from './helpers/temp.ts';

const sha256Of = (content: string | number): string =>
  createHash('sha256').update(String(content)).digest('hex');

describe('the table of bytes met', () => {
  test('of two threads that meet the same bytes, one has them to do', async () => {
    const table = makeSeenTable(20_000);
    const claimAll = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { createHash } = require('node:crypto');
      import(workerData.module).then(({ openSeenTable }) => {
        const seen = openSeenTable(workerData.table);
        const hashes = Array.from({ length: 20_000 }, (_, n) => createHash('sha256').update(String(n)).digest('hex'));
        parentPort.postMessage('ready');
        parentPort.once('message', () => parentPort.postMessage(hashes.map((hash) => seen.claim(hash))));
      });`;
    const threads = [1, 2].map(
      () => new Worker(claimAll, { eval: true, workerData: { table, module: moduleUrl('src/seen.ts') } }),
    );
    await Promise.all(threads.map((thread) => once(thread, 'message')));
    for (const thread of threads) thread.postMessage('go');
    const [one, other] = (await Promise.all(
      threads.map(async (thread) => (await once(thread, 'message'))[0]),
    )) as {
      place: number;
      isNew: boolean;
    }[][];
    await Promise.all(threads.map((thread) => thread.terminate()));
    const placesOf = (claims: typeof one = []): number[] => claims.map(({ place }) => place);
    expect(placesOf(one)).toEqual(placesOf(other));
    expect(new Set(placesOf(one)).size).toBe(20_000);
    expect(one?.filter(({ isNew }, at) => isNew === other?.[at]?.isNew)).toEqual([]);
  });

  test('where its places are taken, bytes count as new and have no place', () => {
    const seen = openSeenTable(makeSeenTable(1000));
    const hashOf = (n: number): string => `${String(n).padStart(16, '0')}${'0'.repeat(48)}`;
    const claims = Array.from({ length: 34 }, (_, n) => seen.claim(hashOf(n + 1)));
    expect(claims.map((claim) => claim?.place)).toEqual([...Array(32).keys(), undefined, undefined]);
    expect(seen.claim(hashOf(5))).toEqual({ place: 4, isNew: false });
  });
});

describe('what finished runs know', () => {
  const newStore = async (folder = tempFolder()): Promise<Store> => {
    const store = openStore(folder, s3Defaults);
    await store.probe();
    return store;
  };

  /** Opens the memory of a run as `finished` was but for `changes`, and asks it for images by id. */
  async function remembering(store: Store, changes: Partial<Run> = {}) {
    const run: Run = {
      ...makeRequest('new', changes),
      ...{ pages: 0, shards: 0, items: 0, bytes: 0, skipped: 0, replaced: 0, gone: 0, kept: 0 },
      ...changes,
    };
    const notices: string[] = [];
    const reuse = await openReuse(store, run, { onNotice: (notice) => notices.push(notice) });
    const ask = (id: string): Promise<KnownRow | undefined> => askFor(reuse, sha256Of(id));
    return { reuse, notices, ask };
  }

  async function askFor(reuse: Reuse, sha256: string): Promise<KnownRow | undefined> {
    const claim = openSeenTable(reuse.seen).claim(sha256);
    return claim && !claim.isNew ? reuse.recall(claim.place, sha256) : undefined;
  }

  const finished = (store: Store, id: string, ends: Ends, request: Partial<RunRequest> = {}) =>
    makeFinishedRun(store, id, { ends, request });

  test('a row of the newest run of the same kind is taken as it is', async () => {
    const store = await newStore();
    await finished(store, 'r1', { a: 'ok', b: 'ok' });
    await finished(store, 'r2', { a: 'ok' }, { createdAt: '2026-02-01T00:00:00.000Z' });
    const { ask, notices } = await remembering(store);
    const row = await ask('a');
    expect(row?.outcome).toEqual({
      ...{ status: 'ok', sha256: sha256Of('a'), bytes: 1000, width: 10, height: 20, format: 'jpeg' },
    });
    expect(row?.embedding).toEqual(new Float32Array(2048).fill(embeddingValue('r2', 'a')));
    expect(row).toMatchObject({ device: 'cpu', labels: new Int32Array(5).fill(7) });
    expect((await ask('b'))?.embedding[0]).toBe(embeddingValue('r1', 'b'));
    expect(await ask('c')).toBeUndefined();
    expect(notices).toEqual([]);
  });

  test('a failed row is not taken', async () => {
    const store = await newStore();
    await finished(store, 'r1', { a: 'truncated' });
    expect(await (await remembering(store)).ask('a')).toBeUndefined();
  });

  const otherModel = { ...makeRequest('any').model, fingerprint: 'f'.repeat(64) };
  test.each<[string, Partial<RunRequest>]>([
    ['another model', { model: otherModel }],
    ['other top-k', { topK: 3 }],
    ['float16', { embedding: 'float16' }],
    ['another limit of pixels', { maxPixels: 2_000_000 }],
  ])('a run with %s is not asked', async (_, request) => {
    const store = await newStore();
    await finished(store, 'r1', { a: 'ok' }, request);
    expect(await (await remembering(store)).ask('a')).toBeUndefined();
    expect(await (await remembering(store, request)).ask('a')).toBeDefined();
  });

  test('halves are taken by a run of halves', async () => {
    const store = await newStore();
    await finished(store, 'r1', { a: 'ok' }, { embedding: 'float16' });
    const { ask } = await remembering(store, { embedding: 'float16' });
    expect((await ask('a'))?.embedding[9]).toBe(embeddingValue('r1', 'a'));
  });

  test('bytes whose hash is alike only in the part that the table holds are not taken for those', async () => {
    const store = await newStore();
    await finished(store, 'r1', { a: 'ok' });
    const { reuse } = await remembering(store);
    const alike = `${sha256Of('a').slice(0, 32)}${'0'.repeat(32)}`;
    expect(openSeenTable(reuse.seen).claim(alike)).toMatchObject({ isNew: false });
    expect(await askFor(reuse, alike)).toBeUndefined();
  });

  test('a damaged part costs a notice and its own rows', async () => {
    const folder = tempFolder();
    await finished(await newStore(folder), 'r1', { a: 'ok', b: 'ok', c: 'ok', d: 'ok', e: 'ok' });
    truncateSync(join(folder, partKey('r1', 0)), 100);
    const { ask, notices } = await remembering(await newStore(folder));
    expect([await ask('a'), await ask('d')]).toEqual([undefined, undefined]);
    expect((await ask('e'))?.embedding[0]).toBe(embeddingValue('r1', 'e'));
    expect(notices).toMatchObject([expect.stringContaining(partKey('r1', 0))]);
  });

  test('a part that is deleted while a worker runs costs one notice, however many ask for it', async () => {
    const folder = tempFolder();
    await finished(await newStore(folder), 'r1', { a: 'ok', b: 'ok', c: 'ok' });
    const { ask, notices } = await remembering(await newStore(folder));
    rmSync(join(folder, partKey('r1', 0)));
    expect(await Promise.all(['a', 'b', 'c'].map(ask))).toEqual([undefined, undefined, undefined]);
    expect(notices).toMatchObject([expect.stringContaining('is gone')]);
  });

  test('what memory no longer holds is read from the part that a worker committed', async () => {
    const store = await newStore();
    const { run } = await finished(store, 'r1', { a: 'ok' }, { topK: 1 });
    // As `run` itself: its own parts are not read at the start.
    const { reuse } = await remembering(store, { ...run, items: 5000 });
    const seen = openSeenTable(reuse.seen);
    const placeOf = (id: string | number): number => seen.claim(sha256Of(id))?.place as number;
    const ids = ['often', 'a', ...Array(4095).keys()];
    const sheet = openSheets({ dimension: 1, topK: 1 }).take(encodeItems(itemsOf(ids.map(() => 0))));
    for (const [row, id] of ids.entries()) {
      sheet.putOk(row, { sha256: sha256Of(id), bytes: 1, width: 1, height: 1, format: 'png' });
      reuse.remember(placeOf(id), { sheet, row, device: 'cpu' });
      // As of a row that repeats it.
      reuse.remember(placeOf('often'), { sheet, row: 0, device: 'cpu' });
    }
    expect(await reuse.recall(placeOf('often'), sha256Of('often'))).toMatchObject({ device: 'cpu' });
    expect(await reuse.recall(placeOf('a'), sha256Of('a'))).toBeUndefined();
    reuse.addPart(partKey('r1', 0), Int32Array.of(placeOf('a')));
    expect((await reuse.recall(placeOf('a'), sha256Of('a')))?.embedding[0]).toBe(embeddingValue('r1', 'a'));
  });

  test('what stood in a sheet whose memory is used again is not remembered', async () => {
    const { reuse } = await remembering(await newStore());
    const sheets = openSheets({ dimension: 1, topK: 1 });
    const lines = encodeItems(itemsOf(Array(2048).fill(0)));
    const [first, second, third] = [1, 2, 3].map(() => sheets.take(lines)) as [Sheet, Sheet, Sheet];
    const place = openSeenTable(reuse.seen).claim(sha256Of('a'))?.place as number;
    first.putOk(7, { sha256: sha256Of('a'), bytes: 1, width: 1, height: 1, format: 'png' });
    first.embeddings[7] = 5;
    reuse.remember(place, { sheet: first, row: 7, device: 'cpu' });
    sheets.giveBack(first);
    sheets.giveBack(second);
    sheets.take(lines);
    expect((await reuse.recall(place, sha256Of('a')))?.embedding).toEqual(Float32Array.of(5));
    sheets.giveBack(third);
    expect(sheets.take(lines).memory.memory).toBe(first.memory.memory);
    expect(await reuse.recall(place, sha256Of('a'))).toBeUndefined();
  });
});

/** What bytes come to is told by their number: every fifth is corrupt, and every seventh kills its decoder. */
type Content = number;
const endOf = (content: Content): 'ok' | 'corrupt' | 'crashed-worker' =>
  content % 5 === 4 ? 'corrupt' : content % 7 === 6 ? 'crashed-worker' : 'ok';

const seen = openSeenTable(makeSeenTable(100_000));
let worlds = 0;

interface World {
  /** Turns of the event loop that each step takes, over and over. */
  pace?: readonly number[];
  /** Fills that fail, by number. */
  broken?: readonly number[];
  /** Rows that memory keeps. */
  kept?: number;
  batch?: number;
  slots?: number;
}

/** A batcher over lanes that claim bytes in a real table, and a memory; an item's size is its content. */
function openWorld({
  pace = [0],
  broken = [],
  kept = Number.POSITIVE_INFINITY,
  batch = 4,
  slots = 2,
}: World = {}) {
  const world = worlds++;
  const memory = new Map<number, KnownRow>();
  const inferred: Content[] = [];
  const fills: SlotEntry[][] = [];
  let steps = 0;
  const step = async (): Promise<void> => {
    for (let turns = pace[steps++ % pace.length] ?? 0; turns >= 0; turns--) await tick();
  };
  const hashOf = (content: Content): string => sha256Of(`${world} ${content}`);
  const stages: BatchStages = {
    async embed(_slot, ranges, signal) {
      const entries = entriesOf(ranges);
      const number = fills.push(entries) - 1;
      const outcomes: Told[] = [];
      for (const [at, { sheet, row, item, anew }] of entries.entries()) {
        if (at % 2 === 0) await step();
        signal.throwIfAborted();
        const sha256 = hashOf(item.size);
        const claim = seen.claim(sha256);
        sheet.places[row] = claim?.place ?? -1;
        const end = endOf(item.size);
        if (claim && !claim.isNew && !anew) outcomes.push({ status: 'repeat', sha256 });
        else if (end === 'ok')
          outcomes.push({ status: 'ok', sha256, bytes: 1, width: 1, height: 1, format: 'jpeg' });
        else outcomes.push({ status: 'failed', error: end, message: '', sha256, bytes: 1 });
      }
      const exceptions = tellOutcomes(entries, outcomes);
      await step();
      if (broken.includes(number)) throw new Error('the lane broke');
      signal.throwIfAborted();
      const sizes = entries.map(({ item }) => item.size);
      await step();
      inferred.push(...sizes.filter((_, at) => outcomes[at]?.status === 'ok'));
      putValues(
        ranges,
        sizes.map((size, at) => (outcomes[at]?.status === 'ok' ? size : -1)),
      );
      return {
        exceptions,
        fetchMs: 0,
        decodeMs: 0,
        bytesRead: ranges.map(({ count }) => 10 * count),
        inferMs: 1,
      };
    },
    memory: {
      async recall(_, place, sha256) {
        await step();
        const row = memory.get(place);
        return row?.outcome.sha256 === sha256 ? row : undefined;
      },
      remember(_, place, { sheet, row, failure }) {
        const outcome = failure ?? sheet.outcomeAt(row);
        if (!outcome) throw new Error('a row that has not ended');
        const ofRow = <T extends Float32Array | Int32Array>(values: T) => values.slice(row, row + 1) as T;
        const { embeddings, scores, labels } = sheet;
        const copies = { embedding: ofRow(embeddings), scores: ofRow(scores), labels: ofRow(labels) };
        memory.delete(place);
        memory.set(place, { outcome, ...copies, device: 'cpu' });
        const [oldest] = memory.keys();
        if (memory.size > kept && oldest !== undefined) memory.delete(oldest);
      },
    },
  };
  const batcher = openBatcher(stages, { batch, slots, dimension: 1, topK: 1 });
  return {
    inferred,
    fills,
    embed: (contents: readonly Content[], signal = new AbortController().signal) =>
      batcher.embed('r', encodeItems(itemsOf(contents)), { signal, suspect: false }),
  };
}

function itemsOf(contents: readonly Content[]): Item[] {
  return contents.map((size, at) => ({ id: `i${at}`, uri: '', etag: '', size }));
}

type Embedded = Awaited<ReturnType<ReturnType<typeof openWorld>['embed']>>;

/** Every row has what its own bytes come to. */
function expectOwn(contents: readonly Content[], { sheet, failures }: Embedded): void {
  const { outcomes, embeddings, labels } = readSheet({ sheet: sheet.memory, failures });
  const found = contents.map((_, row) => {
    const outcome = outcomes[row];
    if (outcome?.status !== 'ok') return outcome?.status === 'failed' ? outcome.error : outcome;
    return [embeddings[row], labels[row], (sheet.places[row] ?? -1) >= 0];
  });
  const wanted = contents.map((content) =>
    endOf(content) === 'ok' ? [content, content, true] : endOf(content),
  );
  expect(found).toEqual(wanted);
}

describe('a batcher with a memory', () => {
  test('does the same bytes once, in one batch, in one under way, and in one long gone', async () => {
    const { embed, inferred, fills } = openWorld();
    const contents = [1, 1, 2, 1, 3, 2, 1, 3, 1];
    const rows = await embed(contents);
    expectOwn(contents, rows);
    expect(rows.reused).toBe(6);
    expectOwn([3, 2, 1], await embed([3, 2, 1]));
    expect(inferred.toSorted()).toEqual([1, 2, 3]);
    expect(fills.flat().length).toBe(12);
  });

  test('gives the repeats of a bad picture the same reason', async () => {
    const { embed, inferred } = openWorld();
    const rows = await embed([4, 4, 4, 1]);
    expectOwn([4, 4, 4, 1], rows);
    expect(rows.reused).toBe(2);
    expect(inferred).toEqual([1]);
  });

  test('does bytes anew that nobody remembers, one row of them for all', async () => {
    const { embed, inferred } = openWorld({ kept: 1 });
    expectOwn([1, 2, 3], await embed([1, 2, 3]));
    const contents = [1, 1, 1, 1, 1, 1, 1];
    expectOwn(contents, await embed(contents));
    expect(inferred).toEqual([1, 2, 3, 1]);
  });

  test('a decoder killed by a picture is no reason that another row of it has no result', async () => {
    const { embed } = openWorld();
    expectOwn([6, 6, 6, 6, 6], await embed([6, 6, 6, 6, 6]));
  });

  test('does anew, once, what a shard had claimed that was aborted', async () => {
    const { embed, inferred, fills } = openWorld({ pace: [3] });
    const abort = new AbortController();
    const aborted = embed([1, 2, 3, 5], abort.signal);
    const contents = [1, 2, 3, 5, 5, 3, 2, 1];
    const other = embed(contents);
    // The first has claimed all of its bytes, and is about to go to the device.
    for (let turn = 0; turn < 10; turn++) await tick();
    abort.abort(new Error('the lock was lost'));
    await expect(aborted).rejects.toThrow('the lock was lost');
    expectOwn(contents, await other);
    expect(inferred.toSorted()).toEqual([1, 2, 3, 5]);
    expect(fills.flat().filter(({ anew }) => anew).length).toBe(4);
  });

  test('a shard that was to do bytes anew and is aborted leaves them to who waits for them', async () => {
    const { embed, inferred } = openWorld({ kept: 0, slots: 1, pace: [1] });
    await embed([1]);
    const abort = new AbortController();
    const aborted = embed([1], abort.signal);
    const others = [embed([1, 1]), embed([1])];
    for (let turn = 0; turn < 14; turn++) await tick();
    abort.abort(new Error('the lock was lost'));
    await expect(aborted).rejects.toThrow();
    const [two, one] = await Promise.all(others);
    expectOwn([1, 1], two as Embedded);
    expectOwn([1], one as Embedded);
    expect(inferred.length).toBeLessThanOrEqual(5);
  });

  test('whatever repeats, is aborted, breaks or is forgotten, every shard ends and every row is its own', async () => {
    const shards = fc.array(
      fc.record({
        contents: fc.array(fc.nat({ max: 12 }), { maxLength: 20 }),
        /** Turns until it comes, and until it is aborted. */
        comes: fc.nat({ max: 12 }),
        aborted: fc.option(fc.nat({ max: 40 })),
      }),
      { minLength: 1, maxLength: 5 },
    );
    const worlds = fc.record({
      pace: fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 12 }),
      broken: fc.array(fc.nat({ max: 8 }), { maxLength: 2 }),
      kept: fc.constantFrom(Number.POSITIVE_INFINITY, 0, 1, 3),
      batch: fc.integer({ min: 1, max: 6 }),
      slots: fc.integer({ min: 1, max: 4 }),
    });
    await fc.assert(
      fc.asyncProperty(worlds, shards, async (world, shards) => {
        const { embed, inferred } = openWorld(world);
        const ends = await Promise.allSettled(
          shards.map(async ({ contents, comes, aborted }) => {
            for (let turn = 0; turn < comes; turn++) await tick();
            const abort = new AbortController();
            const embedded = embed(contents, abort.signal);
            embedded.catch(() => undefined);
            for (let turn = 0; aborted !== null && turn < aborted; turn++) await tick();
            if (aborted !== null) abort.abort(new Error('aborted'));
            return embedded;
          }),
        );
        for (const [at, end] of ends.entries()) {
          const { contents, aborted } = shards[at] as (typeof shards)[number];
          if (end.status === 'fulfilled') expectOwn(contents, end.value);
          else if (end.reason.message === 'aborted') expect(aborted).not.toBeNull();
          else expect(world.broken.length, String(end.reason)).toBeGreaterThan(0);
        }
        // A batch whose shards are gone never reaches the device, and what does is remembered.
        if (world.kept === Number.POSITIVE_INFINITY) expect(inferred.length).toBe(new Set(inferred).size);
      }),
      { numRuns: 300 },
    );
  });
});

test('a fill that nobody waits for any more lets go of its slot when its last decoder has', async () => {
  const white = (width: number, height: number): Promise<Buffer> =>
    sharp({ create: { width, height, channels: 3, background: 'white' } })
      .jpeg()
      .toBuffer();
  const pictures: Record<string, Buffer> = {
    '/a/big.jpg': await white(6000, 4000),
    '/a/small.jpg': await white(300, 300),
  };
  const slowAsked = Promise.withResolvers<void>();
  const server = createServer(async ({ url = '' }, outgoing) => {
    const { pathname } = new URL(url, 'http://localhost');
    if (pathname === '/a/slow.jpg') return slowAsked.resolve(); // and never answered
    if (pathname === '/a/small.jpg') await sleep(100); // the big one is being decoded by then
    return outgoing.setHeader('ETag', '"1"').end(pictures[pathname]);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.env.AWS_ACCESS_KEY_ID ??= 'any';
  process.env.AWS_SECRET_ACCESS_KEY ??= 'any';
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const slot = new SharedArrayBuffer(3 * 224 * 224 * 3);
  const lane = openThread<LaneRequest, LaneReply>('lane', {
    slots: [slot],
    reads: 2,
    readTimeoutMs: 10_000,
    decoder: 'auto',
    sessionCalls: new SharedArrayBuffer(0),
    sources: { ...sourceDefaults, s3: { ...sourceDefaults.s3, endpoint } },
  } satisfies LaneOptions);
  try {
    const request = makeRequest('r', {
      source: { ...makeRequest('r').source, uris: ['s3://a'] },
      maxPixels: 1e9,
      maxBytes: 1e8,
    });
    const run: Run = {
      ...request,
      pages: 1,
      shards: 1,
      items: 3,
      bytes: 0,
      skipped: 0,
      replaced: 0,
      gone: 0,
      kept: 0,
    };
    await lane.call({ kind: 'run', run, seen: undefined });
    const items = ['big.jpg', 'small.jpg', 'slow.jpg'].map((id) => ({
      ...{ id, uri: `s3://a/${id}`, etag: '"1"', size: 1000 },
    }));
    const sheet = openSheets({ dimension: 1, topK: 1 }).take(encodeItems(items)).memory;
    const range = { run: 'r', sheet, first: 0, count: 3, suspect: false, anew: false };
    const filled = lane.call({ kind: 'fill', slot: 0, ranges: [range] });
    filled.catch(() => undefined);
    await slowAsked.promise;
    await lane.call({ kind: 'abandon', slot: 0 });
    await expect(filled).rejects.toThrow();
    expect(new Uint8Array(slot, 0, 3)).toEqual(Uint8Array.of(255, 255, 255));
  } finally {
    await lane.close();
    server.closeAllConnections();
    server.close();
  }
});
