import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { forgetPace, markDone, readCounts } from '../src/telemetry/counters.ts';
import { noMeasures } from '../src/telemetry/measures.ts';
import { openTally } from '../workers/tally.ts';

let server: PrivateRedis;
let redis: Redis;
let runs = 0;

beforeAll(async () => {
  server = await startPrivateRedis();
  redis = new Redis(server.url);
});

afterAll(async () => {
  redis.disconnect();
  await server.close();
});

const newRun = () => ({ done: `done-${runs}`, counts: `counts-${runs++}` });
const shard = (images: number, embedMs: number) => ({
  items: images,
  failed: 0,
  measures: { ...noMeasures, images, embedMs, deviceMs: embedMs - 1 },
});

test('what the workers of a run tell is added up, each shard once however often it is told', async () => {
  const run = newRun();
  expect(await markDone(redis, run, 0, shard(10, 1_000))).toBe(1);
  expect(await markDone(redis, run, 0, shard(10, 1_000))).toBe(1);
  expect(await markDone(redis, run, 1, shard(20, 3_000))).toBe(2);
  expect(await readCounts(redis, run)).toMatchObject({
    shards: 2,
    items: 30,
    measures: { ...noMeasures, images: 30, embedMs: 4_000, deviceMs: 3_998 },
  });
});

test('a part that was found adds to what is done, and to no speed', async () => {
  const run = newRun();
  await markDone(redis, run, 0, { items: 1_000, failed: 0 });
  const found = await readCounts(redis, run);
  expect(found).toMatchObject({ items: 1_000, measures: noMeasures });
  expect(found.pace).toBeUndefined();
});

test('the pace begins with the work on the first shard, and is that of all workers', async () => {
  const run = newRun();
  for (const number of [0, 1, 2]) await markDone(redis, run, number, shard(10, 2_000));
  const { pace } = await readCounts(redis, run);
  // 30 images in 2 s and the moment since; Redis's clock alone counts.
  expect(pace?.imagesPerSecond).toBeGreaterThan(5);
  expect(pace?.imagesPerSecond).toBeLessThanOrEqual(15.2);
});

test('a run that is opened again keeps its measures and begins a new pace', async () => {
  const run = newRun();
  await markDone(redis, run, 0, shard(10, 2_000));
  await forgetPace(redis, run);
  const opened = await readCounts(redis, run);
  expect(opened.pace).toBeUndefined();
  expect(opened.measures.images).toBe(10);
});

test('what a run leaves in Redis is no more for many shards than for one', async () => {
  const run = newRun();
  await markDone(redis, run, 0, shard(10, 2_000));
  const fields = await redis.hlen(run.counts);
  for (let number = 1; number < 200; number++) await markDone(redis, run, number, shard(10, 2_000));
  expect(await redis.hlen(run.counts)).toBe(fields);
});

/** Bounds that a busy machine does not break: a sleep is never shorter, and clocks of one process agree. */
const times = (tally: ReturnType<typeof openTally>, images = 1) => tally.take({ images, writeMs: 0 });

test('a worker tells each moment once, as what went on in it', async () => {
  const started = performance.now();
  const tally = openTally({ loadedMs: 500, shardsAtOnce: 3 });
  await tally.during('hold', async () => {
    await tally.during('load', () => sleep(20));
    await tally.during('embed', () => sleep(30));
    await sleep(40);
  });
  const told = tally.take({ images: 7, writeMs: 30 });
  const tookMs = performance.now() - started;
  expect(told).toMatchObject({ images: 7, writeMs: 10, idleMs: 0 });
  expect(told.loadMs).toBeGreaterThanOrEqual(518);
  expect(told.embedMs).toBeGreaterThanOrEqual(28);
  expect(told.holdMs).toBeGreaterThanOrEqual(38);
  expect(told.loadMs - 500 + told.embedMs + told.holdMs).toBeLessThanOrEqual(tookMs);
  expect(times(tally, 0)).toMatchObject({ images: 0, loadMs: 0, embedMs: 0 });
});

test('a worker that waits for a run that is open is idle; before there is one, and after, it is not', async () => {
  const tally = openTally({ loadedMs: 0, shardsAtOnce: 3 });
  tally.noShard(false);
  await sleep(20);
  expect(times(tally).idleMs).toBe(0);
  tally.noShard(true);
  await sleep(20);
  tally.noShard(true);
  expect(times(tally).idleMs).toBeGreaterThanOrEqual(18);
  await sleep(20);
  tally.noShard(false);
  expect(times(tally).idleMs).toBe(0);
});

test('of two shards at once, embedding the one goes before writing the other', async () => {
  const tally = openTally({ loadedMs: 0, shardsAtOnce: 3 });
  await Promise.all([
    tally.during('hold', () => sleep(30)),
    tally.during('hold', () => tally.during('embed', () => sleep(40))),
  ]);
  const { embedMs, holdMs } = times(tally);
  expect(embedMs).toBeGreaterThanOrEqual(38);
  expect(holdMs).toBeLessThan(embedMs);
});

test('what a worker did while it waited for a run that is over is nothing to the next one', async () => {
  const tally = openTally({ loadedMs: 0, shardsAtOnce: 3 });
  const compute = async (ms: number): Promise<void> => {
    for (const before = process.threadCpuUsage(); process.threadCpuUsage(before).user < ms * 1_000; );
  };
  tally.noShard(true);
  await compute(300);
  tally.noShard(false);
  await tally.during('embed', () => compute(20));
  const { idleMs, embedMs, coresMs, mainMs } = times(tally);
  expect(idleMs).toBe(0);
  expect(coresMs).toBeLessThanOrEqual(embedMs);
  expect(mainMs).toBeLessThanOrEqual(embedMs + 1);
});
