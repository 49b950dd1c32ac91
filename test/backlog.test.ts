import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { consumeShards } from '../src/consume.ts';
import { openQueue, type ShardQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import {
  assumedImagesPerSecond,
  type QueuedRun,
  readBacklog,
  reckonBacklog,
} from '../src/telemetry/backlog.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { noMeasures } from '../src/telemetry/measures.ts';

let server: PrivateRedis;
let queues = 0;
const opened: ShardQueue[] = [];
const needs = { lensmill: '1.0.0', model: 'm' };
const limits = { highWater: 1_000, attempts: 1 };
/** A worker that does 100 images a second, and was idle for as long again. */
const measures = { ...noMeasures, images: 200, embedMs: 1_500, holdMs: 500, idleMs: 2_000 };

beforeAll(async () => {
  server = await startPrivateRedis();
});

afterAll(async () => {
  for (const queue of opened) await queue.close();
  await server.close();
});

function newQueue(): { queue: ShardQueue; address: { redisUrl: string; name: string } } {
  const address = { redisUrl: server.url, name: `backlog-${queues++}` };
  const queue = openQueue(address);
  opened.push(queue);
  return { queue, address };
}

test('what is left is told by Redis alone, at the speed that was measured', async () => {
  const { queue } = newQueue();
  await queue.openRun('r', needs, { items: 1_000, shards: 10 });
  await queue.enqueue('r', Array.from({ length: 10 }).keys(), limits);
  const before = await readBacklog(queue);
  expect(before).toMatchObject({ images: 1_000, workerSeconds: 1_000 / assumedImagesPerSecond });
  expect(before.drainSeconds).toBeUndefined();
  expect(before.jobs).toEqual({ waiting: 10, active: 0, delayed: 0, failed: 0 });

  await queue.markDone('r', 0, { items: 100, failed: 3, measures });
  const { images, workerSeconds, shards, runs, imagesPerSecond } = await readBacklog(queue);
  expect(images).toBe(900);
  // Of 100 images a second: the time that the worker had no shard is not its speed.
  expect(workerSeconds).toBe(9);
  expect(shards.get('r')).toEqual({ done: 1, left: 9, failed: 0 });
  expect(runs).toEqual({ open: 1, paused: 0, blocked: 0, cancelled: 0 });
  expect(imagesPerSecond).toBeGreaterThan(0);
});

test('a shard that somebody has counts until it is done, and the last run until it is finalized', async () => {
  const { queue, address } = newQueue();
  await queue.openRun('r', needs, { items: 8, shards: 1 });
  await queue.enqueue('r', [0], limits);
  const finalizing = Promise.withResolvers<void>();
  const taken = Promise.withResolvers<void>();
  const goOn = Promise.withResolvers<void>();
  const consumer = consumeShards(address, {
    concurrency: 1,
    queue,
    log: silentLog,
    handlers: {
      fits: () => true,
      async onShard({ run, shard }) {
        taken.resolve();
        await goOn.promise;
        await queue.markDone(run, shard, { items: 8, failed: 0, measures });
        await queue.enqueueFinalize(run);
      },
      async onFinalize() {
        expect(await readBacklog(queue)).toMatchObject({ images: 0, workerSeconds: 1, drainSeconds: 0 });
        finalizing.resolve();
      },
    },
  });
  await taken.promise;
  const active = await readBacklog(queue);
  expect(active.jobs).toEqual({ waiting: 0, active: 1, delayed: 0, failed: 0 });
  expect(active).toMatchObject({ images: 8, workerSeconds: 1 });
  goOn.resolve();
  await finalizing.promise;
  await consumer.close(1_000);
  const over = await readBacklog(queue);
  expect(over).toMatchObject({ images: 0, workerSeconds: 0, drainSeconds: 0 });
  expect(over.runs.open).toBe(0);
  // What was measured is still known to the next run of the model.
  await queue.openRun('next', needs, { items: 1_000, shards: 2 });
  await queue.enqueue('next', [0, 1], limits);
  expect((await readBacklog(queue)).workerSeconds).toBe(10);
});

test('a run that is put off, or has nothing in Redis, is no work for a pool', async () => {
  const { queue } = newQueue();
  for (const run of ['paused', 'blocked', 'lost', 'empty'])
    await queue.openRun(run, needs, run === 'empty' ? { items: 0, shards: 0 } : { items: 500, shards: 5 });
  for (const run of ['paused', 'blocked']) {
    await queue.enqueue(run, [0, 1, 2, 3, 4], limits);
    await queue.setState(run, run === 'paused' ? 'paused' : 'blocked', 'the key expired');
  }
  const backlog = await readBacklog(queue);
  expect(backlog).toMatchObject({ workerSeconds: 0, drainSeconds: 0 });
  expect(backlog.runs).toEqual({ open: 2, paused: 1, blocked: 1, cancelled: 0 });
  expect(backlog.jobs.waiting).toBe(0);
  // Somebody has to enqueue it again, and is told so.
  expect(backlog.images).toBe(500);
  expect(backlog.shards.get('lost')).toEqual({ done: 0, left: 5, failed: 0 });

  await queue.enqueueFinalize('empty');
  expect((await readBacklog(queue)).workerSeconds).toBe(1);
  await queue.setState('paused', 'open');
  expect((await readBacklog(queue)).images).toBe(1_000);
});

test('shards that failed for good are left to their operator, and no worker waits for them', async () => {
  const { queue } = newQueue();
  await queue.openRun('r', needs, { items: 1_000, shards: 10 });
  await queue.enqueue('r', [8, 9], limits);
  for (let shard = 0; shard < 6; shard++)
    await queue.markDone('r', shard, { items: 100, failed: 0, measures });
  for (const shard of ['6', '7']) await queue.recordFailure('r', shard, 'no space left on device');
  const backlog = await readBacklog(queue);
  expect(backlog.shards.get('r')).toEqual({ done: 6, left: 2, failed: 2 });
  expect(backlog).toMatchObject({ images: 200, workerSeconds: 2 });
  expect(backlog.jobs.failed).toBe(2);
});

test('a Redis that was wiped knows of nothing to do, and once the rest is enqueued again of that', async () => {
  const { queue } = newQueue();
  const size = { items: 1_000, shards: 10 };
  await queue.openRun('r', needs, size);
  await queue.enqueue('r', Array.from({ length: 10 }).keys(), limits);
  for (const shard of [0, 1, 2]) await queue.markDone('r', shard, { items: 100, failed: 0, measures });
  const client = new Redis(server.url);
  await client.flushall();
  client.disconnect();
  expect(await readBacklog(queue)).toMatchObject({ images: 0, workerSeconds: 0, drainSeconds: 0 });

  // As `lensmill resume` does: what the store holds is counted, and told without a speed.
  await queue.openRun('r', needs, size);
  for (const shard of [0, 1, 2]) await queue.markDone('r', shard, { items: 100, failed: 0 });
  await queue.enqueue('r', [3, 4, 5, 6, 7, 8, 9], limits);
  const backlog = await readBacklog(queue);
  expect(backlog).toMatchObject({ images: 700, workerSeconds: 700 / assumedImagesPerSecond });
  expect(backlog.shards.get('r')).toEqual({ done: 3, left: 7, failed: 0 });
});

const queued = (changes: Partial<QueuedRun> = {}): QueuedRun => ({
  state: 'open',
  needs,
  size: { items: 1_000, shards: 10 },
  jobs: { waiting: 10, active: 0, delayed: 0 },
  progress: { shards: 0, items: 0, failures: {}, measures: noMeasures },
  ...changes,
});

test('a run of which nothing is measured goes by others of its model, then by those that are over', () => {
  const other = queued({
    state: 'paused',
    progress: { shards: 2, items: 200, failures: {}, measures },
  });
  const fresh = queued();
  const strange = queued({ needs: { ...needs, model: 'n' } });
  expect(
    reckonBacklog(
      new Map([
        ['a', other],
        ['b', fresh],
      ]),
      new Map([['m', 1]]),
    ).workerSeconds,
  ).toBe(10);
  expect(reckonBacklog(new Map([['b', fresh]]), new Map([['m', 20]])).workerSeconds).toBe(50);
  expect(reckonBacklog(new Map([['c', strange]]), new Map([['m', 20]])).workerSeconds).toBe(2);
});

test('the end of it is predicted while somebody works, and not when nobody does', () => {
  const progress = {
    shards: 5,
    items: 500,
    failures: {},
    measures,
    pace: { imagesPerSecond: 50, sinceLastShardMs: 0 },
  };
  const worked = queued({ progress, jobs: { waiting: 3, active: 2, delayed: 0 } });
  const left = queued({ progress, jobs: { waiting: 5, active: 0, delayed: 0 } });
  expect(reckonBacklog(new Map([['a', worked]]), new Map()).drainSeconds).toBe(10);
  expect(reckonBacklog(new Map([['a', left]]), new Map()).drainSeconds).toBeUndefined();
  expect(
    reckonBacklog(
      new Map([
        ['a', worked],
        ['b', left],
      ]),
      new Map(),
    ).drainSeconds,
  ).toBe(10);
});

test('a run that an older lensmill opened counts by its shards', () => {
  const { size: _none, ...old } = queued({ jobs: { waiting: 4, active: 1, delayed: 1 } });
  const backlog = reckonBacklog(new Map([['old', old]]), new Map([['m', 512]]));
  expect(backlog).toMatchObject({ images: 6 * 512, workerSeconds: 6 });
  expect(backlog.shards.get('old')).toEqual({ done: 0, left: 6, failed: 0 });
});

test('while anything is left in Redis, a worker is wanted', () => {
  const almost = queued({
    size: { items: 1_000, shards: 10 },
    jobs: { waiting: 1, active: 0, delayed: 0 },
    // A bitmap and counters that do not agree: Redis was wiped in between.
    progress: { shards: 9, items: 1_000, failures: {}, measures },
  });
  const backlog = reckonBacklog(new Map([['a', almost]]), new Map());
  expect(backlog).toMatchObject({ images: 1, workerSeconds: 1 });
});
