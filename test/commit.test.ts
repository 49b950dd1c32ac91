/** Commit, finalize and verify: what makes promise 1 hold, on a real file store. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { commitPart } from '../src/commit.ts';
import { finalizeRun } from '../src/finalize.ts';
import { partKey, successKey } from '../src/layout.ts';
import { encodePart } from '../src/parts/part.ts';
import { planRun } from '../src/plan.ts';
import { findPart, listParts } from '../src/runs/committed.ts';
import { claimRun, createRun, findSuccess, type Run, readSuccess, sourceName } from '../src/runs/run.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item } from '../src/types.ts';
import { verifyRun } from '../src/verify.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { makeShardRows } from './helpers/shard-rows.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

const shards = 3;
const rowsPerShard = 8;

/** A planned run of three shards, in a folder. */
async function plannedRun(): Promise<{ folder: string; store: Store; run: Run }> {
  const folder = tempFolder();
  const store = openStore(folder, s3Defaults);
  await store.probe();
  const items = Array.from(
    { length: shards },
    (_, shard) => makeShardRows(rowsPerShard, { shard }).items,
  ).flat();
  const source = {
    uri: 'test://',
    probe: async () => undefined,
    async *list() {
      yield { items: [...items] as Item[], skipped: 0 };
    },
    read: () => Promise.reject(new Error('not read here')),
    close: async () => undefined,
  };
  const request = makeRequest('r', { shardSize: rowsPerShard });
  await claimRun(store, request);
  const run = await planRun(store, source, request);
  return { folder, store, run };
}

/** What a worker on `device` makes of a shard. */
function partOf(
  run: Run,
  shard: number,
  { device = 'cpu', rows = makeShardRows(rowsPerShard, { shard }) } = {},
): Uint8Array {
  const { model, topK } = run;
  const provenance = {
    run: run.run,
    shard,
    lensmill: '0.1.0',
    source: sourceName(run),
    model,
    topK,
    device,
    batch: 8,
    reused: 0,
  };
  return encodePart(rows, provenance, { dimension: model.dimension, topK, embeddingType: 'float32' });
}

async function finishedRun(): Promise<{ folder: string; store: Store; run: Run }> {
  const planned = await plannedRun();
  for (let shard = 0; shard < shards; shard++)
    await commitPart(planned.store, 'r', shard, partOf(planned.run, shard));
  await finalizeRun(planned.store, planned.run);
  return planned;
}

async function problemsOf({ store, run }: { store: Store; run: Run }): Promise<string[]> {
  return (await verifyRun(store, run, await readSuccess(store, 'r'))).problems;
}

test('of two workers committing the same shard, one wins, and the other knows', async () => {
  const { store, run } = await plannedRun();
  const results = await Promise.all([
    commitPart(store, 'r', 0, partOf(run, 0, { device: 'cpu' })),
    commitPart(store, 'r', 0, partOf(run, 0, { device: 'cuda' })),
  ]);
  expect(results.sort()).toEqual(['created', 'theirs']);
  expect(await Array.fromAsync(store.list('runs/r/parts/'))).toHaveLength(1);
});

test('a commit whose reply was lost is known to be ours', async () => {
  const { store, run } = await plannedRun();
  const deaf = wrapStore(store, {
    create: async (key, body) => {
      await store.create(key, body);
      return false;
    },
  });
  expect(await commitPart(deaf, 'r', 0, partOf(run, 0))).toBe('ours');
});

test('a claim whose reply was lost is known to be ours, and nobody else can have it', async () => {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  const deaf = wrapStore(store, {
    create: async (key, body) => {
      await store.create(key, body);
      return false;
    },
  });
  await claimRun(deaf, makeRequest('r'));
  await expect(
    claimRun(deaf, makeRequest('r', { createdAt: '2026-01-01T00:00:00.001Z' })),
  ).rejects.toMatchObject({
    code: 'run-exists',
  });
});

test('a run is not finished before every shard has its part', async () => {
  const { store, run } = await plannedRun();
  await commitPart(store, 'r', 0, partOf(run, 0));
  await commitPart(store, 'r', 2, partOf(run, 2));
  await expect(finalizeRun(store, run)).rejects.toThrow('1 of 3 shards');
  expect(await findSuccess(store, 'r')).toBeUndefined();
  await expect(readSuccess(store, 'r')).rejects.toMatchObject({ code: 'not-finished' });
});

