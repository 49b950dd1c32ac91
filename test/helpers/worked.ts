/** A pool as `lensmill work` opens it, in this process, over runs that were enqueued: for tests of what becomes of it. */
import { mkdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import type { WorkerDevice } from '../../src/devices/list-devices.ts';
import { enqueueRun } from '../../src/producer/enqueue.ts';
import { planNewRun } from '../../src/producer/plan-run.ts';
import { openQueue, queueNameOf } from '../../src/queue.ts';
import { findSuccess, readRun } from '../../src/runs/run.ts';
import type { Store } from '../../src/stores/store.ts';
import { verifyRun } from '../../src/verify.ts';
import { openPool, type Pool, type PoolObserver, type PoolOptions } from '../../workers/pool.ts';
import { contextOf } from './context.ts';
import { until } from './until.ts';

/** Small and quick to decode, each of other bytes. */
export async function makeTinyPictures(folder: string, count: number): Promise<void> {
  mkdirSync(folder, { recursive: true });
  for (let n = 0; n < count; n++) {
    const background = { r: n % 256, g: (7 * n) % 256, b: 128 };
    const jpeg = await sharp({ create: { width: 32, height: 32, channels: 3, background } })
      .jpeg()
      .toBuffer();
    await writeFile(join(folder, `${String(n).padStart(4, '0')}.jpg`), jpeg);
  }
}

export interface Work {
  store: Store;
  redisUrl: string;
  /** What workers and pool logged. */
  log: string[];
}

/** Plans and enqueues a run in shards of ten; `model` costs nothing where it is left out. */
export async function enqueueSmall(
  { store, redisUrl }: Work,
  run: string,
  { photos, model = 'null' }: { photos: string; model?: string },
): Promise<void> {
  const caller = contextOf({ model, shardSize: '10', redis: redisUrl, output: store.uri });
  await enqueueRun(caller, store, await planNewRun(caller, store, [photos], { run }));
}

export interface OpenPool extends Pool {
  /** Stops it at once, whatever it does. Safe to call twice. */
  close(): Promise<void>;
}

/** Its workers have begun, with batches of a shard. */
export function startPool(
  { store, redisUrl, log }: Work,
  devices: readonly WorkerDevice[],
  {
    observer,
    ...options
  }: { observer?: PoolObserver } & Pick<PoolOptions, 'maxMemoryBytes' | 'longestSilenceSeconds'> = {},
): OpenPool {
  const context = contextOf({ batch: '10' }, log);
  const pool = openPool(
    {
      devices,
      output: store.uri,
      redisUrl,
      queue: queueNameOf(store.uri),
      settings: context.settings,
      ...options,
    },
    { log: context.log, writeLine: context.writeLine, observer },
  );
  pool.start();
  const over = pool.ended.catch(() => undefined);
  return Object.assign(pool, {
    async close() {
      for (let calls = 0; calls < 3; calls++) pool.stop();
      await over;
    },
  });
}

/** Waits for the run's end: how many rows it has, and what `verify` finds wrong. */
export async function finishRun(store: Store, id: string): Promise<{ items: number; problems: string[] }> {
  await until(async () => (await findSuccess(store, id)) !== undefined, 50);
  const success = await findSuccess(store, id);
  if (!success) throw new Error(`the success of run ${id} is gone`);
  const { problems } = await verifyRun(store, await readRun(store, id), success);
  return { items: success.items, problems };
}

/** Shards of a run that Redis knows of. */
export async function countShards({ store, redisUrl }: Work, run: string) {
  const queue = openQueue({ redisUrl, name: queueNameOf(store.uri) });
  try {
    return await queue.counts(run);
  } finally {
    await queue.close();
  }
}
