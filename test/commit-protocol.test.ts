/**
 * Planners, workers and finalizers of one run, all at once, in thousands of orders and with every misfortune that a call
 * may have: does one whole run come of it? LENSMILL_CHAOS=full tries 12,000 interleavings, a plain `npm test` as many as
 * fit into 15 seconds. A failure names its seed.
 */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc, { type Scheduler } from 'fast-check';
import { expect, test } from 'vitest';
import { commitPart } from '../src/commit.ts';
import { finalizeRun } from '../src/finalize.ts';
import { identify } from '../src/models/identity.ts';
import { openPlan } from '../src/page.ts';
import { encodePart, readPart } from '../src/parts/part.ts';
import { planRun } from '../src/plan.ts';
import { findPart } from '../src/runs/committed.ts';
import { claimRun, findRun, type Run, readSuccess, sourceName } from '../src/runs/run.ts';
import type { Source } from '../src/sources/source.ts';
import { FileStore } from '../src/stores/file.ts';
import type { Store } from '../src/stores/store.ts';
import { verifyRun } from '../src/verify.ts';
import {
  checkInterleavings,
  type Misfortune,
  memoryFolder,
  misfortunes,
  openInterleaving,
} from './helpers/interleaving.ts';
import { makeRequest } from './helpers/requests.ts';
import { makeProvenance, makeShardRows } from './helpers/shard-rows.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';
import { openWitness, type Witness } from './helpers/witness.ts';

const rowsPerShard = 2;
const { fingerprint: _, ...resnet } = makeRequest('r').model;
const request = makeRequest('r', {
  shardSize: rowsPerShard,
  topK: 2,
  model: identify({ ...resnet, dimension: 4 }),
});

/** Who takes part; workers and finalizers begin when a planner is done, as jobs do. */
interface Cast {
  shards: number;
  planners: number;
  /** Each worker's device: two that differ write other bytes of the same rows. */
  workers: ('cpu' | 'cuda')[];
  finalizers: number;
  misfortunes: Misfortune[];
}

const casts: fc.Arbitrary<Cast> = fc.record({
  shards: fc.integer({ min: 1, max: 3 }),
  planners: fc.integer({ min: 1, max: 3 }),
  workers: fc.array(fc.constantFrom('cpu', 'cuda'), { minLength: 1, maxLength: 3 }),
  finalizers: fc.integer({ min: 1, max: 2 }),
  misfortunes: misfortunes(8),
});

for (const conditional of [true, false]) {
  const kind = conditional ? 'creates atomically' : 'looks before it writes';
  test(`on a store that ${kind}, one whole run comes of any order of calls, lost replies, crashes and zombies`, {
    timeout: 3_600_000,
  }, async () => {
    await checkInterleavings(
      `on a store that ${kind}`,
      casts,
      (scheduler, cast) => tryInterleaving(conditional, scheduler, cast),
      { full: 6_000, ms: 6_000 },
    );
  });
}

