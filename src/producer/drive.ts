/** A planned run to its end, from this machine: queue, a local worker, progress, `_SUCCESS.json`. */
import { setTimeout as sleep } from 'node:timers/promises';
import pMap from 'p-map';
import { superviseWorker } from '../../workers/supervisor.ts';
import { requirePrecision } from '../devices/device.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { requireRealDevice } from '../devices/sleep.ts';
import { ConfigError } from '../errors.ts';
import { shardSizes } from '../page.ts';
import { openQueue, queueNameOf, type ShardQueue } from '../queue.ts';
import { listParts } from '../runs/committed.ts';
import { findSuccess, needsOf, type Run, type Success } from '../runs/run.ts';
import type { Settings } from '../settings/table.ts';
import type { Store } from '../stores/store.ts';
import { type Measures, measuresSince } from '../telemetry/measures.ts';
import { findLimit } from '../telemetry/throughput.ts';
import { version } from '../version.ts';
import type { Caller, ProgressReporter } from './caller.ts';
import { openRedis } from './redis.ts';

const pollMs = 500;
/** Polls between two looks at the store while Redis says that the run is not done: another pool may have done it. */
const pollsPerLook = 20;
/** A Redis that takes longer is away, and its user should know what we wait for. */
const patienceMs = 5_000;

export function queueOf(settings: Settings, store: Store): string {
  return settings.queue ?? queueNameOf(store.uri);
}

/** Throws ConfigError where this machine cannot do what is asked for, as far as is known before anything is read. */
export function requireDevice(settings: Settings): void {
  const { device } = resolveDevice(settings.device);
  requireRealDevice(device, settings.model);
  // Known before images are calibrated on; what else a model is, its first shard would find out.
  if (settings.precision === 'int8') requirePrecision(device, 'int8');
}

/** How a run that was driven ended, but for errors. */
export type DrivenRun =
  | { how: 'done'; success: Success; device: string; elapsedMs: number; measures: Measures }
  | { how: 'interrupted' | 'cancelled' };

/**
 * Throws when shards failed for good, when the run is blocked, when the worker cannot go on, and ConfigError
 * 'other-version' for a run that another version of lensmill planned.
 */
export async function driveRun(caller: Caller, store: Store, run: Run): Promise<DrivenRun> {
  if (run.lensmill !== version) {
    throw new ConfigError(
      'other-version',
      `run ${run.run} was planned by lensmill ${run.lensmill}, this is ${version}: finish it with that version, or index anew`,
    );
  }
  const started = performance.now();
  const { settings, log, writeLine, interrupted, hurried } = caller;
  const redis = await openRedis(caller);
  const name = queueOf(settings, store);
  const queue = openQueue({ redisUrl: redis.url, name });
  const worker = superviseWorker(
    { output: store.uri, redisUrl: redis.url, queue: name, run: run.run, settings },
    { log, writeLine },
  );
  const stop = (): void => worker.stop();
  interrupted.addEventListener('abort', stop);
  hurried.addEventListener('abort', stop);
  // While Redis was started, or asked.
  if (interrupted.aborted) stop();
  const ending = new AbortController();
  try {
    const { device } = await worker.ready;
    const finished = watchRun(caller, queue, store, run, ending.signal);
    // The worker ends before the run only when it is stopped, or cannot go on.
    const stopped = worker.ended.then((): 'interrupted' => 'interrupted');
    const end = await Promise.race([finished, stopped, redis.lost]);
    return typeof end === 'string'
      ? { how: end }
      : { how: 'done', ...end, device, elapsedMs: performance.now() - started };
  } catch (error) {
    if (interrupted.aborted) return { how: 'interrupted' };
    throw error;
  } finally {
    ending.abort();
    interrupted.removeEventListener('abort', stop);
    if (!interrupted.aborted) worker.stop();
    await worker.ended.catch(() => undefined);
    hurried.removeEventListener('abort', stop);
    await queue.close();
    await redis.close();
  }
}

/**
 * Enqueues, of a run that is open, exactly the shards that the store does not hold, and tells Redis of those that it does. Redis may be new, old,
 * or know the run already: nothing is counted or done twice. Gives how many they are.
 */
export async function enqueueMissing(
  queue: ShardQueue,
  store: Store,
  run: Run,
  options: { highWater: number; attempts: number; signal?: AbortSignal },
): Promise<number> {
  const { shards: counted } = await queue.progress(run.run);
  let parts = await listParts(store, run.run);
  if (parts.size < counted) {
    // Parts that were counted were deleted: the run would be finished before they are there again.
    await queue.forgetDone(run.run);
    parts = await listParts(store, run.run);
  }
  let done = 0;
  if (parts.size > 0) {
    await pMap(
      shardSizes(store, run),
      async (items, shard) => {
        if (!parts.has(shard)) return;
        done = Math.max(done, await queue.markDone(run.run, shard, { items, failed: 0 }));
      },
      { concurrency: 100 },
    );
  }
  // More may be done than stood in the listing; whoever counts the last shard has the run finished.
  if (Math.max(done, parts.size) >= run.shards) {
    await queue.enqueueFinalize(run.run);
    return 0;
  }
  await queue.enqueue(run.run, missingShards(), options);
  return run.shards - parts.size;

  function* missingShards(): Iterable<number> {
    for (let shard = 0; shard < run.shards; shard++) if (!parts.has(shard)) yield shard;
  }
}

