/** What the manifests lean on, for real: Redis by its own command and probes, the keys of a queue, the paths that are probed. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { consumeShards } from '../src/consume.ts';
import { openQueue } from '../src/queue.ts';
import { parseRedisAddress } from '../src/redis/address.ts';
import { type PrivateRedis, startPrivateRedis } from '../src/redis/server.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { openServeMetrics } from '../src/web/metrics.ts';
import { openHealth } from '../workers/health.ts';
import { type Manifest, openKubectl, podsOf } from './helpers/kubernetes.ts';
import { documentedSecrets, keysInDocs, page, root } from './helpers/kubernetes-docs.ts';
import { containersOf } from './helpers/pods.ts';
import { tempFolder } from './helpers/temp.ts';

let objects: Manifest[];
let secrets: Map<string, Record<string, string>>;
let server: PrivateRedis;

beforeAll(async () => {
  const kubectl = await openKubectl(tempFolder());
  objects = await kubectl.build(join(root, 'deploy/kubernetes/overlays/keda'));
  secrets = await documentedSecrets(kubectl);
  server = await startPrivateRedis();
});

afterAll(() => server.close());

test("Redis starts by the StatefulSet's command, is probed, and lets lensmill and KEDA do what they need", async () => {
  const [container] = podContainers('StatefulSet');
  const folder = tempFolder();
  const socket = join(folder, 'socket');
  /** With the pod's folders below ours, and a socket for a port. */
  const here = (text = ''): string =>
    text
      .replaceAll(/\/(etc|run|data)\b[\w/.-]*/g, (path) => join(folder, path))
      .replace('redis-cli', `redis-cli -s ${socket}`);
  const { url = '', 'users.acl': users = '' } = secrets.get('lensmill-redis') ?? {};
  const { login } = parseRedisAddress(url);
  const conf = objects.flatMap((object) =>
    object.kind === 'ConfigMap' ? (object.data?.['redis.conf'] ?? []) : [],
  );
  const [, keda = ''] = /^(user keda .*)$/m.exec(page) ?? [];
  for (const [path, text] of [
    ['etc/redis/redis.conf', here(conf[0])],
    ['run/secrets/redis/users.acl', `${users}${keda}\n`],
    ['data/none', ''],
  ] as const) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }

  const [program = '', ...args] = container?.command ?? [];
  const redis = execa(program, [...args.map(here), '--port', '0', '--unixsocket', socket], { reject: false });
  const [shell = '', ...options] = container?.startupProbe?.exec?.command ?? [];
  const ping = () => execa(shell, options.map(here), { reject: false });
  const clients: Redis[] = [];
  const as = (username: string, password: string): Redis => {
    // The check would want INFO, which is for lensmill alone.
    clients.push(new Redis(socket, { username, password, enableReadyCheck: false }));
    return clients.at(-1) as Redis; // it was put there
  };
  try {
    while ((await ping()).exitCode !== 0) await sleep(50);
    const ours = as(login?.username ?? '', login?.password ?? '');
    const info = await ours.info();
    for (const fact of ['maxmemory_policy:noeviction', 'aof_enabled:1', `maxmemory:${512 * 2 ** 20}`])
      expect(info).toContain(`${fact}\r\n`);
    const [, , , runs = ''] = keysInDocs();
    await ours.hset(runs, 'a', '{}', 'b', '{}');
    await expect(ours.flushall()).rejects.toThrow('NOPERM');
    await expect(ours.config('GET', 'dir')).rejects.toThrow('NOPERM');
    const counted = "return {redis.call('type', KEYS[1]).ok, redis.call('hlen', KEYS[1])}";
    expect(await as('keda', 'PASSWORD').eval(counted, 1, runs)).toEqual(['hash', 2]);
    await expect(as('keda', 'PASSWORD').hgetall(runs)).rejects.toThrow('NOPERM');
    await expect(as('probe', 'any').get(runs)).rejects.toThrow('NOPERM');
    const { stdout } = await execa('redis-cli', ['-s', socket, 'ping']);
    expect(stdout).toContain('NOAUTH');
  } finally {
    for (const client of clients) client.disconnect();
    redis.kill();
    await redis;
  }
  expect((await ping()).exitCode).not.toBe(0);
});

