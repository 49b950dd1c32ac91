/** Runs over the API: how far they are, by the store and by Redis, as it happens; and what failed in them. */
import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { planRun } from '../src/plan.ts';
import { openQueue, type ShardQueue } from '../src/queue.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { claimRun } from '../src/runs/run.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { noMeasures } from '../src/telemetry/measures.ts';
import type { FailedImages, RunFacts } from '../src/web/api.ts';
import { lensmill } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { finish, itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { ask, bearer, serve } from './helpers/served.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

const { settings } = contextOf({ device: 'cpu', cacheDir: tempFolder() });
const lines: string[] = [];
let store: Store;
let redis: PrivateRedis;
let queue: ShardQueue;
let server: FastifyInstance;

beforeAll(async () => {
  store = openStore(tempFolder(), s3OptionsOf(settings));
  await store.probe();
  redis = await startPrivateRedis();
  const address = { redisUrl: redis.url, name: 'test' };
  queue = openQueue(address);
  server = await serve({ store, settings }, { queue: address }, lines);
  await server.listen({ host: '127.0.0.1', port: 0 });
});

afterAll(async () => {
  await server.close();
  await queue.close();
  await redis.close();
  await store.close();
});

/** What each event says, over a real connection. */
async function* follow(signal: AbortSignal): AsyncGenerator<RunFacts[]> {
  const { port } = server.server.address() as AddressInfo; // it listens at a port
  const { body } = await fetch(`http://127.0.0.1:${port}/api/runs/events`, { headers: bearer, signal });
  let text = '';
  for await (const chunk of (body ?? new ReadableStream()).pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      const [event, data] = text.slice(0, end).split('\n');
      text = text.slice(end + 2);
      if (event === 'event: runs') yield JSON.parse(data?.slice('data: '.length) ?? '');
    }
  }
}

const ids = ['a.jpg', 'b.jpg', 'c.jpg', 'd.jpg', 'e.jpg', 'f.jpg'];
const measures = { ...noMeasures, images: 4, embedMs: 1_000, deviceMs: 950, batchImages: 4, batchRoom: 4 };

test('who follows the runs sees one planned, under way and done, and nothing is asked when nobody does', async () => {
  const leaving = new AbortController();
  const events = follow(leaving.signal);
  const until = async (isWanted: (run: RunFacts | undefined) => boolean): Promise<RunFacts> => {
    for (;;) {
      const { value = [] } = await events.next();
      const run = value.find((one: RunFacts) => one.run === 'day');
      if (isWanted(run)) return run;
    }
  };
  expect((await events.next()).value).toEqual([]);

  const request = makeRequest('day', { createdAt: '2026-02-01T00:00:00.000Z' });
  await claimRun(store, request);
  expect(await until((run) => run !== undefined)).toMatchObject({
    state: 'planning',
    items: 0,
    queueState: null,
  });

  const run = await planRun(store, listerOf(itemsOf(ids)), request, { rowsBefore: 0 });
  await queue.openRun('day', { lensmill: run.lensmill, model: 'm' });
  await queue.markDone('day', 0, { items: 4, failed: 1, measures });
  const underWay = await until((one) => one?.state === 'unfinished' && one.throughput !== null);
  expect(underWay).toMatchObject({
    queueState: 'open',
    shards: 2,
    committed: 1,
    items: 6,
    done: 4,
    failed: 1,
  });
  expect(underWay.throughput).toMatchObject({ limit: 'device', stages: { device: { busyShare: 0.95 } } });
  expect(underWay.throughput?.verdict).toContain('the device');
  expect(underWay.throughput?.imagesPerSecond).toBeGreaterThan(0);

  await finish(store, run, { 'a.jpg': 'truncated', 'f.jpg': 'truncated' });
  await queue.markDone('day', 1, { items: 2, failed: 1 });
  expect(await until((one) => one?.state === 'done')).toMatchObject({
    committed: 2,
    done: 6,
    failed: 2,
    mended: 0,
    failures: { truncated: 2 },
  });
  leaving.abort();
  await expect(events.next()).rejects.toThrow();
});