test('a finished run counts every row and names every part with its hash', async () => {
  const { store, run } = await finishedRun();
  const success = await readSuccess(store, 'r');
  expect(success).toMatchObject({ items: 24, ok: 21, failed: 3, failures: { 'not-found': 3 } });
  for (const { key, bytes, sha256 } of success.parts) {
    expect(await store.head(key)).toEqual({ size: bytes, sha256 });
  }
  expect(await problemsOf({ store, run })).toEqual([]);
});

test('finalizing twice, or in two places at once, changes nothing', async () => {
  const { store, run } = await plannedRun();
  for (let shard = 0; shard < shards; shard++) await commitPart(store, 'r', shard, partOf(run, shard));
  const [a, b] = await Promise.all([finalizeRun(store, run), finalizeRun(store, run)]);
  expect(a).toEqual(b);
  const before = await store.head(successKey('r'));
  expect(await finalizeRun(store, run)).toEqual(a);
  expect(await store.head(successKey('r'))).toEqual(before);
});

test('a part of another shard, another size or another model does not finish a run', async () => {
  const wrong: ((run: Run) => Uint8Array)[] = [
    (run) => partOf(run, 2),
    (run) => partOf(run, 1, { rows: makeShardRows(rowsPerShard - 1, { shard: 1 }) }),
    (run) => partOf({ ...run, model: { ...run.model, fingerprint: 'f'.repeat(64) } }, 1),
  ];
  for (const make of wrong) {
    const { store, run } = await plannedRun();
    await commitPart(store, 'r', 0, partOf(run, 0));
    await commitPart(store, 'r', 1, make(run));
    await commitPart(store, 'r', 2, partOf(run, 2));
    await expect(finalizeRun(store, run)).rejects.toThrow('part-00001');
  }
});

test('verify finds a part that is gone, damaged, exchanged, or of other rows, and a stray object', async () => {
  const key = partKey('r', 1);
  const damages: [RegExp, (folder: string, run: Run) => void][] = [
    [/part-00001.*is missing/, (folder) => rmSync(join(folder, key))],
    [/part-00001.*SHA-256/, (folder) => flipBit(join(folder, key))],
    [
      /part-00001.*SHA-256/,
      (folder) => writeFileSync(join(folder, key), readFileSync(join(folder, partKey('r', 0)))),
    ],
    [/part-00003.*belongs to no shard/, (folder) => writeFileSync(join(folder, partKey('r', 3)), 'x')],
  ];
  for (const [expected, damage] of damages) {
    const finished = await finishedRun();
    damage(finished.folder, finished.run);
    expect((await problemsOf(finished)).join('\n')).toMatch(expected);
  }
});

test('verify finds rows that are not those of the plan, even where the hashes agree', async () => {
  const { store, run } = await plannedRun();
  const rows = makeShardRows(rowsPerShard, { shard: 1 });
  const [first, second, ...rest] = rows.items as Item[];
  const swapped = { ...rows, items: [second, first, ...rest] as Item[] };
  for (const shard of [0, 2]) await commitPart(store, 'r', shard, partOf(run, shard));
  await commitPart(store, 'r', 1, partOf(run, 1, { rows: swapped }));
  await finalizeRun(store, run);
  expect((await problemsOf({ store, run })).join('\n')).toMatch(/part-00001.*row 0 is/);
});

test('on a store that cannot create atomically, attempts stand side by side and one is chosen', async () => {
  const { store, run } = await plannedRun();
  const plain = wrapStore(store, { conditional: false });
  for (const device of ['cpu', 'cuda']) await commitPart(plain, 'r', 0, partOf(run, 0, { device }));
  for (const shard of [1, 2]) await commitPart(plain, 'r', shard, partOf(run, shard));
  expect(await Array.fromAsync(plain.list('runs/r/parts/'))).toHaveLength(4);

  const success = await finalizeRun(plain, run);
  expect(success).toMatchObject({ items: 24, ok: 21, failed: 3 });
  expect(success.parts).toHaveLength(3);
  expect((await findPart(plain, 'r', 0))?.key).toBe(success.parts[0]?.key);
  expect((await listParts(plain, 'r')).size).toBe(3);
  expect((await verifyRun(plain, run, success)).problems).toEqual([]);
});

test('a run that another planner completed first stands', async () => {
  const { store, run } = await plannedRun();
  expect(await createRun(store, { ...run, skipped: 99 })).toEqual(run);
});

function flipBit(path: string): void {
  const bytes = readFileSync(path);
  bytes[100] = (bytes[100] as number) ^ 1;
  writeFileSync(path, bytes);
}
