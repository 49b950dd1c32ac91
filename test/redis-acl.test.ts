/** The ACL line of docs/redis.md: a run lives its whole life by it, it allows nothing that is not needed, and refuses the rest. */
import Fastify from 'fastify';
import type { Redis } from 'ioredis';
import { beforeAll, expect, test } from 'vitest';
import { consumeShards } from '../src/consume.ts';
import { OutOfReach } from '../src/errors.ts';
import { openQueue, type QueueAddress } from '../src/queue.ts';
import { checkRedis } from '../src/redis/connection.ts';
import { readRedisFacts } from '../src/redis/facts.ts';
import { tryQueue } from '../src/redis/queue-trial.ts';
import { readLiveStatus } from '../src/telemetry/live-status.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { mapMeasures } from '../src/telemetry/measures.ts';
import { boardPath, queueBoard } from '../src/web/queue-board.ts';
import { userRule } from './helpers/redis-page.ts';
import { type RedisServer, startServer } from './helpers/redis-servers.ts';
import { until } from './helpers/until.ts';

const password = 'of-the-user';
const measures = mapMeasures(() => 1);
const needs = { lensmill: '1.0.0', model: 'm' };

/** As it stands in the page, with its password. */
const rule = userRule(password);
let server: RedisServer;
let admin: Redis;
let url: string;

beforeAll(async () => {
  server = await startServer();
  admin = server.client();
  await admin.call('ACL', 'SETUSER', 'lensmill', ...rule);
  url = `redis://lensmill:${password}@127.0.0.1:${server.port}`;
});

/** Everything that lensmill does with Redis, in order; shards that fail, are put off, and are lost among it. */
async function live(): Promise<void> {
  await checkRedis(url);
  const address = { redisUrl: url, name: 'q' };
  const queue = openQueue(address);
  const met = new Map<number, number>();
  let isLost = false;
  const finalized = Promise.withResolvers<void>();
  await queue.openRun('r', needs);
  await queue.enqueue('r', [0, 1, 2, 3, 4], { highWater: 100, attempts: 2 });
  const consumer = consumeShards(address, {
    concurrency: 2,
    queue,
    log: silentLog,
    handlers: {
      fits: () => true,
      async onShard({ run, shard, lease, suspect }) {
        const times = (met.get(shard) ?? 0) + 1;
        met.set(shard, times);
        if (shard === 0 && times === 1) throw new Error('the first attempt');
        if (shard === 1) throw new Error('every attempt');
        if (shard === 2 && times === 1) throw new OutOfReach('the store is away');
        if (shard === 3 && !suspect) {
          await until(async () => (await admin.del('{lensmill}:q.r:r-3:lock')) === 1);
          isLost = true;
          await new Promise((_, reject) =>
            lease.signal.addEventListener('abort', () => reject(lease.signal.reason)),
          );
        }
        const done = await queue.markDone(run, shard, { items: 1, failed: 0, measures });
        if (done === 4) await queue.enqueueFinalize(run);
      },
      onFinalize: async () => finalized.resolve(),
    },
  });
  await finalized.promise;
  await until(async () => !(await queue.runs()).has('r'));
  expect((await queue.progress('r')).failures).toEqual({ 1: 'every attempt' });
  expect(isLost).toBe(true);

  await queue.openRun('s', needs);
  await queue.setState('s', 'paused');
  await queue.enqueue('s', [0, 1, 2], { highWater: 100, attempts: 2 });
  await readLiveStatus(address, { run: 's', items: 3 });
  await look(address, 's');
  await queue.setState('s', 'cancelled');
  await queue.dropJobs('s');
  await consumer.close(0);
  await queue.close();
  await readRedisFacts(url);
  await tryQueue(url);
  expect(await admin.keys(`*trial*`)).toEqual([]);
}

