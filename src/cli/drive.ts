/** A planned run to its end, from this machine: queue, a local worker, progress, `_SUCCESS.json`. */
import { setTimeout as sleep } from 'node:timers/promises';
import pMap from 'p-map';
import { superviseWorker } from '../../workers/supervisor.ts';
import { listParts } from '../committed.ts';
import { shardSizes } from '../page.ts';
import { checkRedis, openQueue, queueNameOf, type ShardQueue } from '../queue.ts';
import { startPrivateRedis } from '../redis-server.ts';
import { findSuccess, type Run, type Success } from '../run.ts';
import type { Settings } from '../settings.ts';
import type { Store } from '../stores/store.ts';
import type { Context } from './command.ts';
import { reportProgress } from './progress.ts';

const pollMs = 500;
/** Polls between two looks at the store while Redis says that the run is not done: another pool may have done it. */
const pollsPerLook = 20;

export interface Redis {
  url: string;
  close(): Promise<void>;
}

/** The Redis of the settings, or a private one. Throws ConfigError. */
export async function openRedis(settings: Settings): Promise<Redis> {
  if (settings.redis === undefined) return startPrivateRedis();
  await checkRedis(settings.redis);
  return { url: settings.redis, close: async () => undefined };
}

export function queueOf(settings: Settings, store: Store): string {
  return settings.queue ?? queueNameOf(store.uri);
}

export interface DrivenRun {
  success: Success;
  /** What the local worker ran on. */
  device: string;
  elapsedMs: number;
}

/** The finished run, or `undefined` when interrupted. Throws when shards failed for good, or the worker did. */
export async function driveRun(context: Context, store: Store, run: Run): Promise<DrivenRun | undefined> {
  const started = performance.now();
  const { settings, log, terminal, interrupted } = context;
  const redis = await openRedis(settings);
  const name = queueOf(settings, store);
  const queue = openQueue({ redisUrl: redis.url, name });
  const worker = superviseWorker(
    { output: store.uri, redisUrl: redis.url, queue: name, run: run.run, settings },
    { log, writeLine: terminal.writeLine },
  );
  const stop = (): void => worker.stop();
  interrupted.addEventListener('abort', stop);
  const enqueueing = new AbortController();
  try {
    const { device } = await worker.ready;
    const enqueued = enqueueMissing(queue, store, run, { ...settings, signal: enqueueing.signal });
    const finished = awaitSuccess(context, queue, store, run, enqueueing.signal);
    // The other two end the run only by failing.
    const success = await Promise.race([
      finished,
      enqueued.then(() => finished),
      worker.ended.then(() => undefined),
    ]);
    return success && { success, device, elapsedMs: performance.now() - started };
  } catch (error) {
    if (interrupted.aborted) return undefined;
    throw error;
  } finally {
    enqueueing.abort();
    interrupted.removeEventListener('abort', stop);
    if (!interrupted.aborted) worker.stop();
    await worker.ended.catch(() => undefined);
    await queue.close();
    await redis.close();
  }
}

/**
 * Enqueues exactly the shards that the store does not hold, and tells Redis of those that it does. Redis may be new, old,
 * or know the run already: nothing is counted or done twice.
 */
export async function enqueueMissing(
  queue: ShardQueue,
  store: Store,
  run: Run,
  options: { highWater: number; attempts: number; signal?: AbortSignal },
): Promise<void> {
  await queue.clearFailures(run.run);
  const parts = await listParts(store, run.run);
  if (parts.size > 0) {
    await pMap(
      shardSizes(store, run),
      async (items, shard) => {
        if (parts.has(shard)) await queue.markDone(run.run, shard, { items, failed: 0 });
      },
      { concurrency: 100 },
    );
  }
  if (parts.size >= run.shards) return queue.enqueueFinalize(run.run);
  await queue.enqueue(run.run, missingShards(), options);

  function* missingShards(): Iterable<number> {
    for (let shard = 0; shard < run.shards; shard++) if (!parts.has(shard)) yield shard;
  }
}

async function awaitSuccess(
  context: Context,
  queue: ShardQueue,
  store: Store,
  run: Run,
  signal: AbortSignal,
): Promise<Success | undefined> {
  const progress = reportProgress('images', context);
  try {
    for (let poll = 0; !signal.aborted; poll++) {
      const { shards, items, failed, failures } = await queue.progress(run.run);
      progress.update({ done: items, total: run.items, failed });
      if (shards >= run.shards || poll % pollsPerLook === 0) {
        const success = await findSuccess(store, run.run);
        if (success) return success;
      }
      const [first] = Object.values(failures);
      const isStuck = shards + Object.keys(failures).length >= run.shards;
      if (first !== undefined && (isStuck || 'finalize' in failures)) {
        const count = Object.keys(failures).length;
        throw new Error(
          `${count} of ${run.shards} shards failed: ${first}; once that is mended: lensmill resume ${run.run} --output ${store.uri}`,
        );
      }
      await sleep(pollMs, undefined, { signal });
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    progress.close();
  }
  return undefined;
}
