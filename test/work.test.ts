/** Several workers of one machine: what becomes of a run, and of them, as they crash, grow, freeze and are stopped. */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listDevices } from '../src/devices/list-devices.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { listParts } from '../src/runs/committed.ts';
import { openStore } from '../src/stores/open-store.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { openWorkerMetrics } from '../src/telemetry/metrics.ts';
import type { WorkerReport } from '../src/telemetry/worker-reports.ts';
import { openHealth } from '../workers/health.ts';
import type { PoolWorker } from '../workers/pool.ts';
import { vitalsOf } from '../workers/vitals.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';
import { until } from './helpers/until.ts';
import {
  countShards,
  enqueueSmall,
  finishRun,
  makeTinyPictures,
  type OpenPool,
  startPool,
  type Work,
} from './helpers/worked.ts';

const pictures = 120;
const shards = 12;
const photos = join(tempFolder(), 'photos');
let redis: PrivateRedis;
const pools: OpenPool[] = [];

beforeAll(async () => {
  // A third of a worker's start is compiling.
  process.env.NODE_COMPILE_CACHE ??= join(tmpdir(), 'lensmill-test-compiled');
  redis = await startPrivateRedis();
  await makeTinyPictures(photos, pictures);
});

afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.close()));
  await redis.close();
});

async function newWork(): Promise<Work> {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  return { store, redisUrl: redis.url, log: [] };
}

function start(...pool: Parameters<typeof startPool>): OpenPool {
  const started = startPool(...pool);
  pools.push(started);
  return started;
}

const shardsDone = ({ workers }: OpenPool): number[] => workers.map(({ shards: { done } }) => done);
const sum = (numbers: readonly number[]): number => numbers.reduce((all, one) => all + one, 0);
const pidOf = (worker: PoolWorker | undefined): number => worker?.process?.pid as number;

