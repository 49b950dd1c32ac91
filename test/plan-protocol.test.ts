/** Several planners of one run of three pages, in any order of their calls and with every misfortune. */
import { rmSync } from 'node:fs';
import fc, { type Scheduler } from 'fast-check';
import { expect, test } from 'vitest';
import { openPlan, shardsPerPage } from '../src/page.ts';
import { planRun } from '../src/plan.ts';
import { findRun, type Run } from '../src/runs/run.ts';
import type { Source } from '../src/sources/source.ts';
import { FileStore } from '../src/stores/file.ts';
import type { Item } from '../src/types.ts';
import {
  checkInterleavings,
  type Misfortune,
  memoryFolder,
  misfortunes,
  openInterleaving,
} from './helpers/interleaving.ts';
import { makeRequest } from './helpers/requests.ts';
import { tempFolder } from './helpers/temp.ts';
import { openWitness } from './helpers/witness.ts';

const request = makeRequest('r', { shardSize: 1 });
const items = Array.from({ length: 2.5 * shardsPerPage }, (_, n): Item => {
  const id = `${String(n).padStart(6, '0')}.jpg`;
  return { id, uri: `test://${id}`, etag: '', size: n };
});

interface Cast {
  conditional: boolean;
  planners: number;
  misfortunes: Misfortune[];
}

const casts: fc.Arbitrary<Cast> = fc.record({
  conditional: fc.boolean(),
  planners: fc.integer({ min: 2, max: 4 }),
  misfortunes: misfortunes(4),
});

test('one plan with every item once comes of any order of planners, their crashes and zombies', {
  timeout: 3_600_000,
}, async () => {
  await checkInterleavings('of planners', casts, tryPlanners, { full: 3_000, ms: 3_000 });
});

async function tryPlanners(scheduler: Scheduler, cast: Cast): Promise<void> {
  const folder = tempFolder(memoryFolder);
  try {
    const store = new FileStore(folder);
    await store.probe();
    const witness = openWitness(folder, cast.conditional, items.length);
    const stage = openInterleaving({ ...cast, store, folder, scheduler, onWrite: witness.look });
    const plan = async (name: string, isSpared: boolean): Promise<Run> => {
      const actor = stage.join(name, { isSpared });
      const run = await planRun(actor.store, sourceOf(actor.call), request);
      if (run.items !== items.length) witness.report(`${name} planned ${run.items} items`);
      return run;
    };
    for (let n = 0; n < cast.planners; n++) plan(`planner ${n}`, false).catch(() => undefined);
    await stage.run();

    let planned: Run | undefined;
    const fresh = plan('fresh', true).then(
      (run) => {
        planned = run;
      },
      (error) => witness.report(`a fresh planner fails: ${error}`),
    );
    await stage.run();
    if (planned) await fresh;
    else witness.report('a fresh planner waits for ever');
    stage.wakeAll();
    await stage.run();
    witness.check();

    const run = await findRun(store, request.run);
    expect(run).toEqual(planned);
    const readItems = openPlan(store);
    const shards = Array.from({ length: run?.shards ?? 0 }, (_, shard) => shard);
    const found = await Promise.all(shards.map((shard) => readItems(run as Run, shard)));
    expect(found.flat()).toEqual(items);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Lists 60 items at a time, and skips an object on each page. */
function sourceOf(call: (label: string) => Promise<void>): Source {
  return {
    uri: 'test://',
    probe: async () => undefined,
    async *list({ after = '' } = {}) {
      const rest = items.filter(({ id }) => id > after);
      for (let first = 0; first < rest.length; first += 60) {
        await call(`list items from ${rest[first]?.id}`);
        yield { items: rest.slice(first, first + 60), skipped: 1 };
      }
    },
    read: () => Promise.reject(new Error('not read here')),
    close: async () => undefined,
  };
}