/** The dashboard of `lensmill serve`: a run's jobs, and one of them. */
async function look(address: QueueAddress, run: string): Promise<void> {
  const app = Fastify();
  await app.register(
    queueBoard(address, (error) => fail(error)),
    { prefix: boardPath },
  );
  for (const path of [`queues?activeQueue=${run}&status=latest`, `queues/${run}/${run}-0`]) {
    const reply = await app.inject(`${boardPath}/api/${path}`);
    expect(reply.statusCode, reply.body).toBe(200);
  }
  await app.close();
}

function fail(error: unknown): never {
  throw error;
}

/** What Redis has refused since it was last asked: the reason, and of what. */
async function denied(): Promise<string[]> {
  const log = (await admin.acl('LOG')) as unknown as unknown[][];
  await admin.acl('LOG', 'RESET');
  return log.map((entry) => {
    const field = (name: string): unknown => entry[entry.indexOf(name) + 1];
    return `${field('reason')} ${field('object')}`;
  });
}

test('a run lives its whole life by the line of docs/redis.md, which allows no command that it does not need', async () => {
  await admin.config('RESETSTAT');
  const refused = Promise.withResolvers<string[]>();
  const ended = new AbortController();
  // Who is refused in the middle of it waits for ever: a new BullMQ that needs another command says so here.
  void until(async () => {
    const found = await denied();
    // doctor asks, and goes without.
    if (found.some((one) => one !== 'command config|get')) refused.resolve(found);
    return ended.signal.aborted;
  });
  expect(await Promise.race([live().then(() => []), refused.promise])).toEqual([]);
  ended.abort();
  const stats = await admin.info('commandstats');
  const used = [...stats.matchAll(/^cmdstat_([^:]+):/gm)].map(([, name]) => name);
  const allowed = rule.filter((word) => word.startsWith('+')).map((word) => word.slice(1));
  expect(allowed.filter((command) => !used.includes(command))).toEqual([]);
});

test.each([
  'FLUSHALL',
  'FLUSHDB',
  'KEYS *',
  'SCAN 0',
  'CONFIG SET maxmemory 1',
  'CONFIG GET *',
  'ACL LIST',
  'CLIENT LIST',
  'MONITOR',
  'SHUTDOWN',
  'SCRIPT FLUSH',
  'FUNCTION LIST',
  'REPLICAOF NO ONE',
  'SAVE',
  'MODULE LIST',
  'PUBLISH c m',
  'SUBSCRIBE c',
  'GET other',
  'SET other 1',
  'HSET lensmill:q a b',
  'RENAME {lensmill}:a b',
  'DEL {lensmill}:a other',
])('by that line, %s is refused', async (line) => {
  const user = server.client({ username: 'lensmill', password });
  const [command = '', ...args] = line.split(' ');
  await expect(user.call(command, ...args)).rejects.toThrow(/NOPERM/);
  user.disconnect();
});

test('a script reaches no further than who runs it', async () => {
  const user = server.client({ username: 'lensmill', password });
  const reaching = user.eval("return redis.call('SET', 'other', '1')", 0);
  await expect(reaching).rejects.toThrow(/can't access|ACL|NOPERM/);
  await expect(user.eval("return redis.call('FLUSHALL')", 0)).rejects.toThrow(/can't run|ACL|NOPERM/);
  user.disconnect();
});

test('what an ACL lacks is named at the start, and by doctor', async () => {
  await admin.acl('SETUSER', 'lensmill', '-hdel');
  await expect(checkRedis(url)).rejects.toMatchObject({ message: expect.stringContaining('+hdel') });
  await admin.acl('SETUSER', 'lensmill', '+hdel', '-zadd', '-info');
  await expect(tryQueue(url)).rejects.toMatchObject({
    code: 'redis-refused',
    message: expect.stringContaining('docs/redis.md'),
  });
  expect(await readRedisFacts(url)).toMatchObject({ unseen: ['INFO', 'CONFIG GET save'] });
});