/** Sees a run to its end: enqueues it, again where Redis lost it, and tells how far it is. */
async function watchRun(
  caller: Caller,
  queue: ShardQueue,
  store: Store,
  run: Run,
  signal: AbortSignal,
): Promise<{ success: Success; measures: Measures } | 'interrupted' | 'cancelled'> {
  const { settings, log } = caller;
  const progress = caller.reportProgress('images');
  /** While shards are being enqueued: ends that. */
  let enqueueing: AbortController | undefined;
  let failure: unknown;
  /** Resolves when the run is open; its shards follow. */
  const enqueue = async (): Promise<void> => {
    enqueueing?.abort();
    const own = new AbortController();
    enqueueing = own;
    // Awaited: the next look would else find what an earlier pause or failure left.
    await answerOf(queue.openRun(run.run, needsOf(run), run), log, signal);
    enqueueMissing(queue, store, run, { ...settings, signal: AbortSignal.any([signal, own.signal]) })
      .catch((error) => {
        if (own.signal.aborted) return;
        if (isAway(error)) log.warn({ error: error.message }, 'the store does not answer; it is asked again');
        else failure ??= error;
      })
      .finally(() => {
        if (enqueueing === own) enqueueing = undefined;
      });
  };

  try {
    // A Redis of the user's may know of work that was done before this.
    const before = (await answerOf(queue.progress(run.run), log, signal)).measures;
    await enqueue();
    let emptyPolls = 0;
    let isPauseTold = false;
    for (let poll = 0; !signal.aborted; poll++) {
      if (failure) throw failure;
      const { state, shards, isEmpty, measures } = await answerOf(
        lookAt(queue, store, run, progress),
        log,
        signal,
      );
      if (shards >= run.shards || state === undefined || poll % pollsPerLook === 0) {
        const success = await findSuccess(store, run.run).catch((error) => {
          if (!isAway(error)) throw error;
          log.warn({ error: error.message }, 'the store does not answer; it is asked again');
        });
        if (success) {
          // Else a worker is about to.
          if (isEmpty) await queue.closeRun(run.run);
          return { success, measures: measuresSince(before, measures) };
        }
      }
      if (state === 'cancelled') {
        // Into the room that this made, more shards were put.
        enqueueing?.abort();
        await queue.dropJobs(run.run);
        return 'cancelled';
      }
      if (state === 'paused' && !isPauseTold)
        log.warn({ run: run.run }, 'the run is paused; `lensmill resume` lets it go on');
      isPauseTold = state === 'paused';
      // A shard that changes hands is in no list for a moment.
      emptyPolls = isEmpty && !enqueueing ? emptyPolls + 1 : 0;
      // A run that workers do not know makes no room for more of its shards.
      if (emptyPolls >= pollsPerLook || state === undefined) {
        log.warn({ run: run.run }, 'Redis has lost shards of this run; they are enqueued again');
        emptyPolls = 0;
        await enqueue();
      }
      await sleep(pollMs, undefined, { signal });
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    enqueueing?.abort();
    progress.close();
  }
  return 'interrupted';
}

/** What Redis knows of the run. Throws where it cannot end by itself. */
async function lookAt(
  queue: ShardQueue,
  store: Store,
  run: Run,
  progress: ProgressReporter,
): Promise<{ state: string | undefined; shards: number; isEmpty: boolean; measures: Measures }> {
  const [{ shards, items, failed, failures, measures, pace }, runs, counts] = await Promise.all([
    queue.progress(run.run),
    queue.runs(),
    queue.counts(run.run),
  ]);
  progress.update({
    done: items,
    total: run.items,
    failed,
    perSecond: pace?.imagesPerSecond ?? 0,
    limit: findLimit(measures),
  });
  const { state, reason } = runs.get(run.run) ?? {};
  const resume = `once that is mended: lensmill resume ${run.run} --output ${store.uri}`;
  if (state === 'blocked') throw new Error(`run ${run.run} is blocked: ${reason}; ${resume}`);
  const failedShards = Object.keys(failures).length;
  const [first] = Object.values(failures);
  if (first !== undefined && (shards + failedShards >= run.shards || 'finalize' in failures))
    throw new Error(`${failedShards} of ${run.shards} shards failed: ${first}; ${resume}`);
  return { state, shards, measures, isEmpty: counts.waiting + counts.active + counts.delayed === 0 };
}

/** An answer of Redis, however long it takes; says so when it takes long. Rejects with the signal's reason. */
export async function answerOf<T>(answer: Promise<T>, log: Caller['log'], signal: AbortSignal): Promise<T> {
  const timer = setInterval(() => log.warn('Redis does not answer; waiting for it'), patienceMs);
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort);
  try {
    return await Promise.race([answer, aborted]);
  } finally {
    clearInterval(timer);
    signal.removeEventListener('abort', onAbort);
  }
}

function isAway(error: unknown): error is ConfigError {
  return error instanceof ConfigError && error.code === 'store-unreachable';
}
