/**
 * How a pool grows: `node test/bench/scale.ts [--workers 1,2,4,8] [--sleep 500] [--shards 48]`. So many `lensmill work`
 * processes on this machine share one Redis and one output. Their device is `--device sleep:MS`, which stands for a GPU: a
 * batch of 64 takes that long and uses no core, so that the cores are free for what is measured, the way to and from it.
 *
 *   speed     images/s of the pool, from the moment that its run is opened to the last part, every worker ready before;
 *             each pool has a run of its own of `shards` shards a worker, a batch each, in every pool as many a worker
 *   scaling   that, divided by workers × the speed of one
 *   Redis     what it did for that run, by its own count, which is all but the workers' waiting before and after
 *
 * Pictures are small (160 × 120), as eight GPUs' worth of decoding would not fit into a laptop's cores.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { resolveModel } from '../../src/models/model.ts';
import { planRun } from '../../src/plan.ts';
import { enqueueMissing, queueOf } from '../../src/producer/drive.ts';
import { openQueue } from '../../src/queue.ts';
import { openRedis } from '../../src/redis/connection.ts';
import { startPrivateRedis } from '../../src/redis/server.ts';
import { claimRun, findSuccess, needsOf, type Run } from '../../src/runs/run.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { openSource } from '../../src/sources/open-source.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { type CliProcess, lensmill, logged } from '../helpers/cli.ts';
import { makeRequest } from '../helpers/requests.ts';
import { sourceDefaults } from '../helpers/source-options.ts';
import { makeManyPhotos } from './many-photos.ts';
import { readUse, usedSince } from './redis-use.ts';
import { treeSeconds } from './timing.ts';

const batch = 64;
const pictures = 1_000;

export interface ScaleOptions {
  workers: readonly number[];
  sleepMs: number;
  /** For each worker. */
  shards: number;
}

interface PoolTimes {
  images: number;
  seconds: number;
  coreSeconds: number;
  commands: number;
  bytes: number;
  redisSeconds: number;
}

export async function benchScale({ workers, sleepMs, shards }: ScaleOptions): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  const output = join(work, 'output');
  mkdirSync(output);
  const redis = await startPrivateRedis();
  const pool: CliProcess[] = [];
  try {
    const paths = await makeManyPhotos(join(work, 'photos'), pictures, { width: 160 });
    const runs = openRuns({ work, output, paths, redisUrl: redis.url });
    const rows: Record<string, Record<string, string | number>> = {};
    let one: number | undefined;
    console.log(
      `a batch of ${batch} takes ${sleepMs} ms on the sleep device, ${shards} batches a worker, ${availableParallelism()} cores`,
    );
    for (const count of workers) {
      // Nobody has a model before the first shard: a short run first, a shard for everyone's every place.
      const started = Array.from({ length: count - pool.length }, () =>
        startWorker(output, redis.url, sleepMs),
      );
      pool.push(...started);
      await Promise.all(started.map((worker) => logged(worker, 'worker ready')));
      const loaded = Promise.all(started.map((worker) => logged(worker, 'model loaded')));
      await runs.time(`warm-up-${count}`, 3 * count, pool);
      await loaded;
      const times = await runs.time(`measured-${count}`, shards * count, pool);
      const rate = times.images / times.seconds;
      one ??= rate / count;
      rows[count] = rowOf(times, rate / (one * count));
      console.error(`${count} workers: ${Math.round(rate)} images/s`);
    }
    console.table(rows);
    await runs.close();
  } finally {
    for (const worker of pool) worker.kill();
    await Promise.all(pool);
    await redis.close();
    rmSync(work, { recursive: true, force: true });
  }
}

function rowOf(times: PoolTimes, scaling: number) {
  const { images, seconds, coreSeconds, commands, bytes, redisSeconds } = times;
  return {
    images,
    'images/s': (images / seconds).toFixed(1),
    scaling: `${(100 * scaling).toFixed(1)} %`,
    'cores busy with it': (coreSeconds / seconds).toFixed(2),
    'Redis commands an image': (commands / images).toFixed(2),
    'Redis bytes an image': (bytes / images).toFixed(0),
    'Redis µs an image': ((redisSeconds * 1e6) / images).toFixed(1),
  };
}

