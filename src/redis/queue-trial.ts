/** A run of one shard that has no images, through a queue of its own: whether a Redis lets us do all that a run takes. */
import { randomUUID } from 'node:crypto';
import { consumeShards } from '../consume.ts';
import { ConfigError } from '../errors.ts';
import { openQueue } from '../queue.ts';
import { openLog } from '../telemetry/log.ts';
import { redisPlace } from './address.ts';
import { checkRedis } from './connection.ts';
import { explainRedisError } from './errors.ts';

const patienceMs = 10_000;

/** Leaves nothing. Throws ConfigError with the codes of `explainRedisError`, 'redis-slow'. */
export async function tryQueue(redisUrl: string): Promise<void> {
  await checkRedis(redisUrl);
  const address = { redisUrl, name: `trial-${randomUUID()}` };
  const run = 'trial';
  const queue = openQueue(address);
  const taken = Promise.withResolvers<void>();
  // A consumer tells its log of Redis's errors, and goes on.
  const log = openLog('warn', (line) =>
    taken.reject(new ConfigError('redis-refused', JSON.parse(line).error)),
  );
  const late = setTimeout(() => taken.reject(tooSlow(redisUrl)), patienceMs);
  try {
    await queue.openRun(run, { lensmill: '', model: '' });
    await queue.enqueue(run, [0], { highWater: 1, attempts: 1 });
    const consumer = consumeShards(address, {
      concurrency: 1,
      queue,
      log,
      handlers: {
        fits: () => true,
        onFinalize: async () => undefined,
        async onShard({ shard }) {
          await queue.markDone(run, shard, { items: 0, failed: 0 });
          taken.resolve();
        },
      },
    });
    await taken.promise.finally(() => consumer.close(0));
    await queue.progress(run);
    await queue.closeRun(run);
    await queue.forgetRun(run);
  } catch (error) {
    throw explainRedisError(error, redisUrl);
  } finally {
    clearTimeout(late);
    await queue.close();
  }
}

function tooSlow(redisUrl: string): ConfigError {
  return new ConfigError(
    'redis-slow',
    `Redis at ${redisPlace(redisUrl)} gave no shard within ${patienceMs / 1_000} s`,
  );
}