test('the keys that the docs name, and the metric, are those of a live queue with a run half done', async () => {
  const address = { redisUrl: server.url, name: 'photos' };
  const queue = openQueue(address);
  const metrics = openServeMetrics(address, { log: silentLog });
  const scaled = objects.find((object) => object.kind === 'ScaledObject');
  const { valueLocation = '' } = scaled?.spec?.triggers[0]?.metadata ?? {};
  /** As KEDA reads it: the one sample of that name, and a last line that ends. */
  const backlog = async (): Promise<number> => {
    const { body } = await metrics.text();
    const samples = body.split('\n').filter((line) => line.startsWith(`${valueLocation} `));
    expect(samples).toHaveLength(1);
    expect(body.endsWith('\n')).toBe(true);
    return Number(samples[0]?.split(' ')[1]);
  };
  const redis = new Redis(server.url);
  const consumer = consumeShards(address, {
    concurrency: 1,
    queue,
    log: silentLog,
    handlers: {
      fits: () => true,
      onFinalize: async () => undefined,
      async onShard({ shard, lease }) {
        if (shard === 0) throw new Error('to be tried again');
        await new Promise((_, reject) => lease.signal.addEventListener('abort', reject));
      },
    },
  });
  try {
    await queue.openRun('2024', { lensmill: '1.0.0', model: 'm' });
    await queue.enqueue('2024', [0, 1, 2, 3], { highWater: 10, attempts: 5 });
    const isHalfDone = async (): Promise<boolean> => {
      const { waiting, active, delayed } = await queue.counts('2024');
      return waiting > 0 && active > 0 && delayed > 0;
    };
    while (!(await isHalfDone())) await sleep(10);
    const [waiting, active, delayed, runs, ...others] = keysInDocs();
    expect(others).toEqual([]);
    expect(await Promise.all([waiting, active, delayed, runs].map((key = '') => redis.type(key)))).toEqual([
      'list',
      'list',
      'zset',
      'hash',
    ]);
    expect(await redis.llen(waiting ?? '')).toBe(2);
    // What KEDA counts of a hash.
    expect(await redis.hlen(runs ?? '')).toBe(1);
    expect(await backlog()).toBeGreaterThan(0);
    await queue.closeRun('2024');
    expect(await redis.exists(runs ?? '')).toBe(0);
    // Redis is looked at once a second.
    while ((await backlog()) !== 0) await sleep(100);
  } finally {
    await consumer.close(0);
    await metrics.close();
    await queue.close();
    redis.disconnect();
  }
});

test('the paths that are probed answer', async () => {
  const health = await openHealth(
    { ailments: () => [], obstacles: () => ['still loading'] },
    { host: '127.0.0.1', port: 0, log: silentLog },
  );
  try {
    const statuses = new Map<string, number>();
    for (const { startupProbe, livenessProbe, readinessProbe } of podContainers('Deployment')) {
      for (const probe of [startupProbe, livenessProbe, readinessProbe]) {
        const { path = '' } = probe?.httpGet ?? {};
        statuses.set(path, (await fetch(new URL(path, health.url))).status);
      }
      expect(livenessProbe?.httpGet).toEqual(startupProbe?.httpGet);
    }
    expect(Object.fromEntries(statuses)).toEqual({ '/healthz': 200, '/readyz': 503 });
  } finally {
    await health.close();
  }
});

function podContainers(kind: Manifest['kind']) {
  return objects
    .filter((object) => object.kind === kind)
    .flatMap((object) => containersOf(podsOf(object) ?? { spec: { containers: [] } }));
}
