/** A planned run into the queue: workers anywhere do the rest, and the one that commits the last shard finishes it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openQueue, type ShardQueue } from '../queue.ts';
import { needsOf, type Run } from '../runs/run.ts';
import { required } from '../settings/resolve.ts';
import type { Store } from '../stores/store.ts';
import type { Caller } from './caller.ts';
import { answerOf, enqueueMissing, queueOf } from './drive.ts';
import { openRedis } from './redis.ts';

const lookMs = 5_000;

/**
 * Enqueues what the store does not hold of a run; gives the name of its queue. Waits for a Redis that is away, and says so.
 * Throws ConfigError 'missing-setting', and the reason of `interrupted`.
 */
export async function enqueueRun(caller: Caller, store: Store, run: Run): Promise<string> {
  const { settings, interrupted } = caller;
  required(settings, 'redis');
  const redis = await openRedis(caller);
  const name = queueOf(settings, store);
  const queue = openQueue({ redisUrl: redis.url, name });
  const over = new AbortController();
  const signal = AbortSignal.any([interrupted, over.signal]);
  const enqueue = async (): Promise<void> => {
    await queue.openRun(run.run, needsOf(run), run);
    await enqueueMissing(queue, store, run, { ...settings, signal });
  };
  try {
    await Promise.race([enqueue(), tellSilence(queue, caller.log, signal)]);
    return name;
  } finally {
    over.abort();
    await queue.close();
    await redis.close();
  }
}

/** A run that is larger than the high-water mark is enqueued for hours, and its commands to Redis wait without a word. */
async function tellSilence(queue: ShardQueue, log: Caller['log'], signal: AbortSignal): Promise<never> {
  for (;;) {
    await answerOf(queue.runs(), log, signal);
    await sleep(lookMs, undefined, { signal });
  }
}
