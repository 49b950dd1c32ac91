import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { noMeasures } from '../src/telemetry/measures.ts';
import { serveTable, workerTable } from '../src/telemetry/metric-table.ts';
import { openWorkerMetrics, type WorkerMetrics } from '../src/telemetry/metrics.ts';
import type { ShardDone } from '../src/telemetry/worker-reports.ts';
import { readSamples } from './helpers/samples.ts';

const samples = async (metrics: WorkerMetrics) => readSamples((await metrics.text()).body);

const shard: ShardDone = {
  run: 'run',
  shard: 3,
  images: { ok: 500, failed: 10, gone: 2 },
  reused: 40,
  failures: { truncated: 7, timeout: 3 },
  bytes: { read: 60_000_000, written: 4_000_000 },
  stageMs: { fetch: 300, decode: 900, infer: 1_500, write: 80 },
  measures: {
    ...noMeasures,
    images: 510,
    embedMs: 1_600,
    holdMs: 100,
    idleMs: 50,
    deviceMs: 1_500,
    batchImages: 510,
    batchRoom: 512,
  },
};

test('what a shard came to is counted, in base units', async () => {
  const metrics = openWorkerMetrics();
  metrics.note('cuda:0', { kind: 'shard done', shard });
  metrics.note('cuda:0', { kind: 'shard done', shard });
  metrics.note('cuda:0', { kind: 'shard left', how: 'handed back' });
  const of = await samples(metrics);
  expect(of('lensmill_images_total', { device: 'cuda:0', status: 'ok' })).toBe(1_000);
  expect(of('lensmill_images_total', { device: 'cuda:0', status: 'gone' })).toBe(4);
  expect(of('lensmill_image_failures_total', { device: 'cuda:0', reason: 'truncated' })).toBe(14);
  expect(of('lensmill_images_reused_total', { device: 'cuda:0' })).toBe(80);
  expect(of('lensmill_shards_total', { device: 'cuda:0', result: 'done' })).toBe(2);
  expect(of('lensmill_shards_total', { device: 'cuda:0', result: 'handed_back' })).toBe(1);
  expect(of('lensmill_stage_seconds_sum', { device: 'cuda:0', stage: 'infer' })).toBe(3);
  expect(of('lensmill_stage_seconds_bucket', { device: 'cuda:0', stage: 'write', le: '0.1' })).toBe(2);
  expect(of('lensmill_device_busy_seconds_total', { device: 'cuda:0' })).toBe(3);
  expect(of('lensmill_worker_seconds_total', { device: 'cuda:0', state: 'embedding' })).toBe(3.2);
  expect(of('lensmill_batch_slots_total', { device: 'cuda:0' })).toBe(1_024);
  expect(of('lensmill_read_bytes_total', { device: 'cuda:0' })).toBe(120_000_000);
  expect(of('lensmill_worker_limit', { device: 'cuda:0', limit: 'queue' })).toBe(0);
});

test('counters of a device begin at 0, so that the first failure is an increase', async () => {
  const metrics = openWorkerMetrics();
  metrics.note('cpu', { kind: 'pulse', pulse: pulseOf() });
  const of = await samples(metrics);
  expect(of('lensmill_image_failures_total', { device: 'cpu', reason: 'crashed-worker' })).toBe(0);
  expect(of('lensmill_shards_total', { device: 'cpu', result: 'lost' })).toBe(0);
  expect(of('lensmill_worker_restarts_total', { device: 'cpu', cause: 'memory' })).toBe(0);
  expect(of('lensmill_stage_seconds_count', { device: 'cpu', stage: 'fetch' })).toBe(0);
});

test('a part that stood already is a shard, and went through no stage', async () => {
  const metrics = openWorkerMetrics();
  const stood: ShardDone = {
    ...shard,
    images: { ok: 0, failed: 0, gone: 0 },
    failures: {},
    reused: 0,
    stageMs: { fetch: 0, decode: 0, infer: 0, write: 0 },
    measures: noMeasures,
  };
  metrics.note('cpu', { kind: 'shard done', shard: stood });
  const of = await samples(metrics);
  expect(of('lensmill_shards_total', { device: 'cpu', result: 'done' })).toBe(1);
  expect(of('lensmill_stage_seconds_count', { device: 'cpu', stage: 'write' })).toBe(0);
  expect(of('lensmill_worker_limit', { device: 'cpu', limit: 'device' })).toBeUndefined();
});

