/** A producer whose Redis is away. */
import { setTimeout as sleep } from 'node:timers/promises';
import { onTestFinished, test } from 'vitest';
import { planRun } from '../src/plan.ts';
import { enqueueRun } from '../src/producer/enqueue.ts';
import { openQueue, queueNameOf } from '../src/queue.ts';
import { startPrivateRedis } from '../src/redis/server.ts';
import { claimRun } from '../src/runs/run.ts';
import { openStore } from '../src/stores/open-store.ts';
import { contextOf } from './helpers/context.ts';
import { itemsOf, listerOf } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { sourceDefaults } from './helpers/source-options.ts';
import { tempFolder } from './helpers/temp.ts';

test('an enqueue says that Redis does not answer, and can be interrupted while it waits', async ({
  expect,
}) => {
  const store = openStore(tempFolder(), sourceDefaults.s3);
  await store.probe();
  const request = makeRequest('r', { shardSize: 1 });
  await claimRun(store, request);
  const run = await planRun(store, listerOf(itemsOf(['a', 'b', 'c', 'd'])), request);
  const redis = await startPrivateRedis();
  onTestFinished(async () => {
    process.kill(redis.pid, 'SIGCONT');
    await redis.close();
  });
  const lines: string[] = [];
  const stop = new AbortController();
  // Nobody takes the shards, so the last of them wait for room.
  const context = contextOf({ redis: redis.url, output: store.uri, highWater: '2' }, lines);
  const enqueued = enqueueRun({ ...context, interrupted: stop.signal }, store, run);
  enqueued.catch(() => undefined);
  const queue = openQueue({ redisUrl: redis.url, name: queueNameOf(store.uri) });
  while ((await queue.counts('r')).waiting < 2) await sleep(20);
  await queue.close();
  process.kill(redis.pid, 'SIGSTOP');
  while (!lines.some((line) => line.includes('Redis does not answer'))) await sleep(20);
  stop.abort(new Error('interrupted'));
  await expect(enqueued).rejects.toThrow('interrupted');
});
