/** What doctor makes of a Redis as it is set up. */
import { expect, test } from 'vitest';
import { examineRedis, judgeRedis } from '../src/cli/doctor-redis.ts';
import { ConfigError } from '../src/errors.ts';
import type { RedisFacts } from '../src/redis/facts.ts';
import { resolveSettings } from '../src/settings/resolve.ts';
import { startServer } from './helpers/redis-servers.ts';

const sound: RedisFacts = {
  unseen: [],
  version: '7.0.15',
  role: 'primary',
  isCluster: false,
  policy: 'noeviction',
  maxMemory: 0,
  usedMemory: 1e6,
  appendsOnly: true,
  snapshots: true,
  isDiskFailing: false,
  roundTripMs: 0.2,
  clockAheadMs: 3,
};
const here = 'redis://127.0.0.1:6379';

async function examined(lines: readonly string[]) {
  const server = await startServer(lines);
  await server.client().ping();
  return examineRedis(resolveSettings({ redis: `redis://127.0.0.1:${server.port}` }, {}, {}).values);
}

test('a Redis that keeps what it holds is good, and a shard has gone through it', async () => {
  expect(await examined(['appendonly yes'])).toEqual({
    verdict: 'good',
    detail: expect.stringMatching(
      /^Redis \d.* at redis:.*: noeviction; append-only; \d+\.\d ms away; a shard went through it$/,
    ),
  });
});

test('one that evicts is bad, one that keeps nothing is warned of', async () => {
  expect(await examined(['maxmemory-policy allkeys-lru'])).toEqual({
    verdict: 'bad',
    detail: expect.stringMatching(/allkeys-lru, which may drop jobs.*keeps nothing on disk.*resume/),
  });
});

test('one that is away throws what explains it', async () => {
  const { values } = resolveSettings({ redis: 'redis://127.0.0.1:1' }, {}, {});
  await expect(examineRedis(values)).rejects.toThrow(ConfigError);
});

test.each<[string, Partial<RedisFacts>, string, 'warning' | 'bad', RegExp]>([
  ['a version before BullMQ’s', { version: '6.0.16' }, here, 'bad', /needs 6\.2/],
  ['a replica', { role: 'replica' }, here, 'bad', /give its primary/],
  ['a disk that fails', { isDiskFailing: true }, here, 'bad', /free space/],
  ['a node of a Cluster', { isCluster: true }, here, 'warning', /write redis-cluster:/],
  ['no TLS to another machine', {}, 'redis://:pw@queue:6379', 'warning', /plain text: use rediss/],
  ['snapshots alone', { appendsOnly: false }, here, 'warning', /^.*: no append-only file/],
  [
    'little memory left',
    { maxMemory: 1e8, usedMemory: 9e7 },
    here,
    'warning',
    /90 MB of its maxmemory 100 MB/,
  ],
  ['a long way', { roundTripMs: 180 }, here, 'warning', /180 ms away: put it nearer/],
  ['a clock that is behind', { clockAheadMs: -60_000 }, here, 'warning', /60 s behind .*no lock depends/],
])('%s is told, with what to do', (_, facts, url, verdict, detail) => {
  expect(judgeRedis({ ...sound, ...facts }, url)).toEqual({ verdict, detail: expect.stringMatching(detail) });
});

test.each([
  'rediss://queue:6379',
  'rediss-cluster://a,b',
  'redis-sentinel://localhost,[::1]/main',
  '/run/redis.sock',
])('nothing is wrong with %s, and its password is not shown', (url) => {
  expect(judgeRedis(sound, url).verdict).toBe('good');
});

test('what an ACL hides is no reason for alarm, and is told', () => {
  const { unseen: _, roundTripMs, clockAheadMs } = sound;
  const judged = judgeRedis({ unseen: ['INFO'], roundTripMs, clockAheadMs }, here);
  expect(judged).toEqual({ verdict: 'good', detail: expect.stringContaining('may not ask for INFO') });
});
