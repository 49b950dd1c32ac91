/**
 * How a pool of hosts grows: `node test/bench/hosts.ts [--workers 1,2,4,8] [--sleep 2000] [--shards 12]`, as root. Redis, the
 * store (radosgw), the producer and every worker have a network namespace of their own, on one bridge; images come from the store
 * and parts go there. A worker is given addresses and keys, nothing else. Its device is `--device sleep:MS`, which stands for a GPU: a
 * batch of 64 takes that long and uses no core.
 *
 *   speed        images/s of the pool, from the first shard that is taken to the last part; each pool has a run of its own of `shards` shards a worker, a batch each, and its models are loaded before
 *   efficiency   that, divided by workers × the speed of one
 *   cores        busy with the workers and their supervisors
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { lan, openNetwork } from '../chaos/network.ts';
import { openPool, type Pool } from '../chaos/pool.ts';
import { mustExit } from '../chaos/usual.ts';
import type { WorkerProcess } from '../chaos/worker-process.ts';
import { makeManyPhotos } from './many-photos.ts';
import { treeSeconds } from './timing.ts';

const batch = 64;
const pictures = 1_000;

const { values } = parseArgs({
  options: {
    workers: { type: 'string', default: '1,2,4,8' },
    sleep: { type: 'string', default: '2000' },
    shards: { type: 'string', default: '12' },
  },
});
const counts = values.workers.split(',').map(Number);
const shardsEach = Number(values.shards);
// An 'exit' handler takes the namespaces down.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130));

const folder = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
const network = await openNetwork({ folder: join(folder, 'redis'), workers: Math.max(...counts) });
const { place } = network.store;
let pool: Pool | undefined;
try {
  const photos = join(folder, 'photos');
  const paths = await makeManyPhotos(photos, pictures, { width: 160 });
  const source = await place.upload(photos);
  const uris = paths.map((path) => `${source}/${relative(photos, path)}`);
  pool = await openPool({
    folder: join(folder, 'pool'),
    place,
    redis: network.redis.server,
    model: 'null',
    batch,
    env: { LENSMILL_DEVICE: `sleep:${values.sleep}`, LENSMILL_LOG_LEVEL: 'info' },
  });
  const address = network.redis.host.addressOf(lan);
  console.log(
    `Redis at ${address}, a batch of ${batch} takes ${values.sleep} ms on the sleep device, ${shardsEach} batches a worker, ${availableParallelism()} cores`,
  );
  const rows: Record<string, Record<string, string | number>> = {};
  let one: number | undefined;
  for (const count of counts) {
    while (pool.workers.length < count) addWorker(pool);
    // Nobody has a model before the first shard.
    await timeRun(pool, { run: `warm-up-${count}`, shards: 3 * count, uris });
    await Promise.all(pool.workers.map((worker) => worker.logged('model loaded')));
    const { images, seconds, coreSeconds } = await timeRun(pool, {
      run: `measured-${count}`,
      shards: shardsEach * count,
      uris,
    });
    const speed = images / seconds;
    one ??= speed / count;
    rows[count] = {
      images,
      'images/s': speed.toFixed(1),
      efficiency: `${((100 * speed) / (one * count)).toFixed(1)} %`,
      'cores busy with it': (coreSeconds / seconds).toFixed(2),
    };
    console.error(`${count} workers: ${Math.round(speed)} images/s`);
  }
  console.table(rows);
} finally {
  await pool?.close();
  await network.close();
  rmSync(folder, { recursive: true, force: true });
}
process.exit(); // what the AWS client keeps open

function addWorker({ workers, work }: Pool): void {
  const host = network.workers[workers.length];
  if (!host) throw new Error('no host is left: this is a bug');
  work({ prefix: host.prefix, env: { LENSMILL_CACHE: join(folder, host.name) } });
}

/** A run of so many shards; its list names the pictures again and again, under other ids. */
async function timeRun(
  { workers, store, enqueue, untilDone, trace }: Pool,
  { run, shards, uris }: { run: string; shards: number; uris: readonly string[] },
): Promise<{ images: number; seconds: number; coreSeconds: number }> {
  const images = shards * batch;
  const lines = Array.from({ length: images }, (_, n) =>
    JSON.stringify({ id: String(n).padStart(9, '0'), uri: uris[n % uris.length] }),
  );
  const list = `lists/${run}.jsonl`;
  await store.create(list, Buffer.from(`${lines.join('\n')}\n`));
  const coresBefore = poolSeconds(workers);
  const flags = ['--id-column', 'id', '--reuse', 'off'];
  const { prefix } = network.producer;
  mustExit(
    await enqueue(`${place.output}/${list}`, run, { shardSize: batch, flags, prefix }),
    [0],
    `enqueue ${run}`,
  );
  await untilDone(run, 600_000);
  const takenAt = trace().flatMap((line) =>
    'step' in line && line.step === 'shard taken' && line.run === run ? line.at : [],
  );
  const doneAt = workers.flatMap(({ log }) =>
    log.flatMap((line) => (line.msg === 'shard done' && line.run === run ? Date.parse(line.time ?? '') : [])),
  );
  if (doneAt.length !== shards) throw new Error(`${doneAt.length} of ${shards} shards were logged`);
  const seconds = (Math.max(...doneAt) - Math.min(...takenAt)) / 1_000;
  return { images, seconds, coreSeconds: poolSeconds(workers) - coresBefore };
}

function poolSeconds(workers: readonly WorkerProcess[]): number {
  return workers.reduce((sum, { pid }) => sum + treeSeconds(pid), 0);
}