test('counters outlive the process, and what it said of itself does not', async () => {
  const metrics = openWorkerMetrics();
  const model = {
    ref: 'random:0',
    architecture: 'resnet152',
    precision: 'fp16',
    fingerprint: 'f0',
    device: 'cpu',
  };
  metrics.note('cpu', { kind: 'model', model });
  metrics.note('cpu', { kind: 'ready', device: 'cpu' });
  metrics.note('cpu', { kind: 'pulse', pulse: pulseOf() });
  metrics.note('cpu', { kind: 'shard done', shard });
  const before = await samples(metrics);
  const labels = {
    device: 'cpu',
    model: 'random:0',
    architecture: 'resnet152',
    precision: 'fp16',
    fingerprint: 'f0',
  };
  expect(before('lensmill_model_info', labels)).toBe(1);
  expect(before('lensmill_worker_ready', { device: 'cpu' })).toBe(1);
  expect(before('lensmill_worker_memory_bytes', { device: 'cpu' })).toBe(500e6);
  metrics.restarted('cpu', 'crash');
  const after = await samples(metrics);
  expect(after('lensmill_model_info', labels)).toBeUndefined();
  expect(after('lensmill_worker_memory_bytes', { device: 'cpu' })).toBeUndefined();
  expect(after('lensmill_worker_ready', { device: 'cpu' })).toBe(0);
  expect(after('lensmill_worker_restarts_total', { device: 'cpu', cause: 'crash' })).toBe(1);
  expect(after('lensmill_images_total', { device: 'cpu', status: 'ok' })).toBe(500);
});

test('another model takes the place of the one before', async () => {
  const metrics = openWorkerMetrics();
  const model = { ref: 'a', architecture: 'resnet50', precision: 'fp32', fingerprint: 'fa', device: 'cpu' };
  metrics.note('cpu', { kind: 'model', model });
  metrics.note('cpu', { kind: 'model', model: { ...model, ref: 'b', fingerprint: 'fb' } });
  const { body } = await metrics.text();
  expect(body.match(/^lensmill_model_info\{.*$/gm)).toEqual([
    'lensmill_model_info{device="cpu",model="b",architecture="resnet50",precision="fp32",fingerprint="fb"} 1',
  ]);
});

test('a worker that Redis never answered is not one that has just seen it', async () => {
  const metrics = openWorkerMetrics();
  metrics.note('cpu', { kind: 'pulse', pulse: pulseOf({ redisSeenMs: 12_000, loopLagMs: 700 }) });
  metrics.note('cpu', { kind: 'pulse', pulse: pulseOf({ redisSeenMs: 13_000 }) });
  metrics.note('cpu:1', { kind: 'pulse', pulse: pulseOf({ redisSeenMs: null }) });
  const of = await samples(metrics);
  expect(of('lensmill_redis_last_seen_seconds', { device: 'cpu' })).toBeGreaterThanOrEqual(13);
  const early = of('lensmill_redis_last_seen_seconds', { device: 'cpu:1' });
  metrics.note('cpu:1', { kind: 'pulse', pulse: pulseOf({ redisSeenMs: null }) });
  const later = (await samples(metrics))('lensmill_redis_last_seen_seconds', { device: 'cpu:1' });
  expect(later).toBeGreaterThan(early ?? Number.NaN);
  // The longest of a minute, not the last.
  expect(of('lensmill_event_loop_lag_seconds', { device: 'cpu' })).toBe(0.7);
});

test('docs/metrics.md tells of every metric what the code says', async () => {
  const page = await readFile(new URL('../docs/metrics.md', import.meta.url), 'utf8');
  const rows = [...Object.values(workerTable), ...Object.values(serveTable)].map(
    ({ name, type, labels, help }) =>
      `| \`${name}\` | ${type} | ${labels.map((label) => `\`${label}\``).join(', ')} | ${help} |`,
  );
  expect(page.match(/^\| `lensmill_.*$/gm)).toEqual(rows);
});

function pulseOf(changes: { redisSeenMs?: number | null; loopLagMs?: number } = {}) {
  return { loopLagMs: 1, redisSeenMs: 20, memoryBytes: 500e6, shardsInFlight: 2, ...changes };
}
