import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { openQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { openLog, silentLog } from '../src/telemetry/log.ts';
import { openServeMetrics, type ServeMetrics } from '../src/web/metrics.ts';
import { readSamples } from './helpers/samples.ts';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close();
});

async function redisWith(
  run: string,
): Promise<{ redis: PrivateRedis; address: { redisUrl: string; name: string } }> {
  const redis = await startPrivateRedis();
  opened.push(redis);
  const address = { redisUrl: redis.url, name: 'q' };
  const queue = openQueue(address);
  await queue.openRun(run, { lensmill: '1', model: 'm' }, { items: 1_000, shards: 2 });
  await queue.enqueue(run, [0, 1], { highWater: 10, attempts: 1 });
  await queue.close();
  return { redis, address };
}

const samples = async (metrics: ServeMetrics) => readSamples((await metrics.text()).body);

test('a scrape tells of the queue, and of a run that is over nothing', async () => {
  const { address } = await redisWith('day');
  const metrics = openServeMetrics(address, { log: silentLog });
  opened.push(metrics);
  const of = await samples(metrics);
  expect(of('lensmill_queue_shards', { state: 'waiting' })).toBe(2);
  expect(of('lensmill_run_shards', { run: 'day', state: 'left' })).toBe(2);
  expect(of('lensmill_runs', { state: 'open' })).toBe(1);
  expect(of('lensmill_queue_images')).toBe(1_000);
  expect(of('lensmill_backlog_worker_seconds')).toBe(2);
  expect(of('lensmill_predicted_drain_seconds')).toBeUndefined();
  expect(of('lensmill_queue_scrape_errors_total')).toBe(0);

  const queue = openQueue(address);
  opened.push(queue);
  await queue.closeRun('day');
  const until = async (): Promise<ReturnType<typeof readSamples>> => {
    for (;;) {
      const now = await samples(metrics);
      if (now('lensmill_runs', { state: 'open' }) === 0) return now;
      await sleep(100);
    }
  };
  const over = await until();
  expect(over('lensmill_run_shards', { run: 'day', state: 'left' })).toBeUndefined();
  expect(over('lensmill_backlog_worker_seconds')).toBe(0);
});

test('what a Redis that is gone once said is not told again, and that it is gone is counted', async () => {
  const { redis, address } = await redisWith('day');
  const lines: string[] = [];
  const metrics = openServeMetrics(address, { log: openLog('warn', (line) => void lines.push(line)) });
  opened.push(metrics);
  expect((await samples(metrics))('lensmill_backlog_worker_seconds')).toBe(2);
  await redis.close();
  // What was read lately is not read again.
  await sleep(1_000);
  const [one, other] = await Promise.all([samples(metrics), samples(metrics)]);
  for (const of of [one, other]) {
    expect(of('lensmill_backlog_worker_seconds')).toBeUndefined();
    expect(of('lensmill_queue_shards', { state: 'waiting' })).toBeUndefined();
  }
  expect(other('lensmill_queue_scrape_errors_total')).toBe(2);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toContain('Redis does not answer');
});

test('without a Redis it tells of requests alone', async () => {
  const metrics = openServeMetrics(undefined, { log: silentLog });
  opened.push(metrics);
  const request = { method: 'POST', route: '/api/search', status: 200, ms: 40, isStream: false };
  metrics.noteAnswered(request);
  metrics.noteAnswered({ ...request, route: '/api/runs/events', ms: 3_600_000, isStream: true });
  const of = await samples(metrics);
  const labels = { method: 'POST', route: '/api/search', status: '200' };
  expect(of('lensmill_http_request_seconds_bucket', { ...labels, le: '0.05' })).toBe(1);
  expect(of('lensmill_http_request_seconds_count', { ...labels, route: '/api/runs/events' })).toBeUndefined();
  expect(of('lensmill_queue_images')).toBeUndefined();
});