async function tryInterleaving(conditional: boolean, scheduler: Scheduler, cast: Cast): Promise<void> {
  const folder = tempFolder(memoryFolder);
  try {
    const store = new FileStore(folder);
    await store.probe();
    await claimRun(store, request);
    const witness = openWitness(folder, conditional, cast.shards);
    const stage = openInterleaving({
      store,
      folder,
      conditional,
      scheduler,
      misfortunes: cast.misfortunes,
      onWrite: witness.look,
    });
    const planned = Promise.withResolvers<void>();
    const newActor = (name: string, isSpared = false): Actor => ({
      name,
      witness,
      shards: cast.shards,
      planned,
      ...stage.join(name, { isSpared }),
    });

    for (let n = 0; n < cast.planners; n++) void tryTwice(plan, newActor(`planner ${n}`));
    for (const [n, device] of cast.workers.entries()) {
      const worker = newActor(`worker ${n}`);
      void planned.promise.then(() => work(worker, device));
    }
    for (let n = 0; n < cast.finalizers; n++) {
      const finalizer = newActor(`finalizer ${n}`);
      void planned.promise.then(() => finalize(finalizer, 4));
    }
    await stage.run();

    // Whatever became of them: who comes fresh, completes the run.
    const fresh = newActor('fresh', true);
    let isComplete = false;
    const completed = (async () => {
      await plan(fresh);
      await work(fresh, 'cpu');
      await finalizeRun(fresh.store, await plan(fresh));
      isComplete = true;
    })().catch((error) => witness.report(`a fresh worker fails: ${error}`));
    await stage.run();
    if (isComplete) await completed;
    else witness.report('a fresh worker waits for ever');
    witness.check();

    stage.wakeAll();
    await stage.run();
    witness.check();

    const run = await findRun(store, request.run);
    if (!run) throw new Error('no run stands');
    const success = await readSuccess(store, request.run);
    expect((await verifyRun(wrapStore(store, { conditional }), run, success)).problems).toEqual([]);
    const rows = success.parts.flatMap(({ key }) => readPart(readFileSync(join(folder, key)), key).ids);
    expect(rows).toEqual(itemsOf(cast.shards).map(({ id }) => id));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Actor {
  name: string;
  shards: number;
  store: Store;
  call: (label: string) => Promise<void>;
  witness: Witness;
  planned: PromiseWithResolvers<void>;
}

async function tryTwice<T>(act: (actor: Actor) => Promise<T>, actor: Actor): Promise<T | undefined> {
  return act(actor)
    .catch(() => act(actor))
    .catch(() => undefined);
}

async function plan(actor: Actor): Promise<Run> {
  const run = await planRun(actor.store, sourceOf(actor), request);
  if (run.items !== actor.shards * rowsPerShard)
    actor.witness.report(`${actor.name} planned ${run.items} items`);
  actor.planned.resolve();
  return run;
}

/** Does what a worker does, for every shard: its queue gives each of them to everybody. */
async function work(actor: Actor, device: 'cpu' | 'cuda'): Promise<void> {
  const readItems = openPlan(actor.store);
  const run = await tryTwice(async () => {
    const found = await findRun(actor.store, request.run);
    return found ?? actor.witness.report('a planner was done before its run stood');
  }, actor);
  if (!run) return;
  const doShard = async (shard: number): Promise<void> => {
    if (await findPart(actor.store, run.run, shard)) return;
    const items = await readItems(run, shard);
    if (items.length !== rowsPerShard) actor.witness.report(`shard ${shard} has ${items.length} items`);
    const part = partOf(shard, device);
    const result = await commitPart(actor.store, run.run, shard, part);
    actor.witness.told(shard, result, part);
  };
  for (let shard = 0; shard < run.shards; shard++) await tryTwice(() => doShard(shard), actor);
  await finalize(actor, 1);
}

async function finalize(actor: Actor, attempts: number): Promise<void> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      const run = await findRun(actor.store, request.run);
      if (run) actor.witness.finalized(await finalizeRun(actor.store, run));
      return;
    } catch {
      // Not complete yet, or a call failed.
      await actor.call('waits').catch(() => undefined);
    }
  }
}

function sourceOf({ shards, call }: Actor): Source {
  return {
    uri: 'test://',
    probe: async () => undefined,
    async *list({ after = '' } = {}) {
      for (const item of itemsOf(shards)) {
        await call('list a page of the source');
        if (item.id > after) yield { items: [item], skipped: 1 };
      }
    },
    read: () => Promise.reject(new Error('not read here')),
    close: async () => undefined,
  };
}

function itemsOf(shards: number) {
  return Array.from(
    { length: shards },
    (_, shard) => makeShardRows(rowsPerShard, { shard, dimension: 4, topK: 2 }).items,
  ).flat();
}

const parts = new Map<string, Uint8Array>();

/** What a worker on `device` makes of a shard. */
function partOf(shard: number, device: string): Uint8Array {
  const key = `${shard} ${device}`;
  const part =
    parts.get(key) ??
    encodePart(
      makeShardRows(rowsPerShard, { shard, dimension: 4, topK: 2 }),
      makeProvenance({ ...request, source: sourceName(request), shard, device }),
      { dimension: 4, topK: 2, embeddingType: 'float32' },
    );
  parts.set(key, part);
  return part;
}
