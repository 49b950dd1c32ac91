/** Redis in trouble: every kind, as real servers make it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis, type RedisOptions } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { ConfigError } from '../src/errors.ts';
import { explainRedisError } from '../src/redis/errors.ts';
import { tempFolder } from './helpers/temp.ts';

const isRoot = process.getuid?.() === 0;
const ends: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A server with these settings, and a client of it. */
async function startRedis(
  settings: Record<string, string>,
  folder = tempFolder(),
): Promise<{ client: Redis; socket: string; server: ChildProcess }> {
  const socket = join(folder, 'redis.sock');
  const all = { port: '0', unixsocket: socket, dir: folder, save: '', ...settings };
  const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
  const server = spawn('redis-server', args, { stdio: 'ignore' });
  ends.push(async () => {
    if (server.exitCode === null && server.signalCode === null && server.kill('SIGKILL'))
      await once(server, 'exit');
  });
  const client = connectTo(socket);
  return { client, socket, server };
}

type Options = Pick<RedisOptions, 'username' | 'password' | 'enableReadyCheck' | 'retryStrategy'>;

function connectTo(place: string, options: Options = {}): Redis {
  const client = new Redis(place, { maxRetriesPerRequest: null, retryStrategy: () => 20, ...options });
  client.on('error', () => undefined);
  ends.push(() => client.disconnect());
  return client;
}

/** What a client says of its connection; its calls are told only that it is closed. */
async function troubleOf(client: Redis): Promise<never> {
  throw (await once(client, 'error'))[0];
}

async function explained(call: Promise<unknown>, place = 'redis://me:secret@here:6379'): Promise<unknown> {
  try {
    await call;
  } catch (error) {
    return explainRedisError(error, place);
  }
  throw new Error('Redis had no trouble');
}

test('a Redis that has reached its maxmemory says what to raise, also from a script or a transaction', async () => {
  const { client } = await startRedis({ maxmemory: '1mb', 'maxmemory-policy': 'noeviction' });
  const full = {
    code: 'redis-full',
    message: expect.stringMatching(/Redis at redis:\/\/here:6379 .*maxmemory.*REDIS_URL/),
  };
  const fill = async (): Promise<void> => {
    for (let n = 0; n < 100_000; n++) await client.set(`${n}`, 'x'.repeat(100));
  };
  expect(await explained(fill())).toMatchObject(full);
  // It may have freed a buffer since, and take a little more.
  await client.config('SET', 'maxmemory', '1');
  const script = "return redis.call('SET', KEYS[1], ARGV[1])";
  expect(await explained(client.eval(script, 1, 'a', 'b'))).toMatchObject(full);
  expect(await explained(client.multi().set('a', 'b').exec())).toMatchObject(full);
});

test.skipIf(!isRoot)(
  'a Redis whose disk is full says where to free space (needs root: a tmpfs of 1 MB)',
  async () => {
    const folder = join(tempFolder(), 'disk');
    mkdirSync(folder);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]);
    ends.push(() => execFileSync('umount', ['--lazy', folder]));
    const { client } = await startRedis({ appendonly: 'yes' }, folder);
    const fill = async (): Promise<void> => {
      // It fails to write once a second, and refuses from the next command on.
      for (let n = 0; n < 1_000; n++) {
        await client.set(`${n}`, 'x'.repeat(50_000));
        if (n > 30) await sleep(20);
      }
    };
    expect(await explained(fill())).toMatchObject({
      code: 'redis-full',
      message: expect.stringMatching(/cannot write to its disk.*MISCONF.*free space/),
    });
  },
);

test('a Redis that wants another password, or none of our commands, is one that refused us', async () => {
  const { client: anonymous, socket } = await startRedis({ requirepass: 'secret' });
  expect(await explained(anonymous.get('a'))).toMatchObject({ code: 'redis-refused' });

  const open = connectTo(socket, { password: 'secret' });
  const wrong = connectTo(socket, { password: 'wrong' });
  expect(await explained(troubleOf(wrong))).toMatchObject({ code: 'redis-refused' });
  await open.acl('SETUSER', 'some', 'on', '>pass', '~ours', '+get', '+eval');
  const some = connectTo(socket, { username: 'some', password: 'pass', enableReadyCheck: false });
  const script = "return redis.call('SET', KEYS[1], '1')";
  for (const [call, what] of [
    [some.set('ours', 'b'), /not run set: give it \+set/],
    [some.get('theirs'), /from our keys: give it ~\{lensmill\}:\*/],
    [some.eval(script, 1, 'ours'), /not run a command that BullMQ's scripts run/],
  ] as const) {
    const message = expect.stringMatching(what);
    expect(await explained(call)).toMatchObject({ code: 'redis-refused', message });
  }
});

test('a replica says that it is no primary, and one without its primary that it is not ready', async () => {
  const { client } = await startRedis({ replicaof: '127.0.0.1 1', 'replica-serve-stale-data': 'no' });
  await client.config('SET', 'replica-serve-stale-data', 'yes');
  expect(await explained(client.set('a', 'b'))).toMatchObject({ code: 'redis-read-only' });
  await client.config('SET', 'replica-serve-stale-data', 'no');
  expect(await explained(client.get('a'))).toMatchObject({ code: 'redis-not-ready' });
});

test('a Redis that is not there, or went away, is unreachable, and its password is not shown', async () => {
  for (const place of [join(tempFolder(), 'none.sock'), 'redis://me:secret@127.0.0.1:1']) {
    const error = await explained(troubleOf(connectTo(place)), place);
    expect(error).toMatchObject({ code: 'redis-unreachable' });
    expect(String(error)).not.toContain('secret');
  }

  const { socket, server } = await startRedis({});
  const client = connectTo(socket);
  await client.ping();
  client.options.retryStrategy = () => null;
  const call = explained(client.blpop('nothing', 0));
  server.kill('SIGKILL');
  expect(await call).toMatchObject({ code: 'redis-unreachable' });
});

test('what no operator can mend is given back as it is', async () => {
  const { client } = await startRedis({});
  await client.set('text', 'a');
  expect(await explained(client.lpush('text', 'b'))).toMatchObject({ name: 'ReplyError' });
  for (const error of [new TypeError('a bug'), new Error('a bug'), new ConfigError('no-redis', ''), 'text'])
    expect(explainRedisError(error, 'here')).toBe(error);
});