function startWorker(output: string, redisUrl: string, sleepMs: number): CliProcess {
  const flags = [
    '--output',
    output,
    '--redis',
    redisUrl,
    '--device',
    `sleep:${sleepMs}`,
    '--batch',
    `${batch}`,
  ];
  return lensmill([
    'work',
    ...flags,
    '--lanes',
    '1',
    '--threads',
    '1',
    '--allow-files',
    '--log-level',
    'info',
  ]);
}

/** Runs of any length over a few pictures: lists that name each of them again and again, under other ids. */
function openRuns(place: { work: string; output: string; paths: readonly string[]; redisUrl: string }) {
  const { work, output, paths, redisUrl } = place;
  const store = openStore(output, sourceDefaults.s3);
  const settings = resolveSettings({ output }, {}, {}).values;
  const queue = openQueue({ redisUrl, name: queueOf(settings, store) });
  const redis = openRedis(redisUrl);

  async function plan(id: string, shards: number): Promise<Run> {
    const list = join(work, `${id}.jsonl`);
    const lines = Array.from({ length: shards * batch }, (_, n) => {
      const path = paths[n % paths.length] ?? '';
      return JSON.stringify({ id: String(n).padStart(9, '0'), uri: pathToFileURL(path).href });
    });
    writeFileSync(list, `${lines.join('\n')}\n`);
    const { cacheDir } = settings;
    const { identity } = await resolveModel('null', { cacheDir, resizeMode: 'exact' });
    const source = {
      uris: [pathToFileURL(list).href],
      include: null,
      exclude: [],
      archives: false,
      list: { uri: 'uri', id: 'id', keep: [] },
    };
    const request = makeRequest(id, { source, model: identity, shardSize: batch });
    await claimRun(store, request);
    const opened = openSource(source, { ...sourceDefaults, allowFiles: true });
    try {
      return await planRun(store, opened, request);
    } finally {
      await opened.close();
    }
  }

  return {
    async time(id: string, shards: number, pool: readonly CliProcess[]): Promise<PoolTimes> {
      const run = await plan(id, shards);
      const lastPart = lastShardDone(pool, id, run.shards);
      // All of it waits before any of it is taken.
      await queue.openRun(id, needsOf(run));
      await queue.setState(id, 'paused');
      await enqueueMissing(queue, store, run, { highWater: 1e6, attempts: 3 });
      const before = await readUse(redis);
      const coresBefore = poolSeconds(pool);
      const openedAt = Date.now();
      await queue.setState(id, 'open');
      const endedAt = await lastPart;
      const { commands, bytes, cpuSeconds } = usedSince(before, await readUse(redis));
      const coreSeconds = poolSeconds(pool) - coresBefore;
      while (!(await findSuccess(store, id))) await sleep(100);
      const seconds = (endedAt - openedAt) / 1000;
      return { images: run.items, seconds, coreSeconds, commands, bytes, redisSeconds: cpuSeconds };
    },
    async close(): Promise<void> {
      await queue.close();
      redis.disconnect();
    },
  };
}

/** Unix time, ms, by the workers' own clock: when the last of a run's shards was done. */
async function lastShardDone(pool: readonly CliProcess[], run: string, shards: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let done = 0;
  const readers = pool.map((worker) => {
    worker.then(({ stderr }) => reject(new Error(`a worker ended:\n${stderr}`)), reject);
    return createInterface({ input: worker.stderr }).on('line', (line) => {
      if (!line.includes('"msg":"shard done"')) return;
      const { time, run: of } = JSON.parse(line) as { time: string; run: string };
      if (of === run) done += 1;
      if (done === shards) resolve(Date.parse(time));
    });
  });
  try {
    return await promise;
  } finally {
    for (const reader of readers) reader.close();
  }
}

const poolSeconds = (pool: readonly CliProcess[]): number =>
  pool.reduce((sum, { pid }) => sum + treeSeconds(pid), 0);

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      workers: { type: 'string', default: '1,2,4,8' },
      sleep: { type: 'string', default: '500' },
      shards: { type: 'string', default: '48' },
    },
  });
  const workers = values.workers.split(',').map(Number);
  await benchScale({ workers, sleepMs: Number(values.sleep), shards: Number(values.shards) });
}
