/**
 * What the queue asks of Redis: `node test/bench/queue.ts [--images 1000000] [--workers 4]`. A private Redis on a socket, the
 * real queue, and consumers of the real kind in this process, each with three shards at once as a worker has them. Their
 * handlers do nothing but count the shard, with measures as a worker tells them.
 *
 *   shard by shard   one run of `images` images for each shard size: all its shards enqueued, then all done
 *   second by second what a worker costs Redis while it holds three long shards, and while it waits for one
 *
 * Both sides share this machine's cores, so shards/s is a floor; Redis's own CPU time says what one Redis could do.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { consumeShards } from '../../src/consume.ts';
import { openQueue, type ShardQueue } from '../../src/queue.ts';
import { openRedis, type RedisClient } from '../../src/redis/connection.ts';
import { startPrivateRedis } from '../../src/redis/server.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { mapMeasures } from '../../src/telemetry/measures.ts';
import { memoryOf, readUse, usedSince } from './redis-use.ts';

const shardSizes = [64, 128, 256, 512, 1024, 2048, 4096];
/** As in workers/worker.ts. */
const shardsInFlight = 3;
const holdMs = 9_000;
const needs = { lensmill: 'any', model: 'any' };
const noLimit = { highWater: 1e9, attempts: 5 };
/** Numbers of the usual length. */
const measures = mapMeasures(() => 12_345);

interface Bench {
  redis: RedisClient;
  queue: ShardQueue;
  address: { redisUrl: string; name: string };
}

export async function benchQueue(options: { images: number; workers: number }): Promise<void> {
  const server = await startPrivateRedis();
  const address = { redisUrl: server.url, name: 'bench' };
  const bench = { redis: openRedis(server.url), queue: openQueue(address), address };
  try {
    console.log(`${options.images.toLocaleString('en')} images, ${options.workers} consumers in one process`);
    const warmUp = { images: 100_000, workers: options.workers, shardSize: 64 };
    await doRun(bench, 'warm-up', warmUp);
    const rows: Record<string, Record<string, string | number>> = {};
    for (const shardSize of shardSizes)
      rows[shardSize] = await doRun(bench, `of-${shardSize}`, { ...options, shardSize });
    console.log('a whole run, by images in a shard');
    console.table(rows);
    console.log('a worker, by what it does');
    console.table({
      [`has ${shardsInFlight} shards`]: await standBy(bench, 'held', shardsInFlight),
      'waits, a run is open': await standBy(bench, 'empty', 0),
    });
  } finally {
    await bench.queue.close();
    bench.redis.disconnect();
    await server.close();
  }
}

/** Enqueues a run, has it done, and says what that took. */
async function doRun(
  { redis, queue, address }: Bench,
  run: string,
  { images, workers, shardSize }: { images: number; workers: number; shardSize: number },
) {
  const shards = Math.ceil(images / shardSize);
  const emptyBytes = await memoryOf(redis);
  const before = await readUse(redis);
  await queue.openRun(run, needs);
  const enqueueing = performance.now();
  await queue.enqueue(run, Array(shards).keys(), noLimit);
  const enqueueSeconds = (performance.now() - enqueueing) / 1000;
  const heldBytes = (await memoryOf(redis)) - emptyBytes;

  const over = Promise.withResolvers<void>();
  const handlers = {
    fits: () => true,
    async onShard({ shard }: { shard: number }) {
      const counts = { items: shardSize, failed: 0, measures };
      if ((await queue.markDone(run, shard, counts)) === shards) await queue.enqueueFinalize(run);
    },
    onFinalize: async () => over.resolve(),
  };
  const consuming = performance.now();
  const consumers = Array.from({ length: workers }, () =>
    consumeShards(address, { concurrency: shardsInFlight, queue, log: silentLog, handlers }),
  );
  await over.promise;
  const consumeSeconds = (performance.now() - consuming) / 1000;
  await Promise.all(consumers.map((consumer) => consumer.close(1_000)));
  const { commands, scripts, bytes, cpuSeconds } = usedSince(before, await readUse(redis));
  return {
    shards,
    'enqueued/s': Math.round(shards / enqueueSeconds),
    'done/s': Math.round(shards / consumeSeconds),
    'images/s': Math.round(images / consumeSeconds),
    'scripts a shard': (scripts / shards).toFixed(1),
    'commands a shard': (commands / shards).toFixed(1),
    'commands an image': (commands / images).toFixed(3),
    'bytes an image': (bytes / images).toFixed(1),
    'Redis µs a shard': Math.round((cpuSeconds * 1e6) / shards),
    'bytes of memory a waiting shard': Math.round(heldBytes / shards),
  };
}

/** One worker for `holdMs`, with `shards` that take longer than that. */
async function standBy({ redis, queue, address }: Bench, run: string, shards: number) {
  await queue.openRun(run, needs);
  await queue.enqueue(run, Array(shards).keys(), noLimit);
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const taken = Promise.withResolvers<void>();
  let held = 0;
  const handlers = {
    fits: () => true,
    async onShard() {
      held += 1;
      if (held === shards) taken.resolve();
      await released;
    },
    onFinalize: async () => undefined,
  };
  const worker = consumeShards(address, { concurrency: shardsInFlight, queue, log: silentLog, handlers });
  await (shards > 0 ? taken.promise : sleep(1_000));
  const before = await readUse(redis);
  await sleep(holdMs);
  const { commands, scripts, bytes, cpuSeconds } = usedSince(before, await readUse(redis));
  release();
  await worker.close(1_000);
  await queue.closeRun(run);
  const seconds = holdMs / 1000;
  return {
    'scripts/s': (scripts / seconds).toFixed(1),
    'commands/s': (commands / seconds).toFixed(1),
    'bytes/s': Math.round(bytes / seconds),
    'Redis µs/s': Math.round((cpuSeconds * 1e6) / seconds),
  };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      images: { type: 'string', default: '1000000' },
      workers: { type: 'string', default: '4' },
    },
  });
  await benchQueue({ images: Number(values.images), workers: Number(values.workers) });
}
