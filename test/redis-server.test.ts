import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { checkRedis } from '../src/queue.ts';
import { startPrivateRedis } from '../src/redis-server.ts';

test('a private Redis answers, keeps what it holds, and is gone when closed', async () => {
  const redis = await startPrivateRedis();
  expect(await checkRedis(redis.url)).toMatchObject({ policy: 'noeviction', persistent: true });
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

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
