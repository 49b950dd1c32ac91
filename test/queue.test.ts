import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openQueue, queueNameOf, type ShardQueue } from '../src/queue.ts';
import { checkRedis } from '../src/redis/connection.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';

let server: PrivateRedis;
let redis: Redis;
let queues = 0;
const opened: ShardQueue[] = [];
const needs = { lensmill: '1.0.0', model: 'm' };
const limits = { highWater: 1_000, attempts: 2 };

beforeAll(async () => {
  server = await startPrivateRedis();
  redis = new Redis(server.url);
});

afterAll(async () => {
  for (const queue of opened) await queue.close();
  redis.disconnect();
  await server.close();
});

function newQueue(): { queue: ShardQueue; name: string } {
  const name = `test-${queues++}`;
  const queue = openQueue({ redisUrl: server.url, name });
  opened.push(queue);
  return { queue, name };
}

test('a job is its run and number and nothing else, and is in the queue once', async () => {
  const { queue, name } = newQueue();
  await queue.openRun('r', needs);
  await queue.enqueue('r', range(50), limits);
  await queue.enqueue('r', range(50), limits);
  expect(await queue.counts('r')).toEqual({ waiting: 50, active: 0, delayed: 0 });
  expect(JSON.parse((await redis.hget(`{lensmill}:${name}.r:r-7`, 'data')) ?? '')).toEqual({
    v: 1,
    run: 'r',
    shard: 7,
  });
});

test('the register names the open runs, and what a worker must be for them', async () => {
  const { queue } = newQueue();
  await queue.openRun('a', needs);
  await queue.openRun('b', { ...needs, model: 'n' });
  expect(await queue.setState('b', 'blocked', 'the key expired')).toBe(true);
  expect(await queue.setState('c', 'paused')).toBe(false);
  expect(await queue.runs()).toEqual(
    new Map([
      ['a', { v: 1, state: 'open', needs }],
      ['b', { v: 1, state: 'blocked', reason: 'the key expired', needs: { ...needs, model: 'n' } }],
    ]),
  );
});

test('a finished run leaves nothing in Redis but its counters, and those for a day', async () => {
  const { queue, name } = newQueue();
  await queue.openRun('r', needs);
  await queue.enqueue('r', range(20), limits);
  await queue.markDone('r', 0, { items: 4, failed: 0 });
  await queue.closeRun('r');
  expect(await queue.runs()).toEqual(new Map());
  const keys = await redis.keys(`{lensmill}:${name}*`);
  expect(keys.sort()).toEqual([`{lensmill}:${name}:r:counts`, `{lensmill}:${name}:r:done`]);
  for (const key of keys) expect(await redis.ttl(key)).toBeGreaterThan(80_000);
});

test('a cancelled run has no jobs, and can be opened and enqueued again', async () => {
  const { queue } = newQueue();
  await queue.openRun('r', needs);
  await queue.enqueue('r', range(20), limits);
  await queue.setState('r', 'cancelled');
  await queue.dropJobs('r');
  expect(await queue.counts('r')).toEqual({ waiting: 0, active: 0, delayed: 0 });
  await queue.openRun('r', needs);
  await queue.enqueue('r', range(20), limits);
  expect(await queue.counts('r')).toEqual({ waiting: 20, active: 0, delayed: 0 });
});

test('two may take the jobs of a run out of Redis at once: who cancels it, and who drives it', async () => {
  const { queue, name } = newQueue();
  const other = openQueue({ redisUrl: server.url, name });
  opened.push(other);
  for (let round = 0; round < 40; round++) {
    await queue.enqueue('r', range(round), limits);
    await Promise.all([queue.dropJobs('r'), other.dropJobs('r')]);
    expect(await queue.counts('r')).toEqual({ waiting: 0, active: 0, delayed: 0 });
  }
});

test('a shard that is reported twice is counted once', async () => {
  const { queue } = newQueue();
  expect(await queue.markDone('r', 3, { items: 10, failed: 1 })).toBe(1);
  expect(await queue.markDone('r', 3, { items: 10, failed: 1 })).toBe(1);
  expect(await queue.markDone('r', 4, { items: 5, failed: 0 })).toBe(2);
  expect(await queue.progress('r')).toMatchObject({ shards: 2, items: 15, failed: 1, failures: {} });
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
