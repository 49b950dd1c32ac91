import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { readRedisFacts } from '../src/redis/facts.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';

test('a private Redis answers, keeps what it holds, and is gone when closed', async () => {
  const redis = await startPrivateRedis();
  expect(await readRedisFacts(redis.url)).toMatchObject({ policy: 'noeviction', appendsOnly: true });
  await redis.close();
  await redis.close();
  expect(existsSync(redis.url)).toBe(false);
  expect(isAlive(redis.pid)).toBe(false);
});

test('a private Redis does not outlive a process that was killed, nor do its files', async () => {
  const owner = fork(join(import.meta.dirname, 'helpers/redis-owner.ts'), { stdio: 'ignore' });
  const [{ pid, url }] = (await once(owner, 'message')) as [{ pid: number; url: string }];
  expect(isAlive(pid)).toBe(true);
  owner.kill('SIGKILL');
  const isThere = (): boolean => isAlive(pid) || existsSync(dirname(url));
  for (let waited = 0; isThere() && waited < 5_000; waited += 20) await sleep(20);
  expect(isThere()).toBe(false);
});

test('a private Redis that is killed comes back with what it held, and its clients go on', async () => {
  let restarts = 0;
  const server = await startPrivateRedis({ onRestart: () => restarts++ });
  const client = connectTo(server);
  try {
    // A write may wait for the flush of the one before, and a kill would lose it.
    await client.config('SET', 'appendfsync', 'always');
    await client.set('before', 'kept');
    const killed = server.pid;
    process.kill(killed, 'SIGKILL');
    await client.set('after', 'written');
    expect(await client.mget('before', 'after')).toEqual(['kept', 'written']);
    expect(server.pid).not.toBe(killed);
    expect(isAlive(server.pid)).toBe(true);
    expect(restarts).toBe(1);
  } finally {
    client.disconnect();
    await server.close();
  }
  expect(isAlive(server.pid)).toBe(false);
  expect(existsSync(dirname(server.url))).toBe(false);
});

test('a private Redis that dies again and again is given up, and says so', async () => {
  const lost = Promise.withResolvers<Error>();
  const server = await startPrivateRedis({ onLost: lost.resolve });
  const kill = setInterval(() => isAlive(server.pid) && process.kill(server.pid, 'SIGKILL'), 20);
  try {
    expect(await lost.promise).toMatchObject({
      code: 'no-redis',
      message: expect.stringContaining('5 times'),
    });
    expect(existsSync(dirname(server.url))).toBe(false);
  } finally {
    clearInterval(kill);
    await server.close();
  }
});

test('a private Redis that was closed is not lost', async () => {
  let losses = 0;
  const server = await startPrivateRedis({ onLost: () => losses++ });
  await server.close();
  expect(losses).toBe(0);
});

test('without redis-server on the PATH, the error names the command that installs it', async () => {
  const path = process.env.PATH;
  process.env.PATH = '/usr/bin/nowhere:/bin-without-redis';
  try {
    await expect(startPrivateRedis()).rejects.toMatchObject({
      code: 'no-redis',
      message: expect.stringContaining('apt-get install redis-server'),
    });
  } finally {
    process.env.PATH = path;
  }
});

function connectTo({ url }: PrivateRedis): Redis {
  const client = new Redis(url, { maxRetriesPerRequest: null });
  // ioredis connects again by itself.
  client.on('error', () => undefined);
  return client;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
