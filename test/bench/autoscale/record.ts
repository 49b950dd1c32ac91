/** What the simulation assumes of workers and metrics, taken from a real run on this machine, with the device that stands for a GPU. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { makeArchive } from '../../chaos/archive.ts';
import { makeFilePlace } from '../../chaos/place.ts';
import { openPool } from '../../chaos/pool.ts';
import { mustExit } from '../../chaos/usual.ts';
import { type CliProcess, lensmill } from '../../helpers/cli.ts';
import { until } from '../../helpers/until.ts';
import { simulateDay } from './day.ts';
import { fixedPool } from './scaler.ts';

export interface RecordedFacts {
  /** From the worker's start to its model. */
  startSeconds: number;
  /** By lensmill_images_total of the worker's own /metrics. */
  imagesPerSecond: number;
  /** From the shards in Redis to a backlog at the /metrics of `lensmill serve`. */
  metricSeconds: number;
  /** How much the backlog fell a second, while one worker worked: lensmill_backlog_worker_seconds is true where it is 1. */
  backlogPerSecond: number;
  /** From SIGTERM, with shards in hand, to the end of the process. */
  drainSeconds: number;
  /** From the worker's start to the run's last part, and what the simulation says of that. */
  runSeconds: number;
  simulatedSeconds: number;
}

const batch = 64;
const batchMs = 500;
const shards = 60;
const pollMs = 100;

export async function recordFacts(): Promise<RecordedFacts> {
  const folder = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  const place = makeFilePlace(join(folder, 'output'));
  const archive = await makeArchive(join(folder, 'pictures'), { count: shards * batch });
  const env = { LENSMILL_DEVICE: `sleep:${batchMs}`, LENSMILL_LOG_LEVEL: 'info' };
  const pool = await openPool({ folder: join(folder, 'pool'), place, model: 'null', batch, env });
  const onPorts = ['--port', '0', '--metrics-port', '0'];
  const serve = lensmill(['serve', '--output', place.output, '--redis', pool.redis.url, ...onPorts], env);
  try {
    const queueMetrics = await addressOf(serve);
    const enqueue = async (run: string): Promise<void> => {
      const flags = ['--reuse', 'off'];
      mustExit(await pool.enqueue(archive.folder, run, { shardSize: batch, flags }), [0], `enqueue ${run}`);
    };
    const seen = until(async () => (await valueAt(queueMetrics, backlogName)) > 0, pollMs);
    seen.catch(() => undefined); // told below
    await enqueue('r');
    await seen;
    const metricSeconds = Math.max(0, Date.now() - stepAt('shards enqueued')) / 1_000;

    const startedAt = Date.now();
    const worker = pool.work({ args: ['--metrics-port', '0'] });
    const { url = '' } = await worker.logged('health and metrics are served');
    const { time = '' } = await worker.logged('model loaded');
    const startSeconds = (Date.parse(time) - startedAt) / 1_000;
    await worker.logged('shard done', 5);
    const from = await look(url);
    await worker.logged('shard done', shards - 5);
    const to = await look(url);
    const seconds = (to.at - from.at) / 1_000;
    const lastDone = await worker.logged('shard done', shards);
    const runSeconds = (Date.parse(lastDone.time ?? '') - startedAt) / 1_000;
    const imagesPerSecond = (to.images - from.images) / seconds;

    await enqueue('again');
    await worker.logged('shard done', shards + 3);
    const stoppedAt = Date.now();
    worker.kill('SIGTERM', 'supervisor');
    await worker.ended;
    const drainSeconds = (Date.now() - stoppedAt) / 1_000;
    const nodes = { nodeSeconds: 0, startSeconds, graceSeconds: 25, lingerSeconds: 0 };
    const [simulatedSeconds = Number.NaN] = simulateDay({
      runs: [{ at: 0, images: shards * batch, shardSize: batch, imagesPerSecond }],
      scaler: fixedPool(1),
      signal: () => 0,
      nodes,
      metricSeconds: 15,
      highWater: 10_000,
    }).done;
    return {
      startSeconds,
      imagesPerSecond,
      metricSeconds,
      backlogPerSecond: (from.backlog - to.backlog) / seconds,
      drainSeconds,
      runSeconds,
      simulatedSeconds,
    };

    async function look(worker: string): Promise<{ at: number; images: number; backlog: number }> {
      const [images, backlog] = await Promise.all([
        valueAt(worker, 'lensmill_images_total'),
        valueAt(queueMetrics, backlogName),
      ]);
      return { at: Date.now(), images, backlog };
    }
  } finally {
    serve.kill();
    await serve;
    await pool.close();
    rmSync(folder, { recursive: true, force: true });
  }

  function stepAt(step: string): number {
    return pool.trace().find((line) => 'step' in line && line.step === step)?.at ?? Number.NaN;
  }
}

const backlogName = 'lensmill_backlog_worker_seconds';

/** Where a command says that it serves its metrics. */
async function addressOf(command: CliProcess): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  createInterface({ input: command.stderr }).on('line', (line) => {
    if (line.includes('health and metrics are served')) resolve((JSON.parse(line) as { url: string }).url); // pino's
  });
  command.then(({ stderr }) => reject(new Error(`it ended:\n${stderr}`)), reject);
  return promise;
}

/** The sum of a metric's series; NaN where it has none. */
async function valueAt(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const series = text
    .split('\n')
    .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return series.length > 0
    ? series.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
    : Number.NaN;
}
