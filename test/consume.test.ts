import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type Consumer,
  type ConsumerHandlers,
  consumeShards,
  type ShardLeft,
  type TakenShard,
} from '../src/consume.ts';
import { OutOfReach, RunBlocked } from '../src/errors.ts';
import { LeaseLost } from '../src/lease.ts';
import { openQueue, type ShardQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { startSilentProxy } from './helpers/silent-proxy.ts';
import { until } from './helpers/until.ts';

let server: PrivateRedis;
let redis: Redis;
let queues = 0;
const closing: (() => Promise<unknown>)[] = [];
const needs = { lensmill: '1.0.0', model: 'm' };
const limits = { highWater: 1_000, attempts: 2 };

beforeAll(async () => {
  server = await startPrivateRedis();
  redis = new Redis(server.url);
});

afterAll(async () => {
  for (const close of closing.reverse()) await close();
  redis.disconnect();
  await server.close();
});

interface Bench {
  queue: ShardQueue;
  name: string;
  /** `redisUrl`: another way to the Redis. */
  consume(handlers: Partial<ConsumerHandlers>, concurrency?: number, redisUrl?: string): Consumer;
}

function newQueue(): Bench {
  const name = `test-${queues++}`;
  const address = { redisUrl: server.url, name };
  const queue = openQueue(address);
  closing.push(() => queue.close());
  return {
    queue,
    name,
    consume(handlers, concurrency = 3, redisUrl = server.url) {
      const nothing = async (): Promise<void> => undefined;
      const consumer = consumeShards(
        { ...address, redisUrl },
        {
          concurrency,
          queue,
          log: silentLog,
          handlers: { fits: () => true, onShard: nothing, onFinalize: nothing, ...handlers },
        },
      );
      closing.push(() => consumer.close(0));
      return consumer;
    },
  };
}

async function enqueue(queue: ShardQueue, run: string, count: number, options = limits): Promise<void> {
  await queue.openRun(run, needs);
  await queue.enqueue(run, range(count), options);
}

/** Ends when the lease does, as every stage of a shard. */
function untilAborted({ lease }: TakenShard): Promise<never> {
  return new Promise((_, reject) =>
    lease.signal.addEventListener('abort', () => reject(lease.signal.reason)),
  );
}

/** A consumer that has a shard in flight, and keeps it until it is told to let go; the shard has one attempt. */
async function holdShard(
  { queue, consume }: Bench,
  onLeft = (_how: ShardLeft): void => {},
): Promise<Consumer> {
  const started = Promise.withResolvers<void>();
  const consumer = consume({
    onLeft,
    onShard: (taken) => {
      started.resolve();
      return untilAborted(taken);
    },
  });
  await enqueue(queue, 'r', 1, { highWater: 10, attempts: 1 });
  await started.promise;
  return consumer;
}

test('every shard is delivered once', async () => {
  const { queue, consume } = newQueue();
  await enqueue(queue, 'r', 50);
  const seen: number[] = [];
  consume({ onShard: async ({ shard }) => void seen.push(shard) });
  await until(() => seen.length === 50);
  await until(async () => (await queue.counts('r')).active === 0);
  expect(seen.toSorted((a, b) => a - b)).toEqual([...range(50)]);
});

test('the producer keeps at most high-water shards waiting', async () => {
  const { queue, consume } = newQueue();
  let most = 0;
  let done = 0;
  await queue.openRun('r', needs);
  consume({
    onShard: async () => {
      most = Math.max(most, (await queue.counts('r')).waiting);
      done += 1;
    },
  });
  await queue.enqueue('r', range(300), { highWater: 40, attempts: 1 });
  await until(() => done === 300);
  expect(most).toBeGreaterThan(10);
  expect(most).toBeLessThanOrEqual(40);
});

test('two runs share the workers evenly: the small one does not wait for the large one', async () => {
  const { queue, consume } = newQueue();
  await enqueue(queue, 'large', 200);
  const seen: string[] = [];
  consume({ onShard: async ({ run }) => void seen.push(run) }, 1);
  await until(() => seen.length >= 20);
  await enqueue(queue, 'small', 10);
  await until(() => seen.filter((run) => run === 'small').length === 10);
  // In turns: between the first of the small run and its last lie nine of the large one.
  const mixed = seen.slice(seen.indexOf('small'), seen.lastIndexOf('small'));
  expect(mixed.filter((run) => run === 'large')).toHaveLength(9);
});

test('a run that is paused is left alone until it is opened again', async () => {
  const { queue, consume } = newQueue();
  await enqueue(queue, 'r', 100);
  let done = 0;
  consume({
    onShard: async () => {
      done += 1;
      if (done === 5) await queue.setState('r', 'paused');
      else await sleep(5);
    },
  });
  await until(() => done >= 5);
  await until(async () => (await queue.counts('r')).active === 0);
  const atPause = done;
  await sleep(300);
  expect(done).toBe(atPause);
  expect(atPause).toBeLessThan(12);
  await queue.openRun('r', needs);
  await until(() => done === 100);
});

test('a worker leaves the runs that it does not fit to others', async () => {
  const { queue, consume } = newQueue();
  await enqueue(queue, 'old', 5);
  await enqueue(queue, 'new', 5);
  const seen = new Set<string>();
  consume({ fits: (run) => run === 'new', onShard: async ({ run }) => void seen.add(run) });
  await until(async () => (await queue.counts('new')).waiting === 0);
  expect([...seen]).toEqual(['new']);
  expect((await queue.counts('old')).waiting).toBe(5);
});

test('a failing shard is tried again, then reported, and can be enqueued anew', async () => {
  const { queue, consume } = newQueue();
  const tries: number[] = [];
  const left: ShardLeft[] = [];
  consume({
    onLeft: (how) => left.push(how),
    onShard: async ({ shard }) => {
      tries.push(shard);
      if (shard === 1 && tries.length < 4) throw new Error('the disk is on fire');
    },
  });
  await enqueue(queue, 'r', 2);
  await until(async () => '1' in (await queue.progress('r')).failures);
  expect((await queue.progress('r')).failures).toEqual({ 1: 'the disk is on fire' });
  expect(tries.filter((shard) => shard === 1)).toHaveLength(2);
  expect(left).toEqual(['failed', 'failed']);
  await until(async () => (await queue.counts('r')).active === 0);

  await queue.openRun('r', needs);
  await queue.enqueue('r', [1], limits);
  await until(() => tries.length === 4);
  expect((await queue.progress('r')).failures).toEqual({});
});

test('what only the operator can mend blocks the run with its reason, and costs no attempt', async () => {
  const { queue, consume } = newQueue();
  let tries = 0;
  consume({
    onShard: async () => {
      tries += 1;
      if (tries === 1) throw new RunBlocked('the key expired');
    },
  });
  await enqueue(queue, 'r', 1, { highWater: 10, attempts: 1 });
  await until(async () => (await queue.runs()).get('r')?.state === 'blocked');
  expect((await queue.runs()).get('r')?.reason).toBe('the key expired');
  expect((await queue.progress('r')).failures).toEqual({});
  await queue.openRun('r', needs);
  await until(() => tries === 2);
});

test('a worker that cannot reach the store gives its shard to one that can, and rests', async () => {
  const { queue, consume } = newQueue();
  let tries = 0;
  consume(
    {
      onShard: async () => {
        tries += 1;
        throw new OutOfReach('no route to host');
      },
    },
    1,
  );
  await enqueue(queue, 'r', 1, { highWater: 10, attempts: 1 });
  await until(() => tries === 1);
  await until(async () => (await queue.counts('r')).waiting === 1);
  const done = Promise.withResolvers<boolean>();
  consume({ onShard: async ({ suspect }) => done.resolve(suspect) });
  expect(await done.promise).toBe(false);
});

test('closing waits for the shards in flight; past the grace period they are handed back whole', async () => {
  const bench = newQueue();
  const { queue } = bench;
  const consumer = await holdShard(bench);
  await consumer.close(50);
  expect(await queue.counts('r')).toEqual({ waiting: 1, active: 0, delayed: 0 });
  expect((await queue.progress('r')).failures).toEqual({});
});

test('a second word ends the grace period', async () => {
  const bench = newQueue();
  const { queue } = bench;
  const left: ShardLeft[] = [];
  const consumer = await holdShard(bench, (how) => left.push(how));
  expect(consumer.vitals()).toEqual({ redisSeenMs: expect.any(Number), shardsInFlight: 1 });
  const drained = consumer.close(600_000);
  await consumer.close(0);
  await drained;
  expect((await queue.counts('r')).waiting).toBe(1);
  expect(left).toEqual(['handed back']);
  expect(consumer.vitals().shardsInFlight).toBe(0);
});

test("whose lock is another worker's drops the shard, and says nothing of it to Redis", async () => {
  const { queue, name, consume } = newQueue();
  const started = Promise.withResolvers<TakenShard>();
  const ended = Promise.withResolvers<unknown>();
  const left: ShardLeft[] = [];
  consume({
    onLeft: (how) => left.push(how),
    onShard: async (taken) => {
      started.resolve(taken);
      await untilAborted(taken).catch((reason) => ended.resolve(reason));
      taken.lease.check();
    },
  });
  await enqueue(queue, 'r', 1, { highWater: 10, attempts: 1 });
  const { lease } = await started.promise;
  await redis.set(`{lensmill}:${name}.r:r-0:lock`, 'another', 'PX', 60_000);
  expect(await ended.promise).toBeInstanceOf(LeaseLost);
  expect(() => lease.check()).toThrow(LeaseLost);
  await until(() => left.length > 0);
  expect(left).toEqual(['lost']);
  expect(await queue.counts('r')).toEqual({ waiting: 0, active: 1, delayed: 0 });
  expect((await queue.progress('r')).failures).toEqual({});
});

test('a shard that is done as its run is cancelled has not failed', async () => {
  const { queue, consume } = newQueue();
  const left: ShardLeft[] = [];
  const taken = Promise.withResolvers<void>();
  const consumer = consume({
    onLeft: (how) => left.push(how),
    onShard: () => {
      taken.resolve();
      return queue.dropJobs('r');
    },
  });
  await enqueue(queue, 'r', 1, { highWater: 10, attempts: 1 });
  await taken.promise;
  await consumer.close(600_000);
  expect(left).toEqual([]);
  expect((await queue.progress('r')).failures).toEqual({});
});

test('the finalize job reaches a worker, and closes the run', async () => {
  const { queue, consume } = newQueue();
  const finalized = Promise.withResolvers<string>();
  consume({ onFinalize: async (run) => finalized.resolve(run) });
  await queue.openRun('r', needs);
  await queue.enqueueFinalize('r');
  expect(await finalized.promise).toBe('r');
  await until(async () => !(await queue.runs()).has('r'));
});

test('until a run is closed its finalize job is there, so that another worker closes it where ours dies', async () => {
  const { queue, consume } = newQueue();
  const { closeRun } = queue;
  let active = 0;
  queue.closeRun = async (run) => {
    ({ active } = await queue.counts(run));
    await closeRun(run);
  };
  consume({});
  await queue.openRun('r', needs);
  await queue.enqueueFinalize('r');
  await until(async () => !(await queue.runs()).has('r'));
  expect(active).toBe(1);
  await until(async () => (await queue.counts('r')).active === 0);
});

function* range(count: number): Iterable<number> {
  for (let n = 0; n < count; n++) yield n;
}

test('a connection to Redis that has gone silent is replaced, and shards are taken over the new one', async () => {
  const proxy = await startSilentProxy(server.url);
  closing.push(async () => proxy.close());
  const { queue, consume } = newQueue();
  const taken: number[] = [];
  const left: ShardLeft[] = [];
  const onShard = async ({ shard, lease }: TakenShard): Promise<void> => {
    // The request for it may be as old as the silence.
    lease.check();
    taken.push(shard);
  };
  consume({ onShard, onLeft: (how) => left.push(how) }, 1, `redis://${proxy.address}`);
  await enqueue(queue, 'r', 1);
  await until(async () => taken.length === 1 && (await queue.counts('r')).active === 0);
  proxy.silence();
  await queue.enqueue('r', [1], limits);
  await until(() => taken.length === 2);
  expect(taken).toEqual([0, 1]);
  expect(left).toEqual([]);
});
