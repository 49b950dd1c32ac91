/** bull-board over a real queue whose run is half done: who may look, what is seen, and that looking changes nothing. */
import type { AddressInfo } from 'node:net';
import { appRoutes } from '@bull-board/api/dist/routes.js';
import type { FastifyInstance } from 'fastify';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Consumer, consumeShards } from '../src/consume.ts';
import { openQueue, type ShardQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { openBrowser, openPage } from './helpers/browser.ts';
import { lensmill } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { ask, bearer, serve } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const { settings } = contextOf({ device: 'cpu', cacheDir: tempFolder() });
const needs = { lensmill: '1.0.0', model: 'm' };
const limits = { highWater: 100, attempts: 2 };
let redis: PrivateRedis;
let queue: ShardQueue;
let consumer: Consumer;
let store: Store;
let server: FastifyInstance;

beforeAll(async () => {
  redis = await startPrivateRedis();
  const address = { redisUrl: redis.url, name: 'test' };
  queue = openQueue(address);
  await queue.openRun('day', needs);
  await queue.enqueue('day', [0, 1, 2, 3, 4, 5], limits);
  await queue.openRun('night', needs);
  await queue.setState('night', 'blocked', 'the key expired');

  // Three of its shards are done, one fails once and waits, one is held, and one waits.
  const isHeld = Promise.withResolvers<void>();
  consumer = consumeShards(address, {
    concurrency: 1,
    queue,
    log: silentLog,
    handlers: {
      fits: () => true,
      async onShard({ shard, lease }) {
        if (shard === 3) throw new Error('the network was away');
        if (shard < 4) return;
        isHeld.resolve();
        await new Promise((_, reject) => lease.signal.addEventListener('abort', reject));
      },
      onFinalize: async () => undefined,
    },
  });
  await isHeld.promise;

  store = openStore(tempFolder(), s3OptionsOf(settings));
  await store.probe();
  server = await serve({ store, settings }, { queue: address, queueBoard: true });
  await server.listen({ host: '127.0.0.1', port: 0 });
});

afterAll(async () => {
  await server?.close();
  await consumer?.close(0);
  await queue?.close();
  await redis?.close();
  await store?.close();
});

const list = async (url = '/queues/api/queues') => (await ask(server, url)).body.queues;

test('the runs that are open are listed with their jobs, and go as they come', async () => {
  const [day, night] = await list('/queues/api/queues?activeQueue=day');
  expect(day).toMatchObject({
    name: 'day',
    description: 'open',
    readOnlyMode: true,
    counts: { waiting: 1, active: 1, delayed: 1, failed: 0 },
  });
  const [held] = day.jobs;
  expect([held.id, held.data]).toEqual(['day-4', { v: 1, run: 'day', shard: 4 }]);
  expect(night.description).toBe('blocked: the key expired');
  expect((await ask(server, '/queues/api/queues/day/day-3')).body).toMatchObject({
    status: 'delayed',
    job: { failedReason: 'the network was away' },
  });

  await queue.openRun('new', needs);
  expect((await list()).map(({ name }: { name: string }) => name)).toContain('new');
  await queue.closeRun('new');
  expect(await list()).toHaveLength(2);
  expect((await ask(server, '/queues/api/queues/new/metrics')).status).toBe(404);
});

test('who has no token, or comes from another site, sees nothing of it', async () => {
  const paths = ['', '/', '/queue/day', '/api/queues', '/static/favicon.ico', '/nothing'];
  const get = async (path: string, headers: Record<string, string>) =>
    server.inject({ url: `/queues${path}`, headers: { host: 'localhost', ...headers } });
  for (const path of paths) {
    const { statusCode, headers, body } = await get(path, {});
    expect([path, statusCode, JSON.parse(body).code]).toEqual([path, 401, 'unauthorized']);
    expect(headers['www-authenticate']).toContain('Bearer');
    const rebound = await get(path, { ...bearer, host: 'evil.example:8152' });
    expect([path, rebound.statusCode, rebound.json().code]).toEqual([path, 421, 'wrong-host']);
  }
  const opened = await server.inject({
    method: 'POST',
    url: '/api/session',
    headers: { host: 'localhost', ...bearer },
  });
  const cookie = String(opened.headers['set-cookie']).split(';')[0] ?? '';
  expect((await get('/', { cookie, 'sec-fetch-site': 'cross-site' })).statusCode).toBe(403);
  expect((await get('/', { cookie, 'sec-fetch-site': 'same-origin' })).statusCode).toBe(200);
  const { paths: described } = (await ask(server, '/api/openapi.json')).body;
  expect(Object.keys(described).filter((path) => !path.startsWith('/api/'))).toEqual([]);
  const unasked = await serve({ store, settings }, { queue: { redisUrl: redis.url, name: 'test' } });
  expect((await ask(unasked, '/queues')).body.code).toBe('no-route');
  await unasked.close();
});

test('no route of it changes anything, and looking leaves nothing in Redis', async () => {
  const client = new Redis(redis.url);
  const before = (await client.keys('*')).toSorted();
  const writing = appRoutes.api.flatMap(({ method, route }) =>
    [method]
      .flat()
      .flatMap((one) => (one === 'get' ? [] : [route].flat().map((path) => [one, path] as const))),
  );
  expect(writing.length).toBeGreaterThan(15);
  for (const [method, route] of writing) {
    const path = route.replace(':queueName', 'day').replace(':jobId', 'day-5').replaceAll(/:\w+/g, 'waiting');
    const url = `/queues${path}`;
    // bull-board's own words, in small letters
    const { status, body } = await ask(server, url, { method: method.toUpperCase() as 'PUT' });
    expect([method, url, status, body.code]).toEqual([method, url, 404, 'no-route']);
  }
  expect(await queue.counts('day')).toEqual({ waiting: 1, active: 1, delayed: 1 });
  expect((await client.keys('*')).toSorted()).toEqual(before);
  client.disconnect();
});

test('a browser shows it, styled, and fetches nothing from elsewhere', async () => {
  const browser = await openBrowser();
  const { port } = server.server.address() as AddressInfo; // it listens at a port
  const address = `http://127.0.0.1:${port}`;
  const complaints: string[] = [];
  const page = await openPage(browser, 'about:blank', complaints);
  await page.context().request.post(`${address}/api/session`, { headers: bearer });
  const answered = new Set<string>();
  page.on('response', (reply) => answered.add(new URL(reply.url()).origin));
  await page.goto(`${address}/queues`);
  await page.getByRole('link', { name: 'day' }).first().click();
  await page.getByText('day-4').first().waitFor();
  expect(page.url()).toBe(`${address}/queues/queue/day`);
  await page.getByRole('link', { name: 'night' }).first().click();
  await page.getByText('blocked: the key expired').first().waitFor();
  expect([...answered]).toEqual([address]);
  // The fonts of a stranger, and styles of what is only seen while it loads.
  expect(complaints.filter((one) => !/stylesheet 'https:\/\/fonts|Applying inline style/.test(one))).toEqual(
    [],
  );
  await browser.close();
});

test('a Redis that is away is told, and not waited for', async () => {
  process.kill(redis.pid, 'SIGSTOP');
  expect(await ask(server, '/queues/api/queues')).toMatchObject({ status: 503, body: { code: 'no-redis' } });
  process.kill(redis.pid, 'SIGCONT');
  expect(await list()).toHaveLength(2);
});

test('without a Redis that is named there is nothing to show', async () => {
  const { exitCode, stderr } = await lensmill(['serve', tempFolder(), '--port', '0', '--queue-dashboard']);
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining('--redis')]);
});
