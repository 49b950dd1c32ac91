import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLog } from '../src/log.ts';
import {
  type ConsumerHandlers,
  checkRedis,
  consumeShards,
  NotForThisWorker,
  openQueue,
  queueNameOf,
  type ShardQueue,
} from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis-server.ts';

let server: PrivateRedis;
let redis: Redis;
let queues = 0;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  server = await startPrivateRedis();
  redis = new Redis(server.url);
});

afterAll(async () => {
  for (const close of closing.reverse()) await close();
  redis.disconnect();
  await server.close();
});

function newQueue(): {
  queue: ShardQueue;
  name: string;
  consume: (handlers: Partial<ConsumerHandlers>) => { close(graceMs: number): Promise<void> };
} {
  const name = `test-${queues++}`;
  const address = { redisUrl: server.url, name };
  const queue = openQueue(address);
  closing.push(() => queue.close());
  return {
    queue,
    name,
    consume(handlers) {
      const consumer = consumeShards(address, {
        concurrency: 3,
        queue,
        log: silentLog,
        handlers: { onShard: async () => undefined, onFinalize: async () => undefined, ...handlers },
      });
      closing.push(() => consumer.close(0));
      return consumer;
    },
  };
}

const limits = { highWater: 1_000, attempts: 2 };

test('every shard is delivered once, and nothing but its run and number is in Redis', async () => {
  const { queue, name, consume } = newQueue();
  await queue.enqueue('r', range(50), limits);
  await queue.enqueue('r', range(50), limits);
  expect(await queue.counts()).toEqual({ waiting: 50, active: 0, delayed: 0 });
  expect(JSON.parse((await redis.hget(`{lensmill}:${name}:r-7`, 'data')) ?? '')).toEqual({
    v: 1,
    run: 'r',
    shard: 7,
  });

  const seen: number[] = [];
  const all = Promise.withResolvers<void>();
  consume({
    onShard: async (run, shard) => {
      expect(run).toBe('r');
      if (seen.push(shard) === 50) all.resolve();
    },
  });
  await all.promise;
  expect(seen.toSorted((a, b) => a - b)).toEqual([...range(50)]);
});

test('the producer keeps at most high-water shards waiting', async () => {
  const { queue, consume } = newQueue();
  let most = 0;
  let done = 0;
  consume({
    onShard: async () => {
      most = Math.max(most, (await queue.counts()).waiting);
      done += 1;
    },
  });
  await queue.enqueue('r', range(300), { highWater: 40, attempts: 1 });
  while (done < 300) await new Promise(setImmediate);
  expect(most).toBeGreaterThan(10);
  expect(most).toBeLessThanOrEqual(40);
});

test('a shard that is reported twice is counted once', async () => {
  const { queue } = newQueue();
  expect(await queue.markDone('r', 3, { items: 10, failed: 1 })).toBe(1);
  expect(await queue.markDone('r', 3, { items: 10, failed: 1 })).toBe(1);
  expect(await queue.markDone('r', 4, { items: 5, failed: 0 })).toBe(2);
  expect(await queue.progress('r')).toEqual({ shards: 2, items: 15, failed: 1, failures: {} });
});

test('a failing shard is tried again, then reported, and can be enqueued anew', async () => {
  const { queue, consume } = newQueue();
  const tries: number[] = [];
  consume({
    onShard: async (_run, shard) => {
      tries.push(shard);
      if (shard === 1 && tries.length < 4) throw new Error('the disk is on fire');
    },
  });
  await queue.enqueue('r', [0, 1], limits);
  while (!(await queue.progress('r')).failures['1']) await new Promise((resolve) => setTimeout(resolve, 20));
  expect((await queue.progress('r')).failures).toEqual({ 1: 'the disk is on fire' });
  expect(tries.filter((shard) => shard === 1)).toHaveLength(2);

  await queue.clearFailures('r');
  await queue.enqueue('r', [1], limits);
  while (tries.length < 4) await new Promise((resolve) => setTimeout(resolve, 20));
  expect((await queue.progress('r')).failures).toEqual({});
});

test('a worker with another model leaves a shard for one that fits', async () => {
  const { queue, consume } = newQueue();
  const refused = Promise.withResolvers<void>();
  consume({
    onShard: async () => {
      refused.resolve();
      throw new NotForThisWorker('another model');
    },
  });
  await queue.enqueue('r', [0], { highWater: 10, attempts: 1 });
  await refused.promise;
  while ((await queue.counts()).delayed === 0) await new Promise(setImmediate);
  expect((await queue.progress('r')).failures).toEqual({});
});

test('closing waits for the shards in flight; past the grace period they are handed back whole', async () => {
  const { queue, consume } = newQueue();
  const started = Promise.withResolvers<void>();
  const aborted = Promise.withResolvers<unknown>();
  const consumer = consume({
    onShard: (_run, _shard, signal) => {
      started.resolve();
      return new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          aborted.resolve(signal.reason);
          reject(signal.reason);
        });
      });
    },
  });
  await queue.enqueue('r', [0], { highWater: 10, attempts: 1 });
  await started.promise;
  await consumer.close(50);
  expect(await aborted.promise).toBe('handed back');
  expect(await queue.counts()).toEqual({ waiting: 1, active: 0, delayed: 0 });
  expect((await queue.progress('r')).failures).toEqual({});
});

test('the finalize job reaches a worker', async () => {
  const { queue, consume } = newQueue();
  const finalized = Promise.withResolvers<string>();
  consume({ onFinalize: async (run) => finalized.resolve(run) });
  await queue.enqueueFinalize('r');
  expect(await finalized.promise).toBe('r');
});

test('an address without Redis is an error that says so and hides the password', async () => {
  const check = checkRedis('redis://user:secret@127.0.0.1:1');
  await expect(check).rejects.toMatchObject({
    code: 'redis-unreachable',
    message: expect.not.stringContaining('secret'),
  });
});

test('an output has a queue of its own', () => {
  expect(queueNameOf('s3://a/b')).not.toBe(queueNameOf('s3://a/c'));
  expect(queueNameOf('s3://a/b')).toMatch(/^shards-[0-9a-f]{12}$/);
});

function* range(count: number): Iterable<number> {
  for (let n = 0; n < count; n++) yield n;
}
