/** A planned run into the queue: workers anywhere do the rest, and the one that commits the last shard finishes it. */
import { openQueue } from '../queue.ts';
import { needsOf, type Run } from '../run.ts';
import { required } from '../settings.ts';
import type { Store } from '../stores/store.ts';
import type { Caller } from './caller.ts';
import { enqueueMissing, openRedis, queueOf } from './drive.ts';

/** Enqueues what the store does not hold of a run; gives the name of its queue. Throws ConfigError 'missing-setting'. */
export async function enqueueRun(caller: Caller, store: Store, run: Run): Promise<string> {
  const { settings, interrupted } = caller;
  required(settings, 'redis');
  const redis = await openRedis(caller);
  const name = queueOf(settings, store);
  const queue = openQueue({ redisUrl: redis.url, name });
  try {
    await queue.openRun(run.run, needsOf(run), run);
    await enqueueMissing(queue, store, run, { ...settings, signal: interrupted });
    return name;
  } finally {
    await queue.close();
    await redis.close();
  }
}
