/**
 * What planning costs: `node test/bench/plan.ts [--items 1000000] [--latency 20]`. An S3 server in a process of its own lists
 * objects that nobody stored, each page `latency` ms late, as over a network.
 *
 *   listing   plainly, and several folders at once (s3/listing.ts)
 *   plan      `planRun` over the S3 source into a folder: items a second, and the most memory that its process held
 *   restart   a planner that is killed half-way, and the next one: what it lists again
 *   enqueue   the plan's shards into a real Redis while a worker takes them: the most that waited
 *
 * Exits with 1 where memory grows with the archive, something is listed twice, or more shards wait than may.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { consumeShards } from '../../src/consume.ts';
import { readPage } from '../../src/page.ts';
import { enqueueMissing } from '../../src/producer/drive.ts';
import { openQueue } from '../../src/queue.ts';
import { startPrivateRedis } from '../../src/redis/server.ts';
import { needsOf, type Run } from '../../src/runs/run.ts';
import { openStore } from '../../src/stores/open-store.ts';
import type { Store } from '../../src/stores/store.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { sourceDefaults } from '../helpers/source-options.ts';
import { type Cost, months, type Planned, type Role } from './plan-process.ts';

const highWater = 200;
const mostMegabytes = 300;

export async function benchPlan({ items, latencyMs }: { items: number; latencyMs: number }): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  const server = start('serve', items, latencyMs);
  try {
    const [endpoint] = (await once(server, 'message')) as [string];
    const listed = async (): Promise<number> => {
      server.send('listed');
      return (await once(server, 'message'))[0];
    };
    console.log(`${items} objects in ${months} folders, pages ${latencyMs} ms late`);
    for (const manner of ['plain', 'parallel'] as const) {
      const { seconds } = await resultOf<Cost>(start('list', endpoint, manner));
      console.log(`listing, ${manner}: ${perSecond(items, seconds)} objects/s`);
    }

    const whole = await resultOf<Planned>(start('plan', endpoint, join(work, 'whole')));
    console.log(`plan: ${perSecond(items, whole.seconds)} items/s, at most ${whole.megabytes} MB of memory`);
    if (whole.run.items !== items) fail(`${whole.run.items} of ${items} items are in the plan`);
    if (whole.megabytes > mostMegabytes) fail(`more than ${mostMegabytes} MB of memory`);

    const output = join(work, 'restarted');
    const killed = start('plan', endpoint, output);
    killed.on('message', ({ items: planned }: { items?: number }) => {
      if (planned !== undefined && planned > items / 2) killed.kill('SIGKILL');
    });
    await once(killed, 'exit');
    await sleep(10 * latencyMs + 100); // what it had asked for is answered to nobody
    const planned = await plannedItems(openStore(output, sourceDefaults.s3));
    const before = await listed();
    const { run } = await resultOf<Planned>(start('plan', endpoint, output));
    const again = (await listed()) - before - (items - planned);
    console.log(`restart: killed with ${planned} items in the plan, the next planner lists ${again} again`);
    if (run.items !== items) fail(`${run.items} of ${items} items are in the restarted plan`);
    if (again > 0) fail('the restarted planner lists what is planned already');

    const most = await mostWaiting(openStore(join(work, 'whole'), sourceDefaults.s3), whole.run);
    console.log(`enqueue: of ${whole.run.shards} shards at most ${most} waited; ${highWater} may`);
    if (most > highWater) fail('more shards wait than may');
  } finally {
    server.kill();
    rmSync(work, { recursive: true, force: true });
  }
}

async function plannedItems(store: Store): Promise<number> {
  let items = 0;
  for (let page = 0; ; page++) {
    const index = await readPage(store, 'bench', page);
    if (!index) return items;
    items += index.items;
  }
}

/** The most shards seen waiting while a worker that does nothing takes all of them. */
async function mostWaiting(store: Store, run: Run): Promise<number> {
  const redis = await startPrivateRedis();
  const address = { redisUrl: redis.url, name: 'bench' };
  const queue = openQueue(address);
  await queue.openRun(run.run, needsOf(run));
  const nothing = async (): Promise<void> => undefined;
  const handlers = { fits: () => true, onShard: nothing, onFinalize: nothing };
  const enqueued = enqueueMissing(queue, store, run, { highWater, attempts: 3 }).then(() => true);
  // The producer comes up against the mark before anybody takes a shard.
  await sleep(500);
  let most = (await queue.counts(run.run)).waiting;
  const worker = consumeShards(address, { concurrency: 4, queue, log: silentLog, handlers });
  for (let isOver = false; !isOver; isOver = await Promise.race([enqueued, sleep(20, false)]))
    most = Math.max(most, (await queue.counts(run.run)).waiting);
  await worker.close(1_000);
  await queue.close();
  await redis.close();
  return most;
}

function start(role: Role, ...args: (string | number)[]): ChildProcess {
  const env = { ...process.env, AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: 'any' };
  return fork(join(import.meta.dirname, 'plan-process.ts'), [role, ...args.map(String)], {
    env,
  });
}

/** A child's last message. */
async function resultOf<T>(child: ChildProcess): Promise<T> {
  let result: T | undefined;
  child.on('message', (message) => {
    result = message as T;
  });
  const [code] = await once(child, 'exit');
  if (code !== 0 || result === undefined) throw new Error('a process of this bench failed');
  return result;
}

function perSecond(count: number, seconds: number): string {
  return Math.round(count / seconds).toLocaleString('en');
}

function fail(message: string): void {
  console.error(message);
  process.exitCode = 1;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      items: { type: 'string', default: '1000000' },
      latency: { type: 'string', default: '20' },
    },
  });
  await benchPlan({ items: Number(values.items), latencyMs: Number(values.latency) });
}
