/** A planned run into the queue: workers anywhere do the rest, and the one that commits the last shard finishes it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openQueue, type RunState } from '../queue.ts';
import { findSuccess, needsOf, type Run } from '../runs/run.ts';
import { required } from '../settings/resolve.ts';
import type { Store } from '../stores/store.ts';
import type { Caller } from './caller.ts';
import { answerOf, enqueueMissing, queueOf } from './drive.ts';
import { openRedis } from './redis.ts';

const lookMs = 5_000;

/**
 * Enqueues what the store does not hold of a run; gives the name of its queue, and how many shards that were. Waits for a Redis
 * that is away, and says so. Throws ConfigError 'missing-setting', the reason of `interrupted`, and an Error where the run was
 * cancelled meanwhile, or Redis has lost it.
 */
export async function enqueueRun(
  caller: Caller,
  store: Store,
  run: Run,
): Promise<{ queue: string; enqueued: number }> {
  const { settings, log, interrupted } = caller;
  required(settings, 'redis');
  const redis = await openRedis(caller);
  const name = queueOf(settings, store);
  const queue = openQueue({ redisUrl: redis.url, name });
  const over = new AbortController();
  const signal = AbortSignal.any([interrupted, over.signal]);
  const stateOf = async () => (await answerOf(queue.runs(), log, signal)).get(run.run)?.state;
  try {
    await answerOf(queue.openRun(run.run, needsOf(run), run), log, signal);
    const enqueued = await Promise.race([
      enqueueMissing(queue, store, run, { ...settings, signal }),
      untilTakenOff(stateOf, signal),
    ]);
    const told = { queue: name, enqueued: enqueued ?? 0 };
    const state = await stateOf();
    if (!isTakenOff(state)) return told;
    // No worker takes any of it, and none makes room for more.
    over.abort();
    await queue.dropJobs(run.run);
    if (await findSuccess(store, run.run)) return told;
    throw new Error(
      `${state ? `run ${run.run} was cancelled` : `Redis has lost run ${run.run}`} while it was enqueued; go on with: lensmill resume ${run.run} --enqueue --output ${store.uri}`,
    );
  } finally {
    over.abort();
    await queue.close();
    await redis.close();
  }
}

/**
 * A run that is larger than the high-water mark is enqueued for hours. Its commands to Redis wait without a word, and
 * meanwhile it may be cancelled, lost by Redis, or finished by others.
 */
async function untilTakenOff(
  stateOf: () => Promise<RunState | undefined>,
  signal: AbortSignal,
): Promise<undefined> {
  while (!isTakenOff(await stateOf())) await sleep(lookMs, undefined, { signal });
}

function isTakenOff(state: RunState | undefined): boolean {
  return state === undefined || state === 'cancelled';
}