test('the newest run is the first, and a retry tells what it mended', async () => {
  await makeFinishedRun(store, 'day.retry-1', {
    ends: { 'a.jpg': 'ok', 'f.jpg': 'access-denied' },
    request: { retryOf: 'day', createdAt: '2026-02-02T00:00:00.000Z' },
  });
  const other = await serve({ store, settings });
  try {
    const { body }: { body: RunFacts[] } = await ask(other, '/api/runs');
    expect(body.map(({ run, failed, mended, retryOf }) => [run, failed, mended, retryOf])).toEqual([
      ['day.retry-1', 1, 0, 'day'],
      ['day', 2, 1, null],
    ]);
    const { body: failed }: { body: FailedImages } = await ask(other, '/api/runs/day/failures');
    const left = { id: 'f.jpg', uri: 'file:///nowhere/f.jpg', error: 'access-denied', bytes: 1000 };
    expect(failed).toEqual({ images: [{ ...left, message: 'f.jpg is access-denied' }], next: null });
    expect((await ask(other, '/api/runs/day/failures?code=truncated')).body.images).toEqual([]);
    expect((await ask(other, '/api/runs/day.retry-1/failures')).body.images).toHaveLength(1);
  } finally {
    await other.close();
  }
});

test('failed images come page by page, each once', async () => {
  const many = Array.from({ length: 11 }, (_, n) => `${String(n).padStart(2, '0')}.jpg`);
  const ends = Object.fromEntries(
    many.map((id, n) => [id, n % 3 === 2 ? 'ok' : n % 3 ? 'corrupt' : 'empty'] as const),
  );
  await makeFinishedRun(store, 'pages', { ends });
  const read = async (code: string): Promise<string[]> => {
    const seen: string[] = [];
    for (let after = ''; ; ) {
      const { body }: { body: FailedImages } = await ask(
        server,
        `/api/runs/pages/failures?limit=2${code}${after && `&after=${after}`}`,
      );
      seen.push(...body.images.map(({ id }) => id));
      if (body.next === null) return seen;
      after = body.next;
    }
  };
  expect(await read('')).toEqual(many.filter((id) => ends[id] !== 'ok'));
  expect(await read('&code=empty')).toEqual(many.filter((id) => ends[id] === 'empty'));
  const unfinished = makeRequest('unfinished');
  await claimRun(store, unfinished);
  await planRun(store, listerOf(itemsOf(ids)), unfinished, { rowsBefore: 0 });
  expect(await ask(server, '/api/runs/unfinished/failures')).toMatchObject({
    status: 409,
    body: { code: 'not-finished' },
  });
});

test('of a run that was deleted in part, the others are told all the same', async () => {
  await store.create('runs/doomed/plan/page-00000.json', Buffer.from('{}'));
  const other = await serve({ store, settings });
  try {
    const { status, body } = await ask(other, '/api/runs');
    expect(status).toBe(200);
    const shown = body.map(({ run }: RunFacts) => run);
    expect(shown).toContain('day');
    expect(shown).not.toContain('doomed');
  } finally {
    await other.close();
  }
});

test('who would follow the runs of an output that cannot be read is told so', async () => {
  const broken = wrapStore(store, {
    list(prefix, after) {
      if (prefix.startsWith('runs/')) throw new Error('the disk is gone');
      return store.list(prefix, after);
    },
  });
  const other = await serve({ store: broken, settings });
  try {
    expect(await ask(other, '/api/runs/events')).toMatchObject({ status: 500, body: { code: 'internal' } });
  } finally {
    await other.close();
  }
});

test('a server that cannot begin lets go of Redis, and ends', async () => {
  const uri = store.uri.replace('file://', '');
  const { exitCode, stderr } = await lensmill([
    'serve',
    uri,
    '--port',
    '0',
    '--run',
    'none',
    '--redis',
    redis.url,
  ]);
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining('none')]);
});

test('without Redis, runs are told by the store', async () => {
  await redis.close();
  const other = await serve({ store, settings }, { queue: { redisUrl: redis.url, name: 'test' } }, lines);
  try {
    const { body }: { body: RunFacts[] } = await ask(other, '/api/runs');
    expect(body.find(({ run }) => run === 'day')).toMatchObject({
      state: 'done',
      queueState: null,
      throughput: null,
    });
    expect(lines.join('')).toContain('Redis does not answer');
  } finally {
    await other.close();
  }
});