describe.concurrent('a pool', () => {
  test('that is stopped has done or handed back every shard; the next one ends the run, though a worker is killed', async () => {
    const work = await newWork();
    const first = start(work, listDevices(['sleep:300:2']));
    await until(() => first.workers.every(({ phase }) => phase === 'ready'));
    await enqueueSmall(work, 'r', { photos });
    await until(() => shardsDone(first).some((done) => done > 0));
    first.stop();
    await first.ended;
    const parts = (await listParts(work.store, 'r')).size;
    expect(parts).toBe(sum(shardsDone(first)));
    expect(parts).toBeLessThan(shards);
    const { waiting, active, delayed } = await countShards(work, 'r');
    expect([waiting, active, delayed]).toEqual([shards - parts, 0, 0]);

    const second = start(work, listDevices(['cpu:2']));
    const [victim] = second.workers;
    await until(() => victim?.phase === 'ready');
    const killed = pidOf(victim);
    process.kill(killed, 'SIGKILL');
    expect(await finishRun(work.store, 'r')).toEqual({ items: pictures, problems: [] });
    await until(() => victim?.phase === 'ready');
    expect(pidOf(victim)).not.toBe(killed);
    expect(second.workers.map(({ restarts }) => restarts.crash)).toEqual([1, 0]);
    second.stop();
    await second.ended;
  });

  test('replaces workers that have too much memory, and loses no shard by it', async () => {
    const work = await newWork();
    await enqueueSmall(work, 'r', { photos });
    const told: WorkerReport[] = [];
    const causes: string[] = [];
    const pool = start(work, listDevices(['sleep:500']), {
      maxMemoryBytes: 1_000_000,
      observer: {
        note: (_, report) => told.push(report),
        restarted: (worker, cause) => causes.push(`${worker}: ${cause}`),
        gone: (worker) => causes.push(`${worker}: gone`),
      },
    });
    expect(await finishRun(work.store, 'r')).toEqual({ items: pictures, problems: [] });
    pool.stop();
    await pool.ended;
    expect(pool.workers).toMatchObject([
      {
        shards: { done: shards, failed: 0, handedBack: 0, lost: 0 },
        images: { ok: pictures },
        restarts: { crash: 0 },
      },
    ]);
    expect(causes.length).toBeGreaterThan(1);
    expect([...new Set(causes.slice(0, -1)), causes.at(-1)]).toEqual([
      'sleep:500: memory',
      'sleep:500: gone',
    ]);
    expect(new Set(told.map(({ kind }) => kind))).toEqual(new Set(['ready', 'model', 'pulse', 'shard done']));
    const bytes = told.flatMap((report) => (report.kind === 'shard done' ? report.shard.bytes : []));
    const stored = [...(await listParts(work.store, 'r')).values()];
    expect(sum(bytes.map(({ written }) => written))).toBe(sum(stored.map(({ size }) => size)));
    const files = readdirSync(photos).map((name) => statSync(join(photos, name)).size);
    expect(sum(bytes.map(({ read }) => read))).toBe(sum(files));
    expect(work.log.join()).toContain('as soon as it has its model');
  });

  test('does a run that was deleted and made anew under its id as it is now', async () => {
    const work = await newWork();
    const few = join(tempFolder(), 'few');
    await makeTinyPictures(few, 15);
    const pool = start(work, listDevices(['cpu']));
    await enqueueSmall(work, 'r', { photos: few });
    expect(await finishRun(work.store, 'r')).toEqual({ items: 15, problems: [] });
    rmSync(join(fileURLToPath(work.store.uri), 'runs/r'), { recursive: true });
    await enqueueSmall(work, 'r', { photos });
    expect(await finishRun(work.store, 'r')).toEqual({ items: pictures, problems: [] });
    expect(work.log.join()).not.toContain('shard failed');
    pool.stop();
    await pool.ended;
  });

  test('of which every worker is given up ends with the reason', async () => {
    const work = await newWork();
    const pool = start(work, [{ name: 'cuda:0', device: 'cuda:0' }]);
    await expect(pool.ended).rejects.toMatchObject({ code: 'no-cuda' });
    expect(vitalsOf(pool).obstacles()).toEqual([
      expect.stringMatching(/^cuda:0: given up \(.*hides every GPU|no NVIDIA/),
    ]);
    expect(vitalsOf(pool).ailments()).toEqual([]);
  });

  test('tells of a worker that hangs, which is killed in the end, of a Redis that is away, and that it drains', async () => {
    const own = await startPrivateRedis();
    const work = { ...(await newWork()), redisUrl: own.url };
    const metrics = openWorkerMetrics();
    const pool = start(work, listDevices(['sleep:1']), { observer: metrics, longestSilenceSeconds: 20 });
    const [worker] = pool.workers;
    const patience = { loopMs: 8_000, startMs: 120_000, redisMs: 3_000 };
    const health = await openHealth(
      { ...vitalsOf(pool, patience), metrics: metrics.text },
      { host: '127.0.0.1', port: 0, log: silentLog },
    );
    const ask = async (path: string): Promise<{ status: number; reasons: string[] }> => {
      const reply = await fetch(`${health.url}${path}`);
      return { status: reply.status, reasons: ((await reply.json()) as { reasons: string[] }).reasons };
    };
    const untilStatus = async (path: string, status: number): Promise<string> => {
      let reasons: string[] = [];
      await until(async () => {
        const reply = await ask(path);
        reasons = reply.reasons;
        return reply.status === status;
      }, 50);
      return reasons.join();
    };
    try {
      expect(await ask('/healthz')).toEqual({ status: 200, reasons: [] });
      expect(await ask('/readyz')).toEqual({ status: 503, reasons: ['sleep:1: starting'] });
      await untilStatus('/readyz', 200);
      const scraped = await fetch(`${health.url}/metrics`);
      expect(scraped.headers.get('content-type')).toMatch(/^text\/plain; version=/);
      expect(await scraped.text()).toContain('lensmill_worker_ready{device="sleep:1"} 1');

      const hanging = pidOf(worker);
      process.kill(hanging, 'SIGSTOP');
      expect(await untilStatus('/healthz', 503)).toMatch(/^sleep:1: no sign of life for \d+ s$/);
      expect((await ask('/readyz')).status).toBe(503);
      await until(() => worker?.restarts.crash === 1);
      expect((await ask('/healthz')).status).toBe(200);
      await untilStatus('/readyz', 200);
      expect(pidOf(worker)).not.toBe(hanging);
      expect(work.log.join()).toContain('the worker hangs; it is ended');

      process.kill(own.pid, 'SIGSTOP');
      expect(await untilStatus('/readyz', 503)).toMatch(/^sleep:1: Redis was last seen \d+ s ago$/);
      expect((await ask('/healthz')).status).toBe(200);
      process.kill(own.pid, 'SIGCONT');
      await untilStatus('/readyz', 200);

      await enqueueSmall(work, 'r', { photos });
      pool.stop();
      expect(await ask('/readyz')).toEqual({
        status: 503,
        reasons: ['draining: no shards are taken any more'],
      });
      await pool.ended;
    } finally {
      await health.close();
      await pool.close();
      // One that is frozen would not close.
      process.kill(own.pid, 'SIGCONT');
      await own.close();
    }
  });
});

test('a worker that cannot go on stops no other: the run is done, and then the exit code tells', async () => {
  const work = await newWork();
  // Only a real device may embed.
  await enqueueSmall(work, 'r', { photos, model: smallModel });
  const command = lensmill(['work', '--devices', 'sleep:1,cpu', '--json'], {
    REDIS_URL: redis.url,
    LENSMILL_OUTPUT: work.store.uri,
  });
  await logged(command, 'worker given up; the others go on');
  expect(await finishRun(work.store, 'r')).toEqual({ items: pictures, problems: [] });
  command.kill('SIGTERM');
  const { exitCode, stdout, stderr } = await command;
  expect(exitCode).toBe(1);
  expect(JSON.parse(stdout)).toMatchObject({
    images: { ok: pictures, failed: 0 },
    shards: { done: shards },
    workers: [
      { worker: 'sleep:1', failure: expect.stringContaining('only takes time') },
      { worker: 'cpu', shards: { done: shards } },
    ],
  });
  expect(stderr).toMatch(/"worker":"cpu".*"msg":"shard done"/);
});

describe.concurrent('when the command is gone, its worker finishes what it has', () => {
  test.each([
    ['it is killed', 'SIGKILL', 1],
    ['its terminal is closed', 'SIGHUP', -1],
  ] as const)('%s', async (_, signal, whom) => {
    const work = await newWork();
    await enqueueSmall(work, 'r', { photos });
    // A process group of its own, as a shell gives it.
    const args = ['work', '--device', 'sleep:500', '--batch', '10'];
    const env = { REDIS_URL: redis.url, LENSMILL_OUTPUT: work.store.uri };
    const command = lensmill(args, env, ['setsid']);
    await logged(command, 'shard done');
    process.kill(whom * (command.pid as number), signal);
    await command;
    // Nobody else looks after the shards of a worker that died.
    await until(async () => (await countShards(work, 'r')).active === 0);
    const { waiting, delayed } = await countShards(work, 'r');
    expect([(await listParts(work.store, 'r')).size, delayed]).toEqual([shards - waiting, 0]);
  });
});

test('a worker that crashes as it starts is given up, with what to do about it', async () => {
  const crashing = new URL('helpers/crash-at-start.ts', import.meta.url).href;
  const { exitCode, stderr, stdout } = await lensmill(
    ['work', '--devices', 'sleep:1', '--output', tempFolder()],
    {
      REDIS_URL: redis.url,
      NODE_OPTIONS: `--import ${crashing}`,
    },
  );
  expect(exitCode).toBe(2);
  expect(stderr).toContain('the last words of a worker');
  expect(stderr).toMatch(
    /^lensmill: the worker on sleep:1 crashed 5 times .*exit code 134.*lensmill doctor/m,
  );
  expect(stdout).toBe('');
});
