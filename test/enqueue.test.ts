/** A producer whose Redis is away or forgets, whose run is cancelled meanwhile, or was done in part before. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, test } from 'vitest';
import { commitPart } from '../src/commit.ts';
import { partKey, successKey } from '../src/layout.ts';
import { planRun } from '../src/plan.ts';
import { driveRun, enqueueMissing } from '../src/producer/drive.ts';
import { enqueueRun } from '../src/producer/enqueue.ts';
import { planNewRun } from '../src/producer/plan-run.ts';
import { openQueue, queueNameOf, type ShardQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { claimRun, findSuccess, needsOf, type Run } from '../src/runs/run.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { contextOf } from './helpers/context.ts';
import { itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { sourceDefaults } from './helpers/source-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';
import { until } from './helpers/until.ts';
import { makeTinyPictures } from './helpers/worked.ts';

const closing: (() => Promise<void>)[] = [];
afterAll(() => Promise.all(closing.map((close) => close())));

const limits = { highWater: 100, attempts: 1 };

interface Bench {
  folder: string;
  store: Store;
  redis: PrivateRedis;
  queue: ShardQueue;
}

async function openBench(): Promise<Bench> {
  const folder = tempFolder();
  const store = openStore(folder, sourceDefaults.s3);
  await store.probe();
  const redis = await startPrivateRedis();
  const queue = openQueue({ redisUrl: redis.url, name: queueNameOf(store.uri) });
  closing.push(async () => {
    process.kill(redis.pid, 'SIGCONT');
    await queue.close();
    await redis.close();
  });
  return { folder, store, redis, queue };
}

/** Of four shards. */
async function plannedRun(store: Store): Promise<Run> {
  const request = makeRequest('r', { shardSize: 1 });
  await claimRun(store, request);
  return planRun(store, listerOf(itemsOf(['a', 'b', 'c', 'd'])), request);
}

async function flush({ redis }: Bench): Promise<void> {
  const client = new Redis(redis.url);
  await client.flushall();
  client.disconnect();
}

async function cancel({ queue }: Bench): Promise<void> {
  await queue.setState('r', 'cancelled');
  await queue.dropJobs('r');
}

describe.concurrent('an enqueue', () => {
  test('says that Redis does not answer, and can be interrupted while it waits', async () => {
    const { store, redis, queue } = await openBench();
    const run = await plannedRun(store);
    const lines: string[] = [];
    const stop = new AbortController();
    // Nobody takes the shards, so the last of them wait for room.
    const context = contextOf({ redis: redis.url, output: store.uri, highWater: '2' }, lines);
    const enqueued = enqueueRun({ ...context, interrupted: stop.signal }, store, run);
    enqueued.catch(() => undefined);
    while ((await queue.counts('r')).waiting < 2) await sleep(20);
    process.kill(redis.pid, 'SIGSTOP');
    while (!lines.some((line) => line.includes('Redis does not answer'))) await sleep(20);
    stop.abort(new Error('interrupted'));
    await expect(enqueued).rejects.toThrow('interrupted');
  });

  test.for([
    { what: 'is cancelled', act: cancel, said: /run r was cancelled .* lensmill resume r --enqueue/ },
    { what: 'is lost by Redis', act: flush, said: /Redis has lost run r .* lensmill resume r --enqueue/ },
  ])(
    'whose run $what meanwhile ends with the reason, and leaves no shard in Redis',
    async ({ act, said }) => {
      const bench = await openBench();
      const { store, redis, queue } = bench;
      const run = await plannedRun(store);
      const context = contextOf({ redis: redis.url, output: store.uri, highWater: '2' });
      const enqueued = enqueueRun(context, store, run);
      enqueued.catch(() => undefined);
      await until(async () => (await queue.counts('r')).waiting === 2);
      await act(bench);
      await expect(enqueued).rejects.toThrow(said);
      expect(await queue.counts('r')).toEqual({ waiting: 0, active: 0, delayed: 0 });
    },
  );
});

describe.concurrent('a run that is driven from here, and has more shards than may wait,', () => {
  async function drive(bench: Bench) {
    const { store, redis } = bench;
    const photos = join(tempFolder(), 'photos');
    await makeTinyPictures(photos, 12);
    const flags = { model: 'null', device: 'sleep:300', shardSize: '1', highWater: '2' };
    const context = contextOf({ ...flags, redis: redis.url, output: store.uri });
    return driveRun(context, store, await planNewRun(context, store, [photos], { run: 'r' }));
  }

  test('is finished though Redis loses all of it', async () => {
    const bench = await openBench();
    const driven = drive(bench);
    await until(async () => (await bench.queue.progress('r')).shards > 0);
    await flush(bench);
    expect(await driven).toMatchObject({ how: 'done', success: { items: 12, ok: 12 } });
  });

  test('leaves no shard in Redis when it is cancelled', async () => {
    const bench = await openBench();
    const driven = drive(bench);
    await until(async () => (await bench.queue.progress('r')).shards > 0);
    await cancel(bench);
    expect(await driven).toEqual({ how: 'cancelled' });
    expect(await bench.queue.counts('r')).toEqual({ waiting: 0, active: 0, delayed: 0 });
    expect(await findSuccess(bench.store, 'r')).toBeUndefined();
  });
});

describe.concurrent('what the store holds', () => {
  test('is what counts as done: parts that were deleted are not finished before they are there again', async () => {
    const { folder, store, queue } = await openBench();
    const ends = { a: 'ok', b: 'ok', c: 'ok', d: 'ok' } as const;
    const { run } = await makeFinishedRun(store, 'r', { ends, request: { shardSize: 1 } });
    await queue.openRun('r', needsOf(run));
    for (let shard = 0; shard < 4; shard++) await queue.markDone('r', shard, { items: 1, failed: 0 });
    await queue.closeRun('r');
    for (const key of [successKey('r'), partKey('r', 1), partKey('r', 2)]) rmSync(join(folder, key));

    await queue.openRun('r', needsOf(run));
    await enqueueMissing(queue, store, run, limits);
    expect(await queue.progress('r')).toMatchObject({ shards: 2, items: 2 });
    expect(await queue.counts('r')).toMatchObject({ waiting: 2 });
    expect(await queue.markDone('r', 1, { items: 1, failed: 0 })).toBe(3);
  });

  test('with what a worker has just done, is a whole run: it is finished, though nobody else will count its last shard', async () => {
    const { store, queue } = await openBench();
    const run = await plannedRun(store);
    for (const shard of [0, 1, 2]) await commitPart(store, 'r', shard, Buffer.from('a part'));
    await queue.openRun('r', needsOf(run));
    await queue.enqueue('r', [3], limits);
    // Right behind the listing, a worker is done with the last shard, and its job not yet gone.
    const slow = wrapStore(store, {
      async *list(prefix, after) {
        yield* store.list(prefix, after);
        expect(await queue.markDone('r', 3, { items: 1, failed: 0 })).toBe(1);
      },
    });
    await enqueueMissing(queue, slow, run, limits);
    // Shard 3, and the job that finishes the run.
    expect(await queue.counts('r')).toMatchObject({ waiting: 2 });
  });
});
