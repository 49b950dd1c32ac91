/** deploy/make-secrets.sh: what it makes is what Redis, the AWS SDK and lensmill take, and nobody else may read it. */
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { afterEach, expect, test, vi } from 'vitest';
import { consumeShards } from '../src/consume.ts';
import { openQueue } from '../src/queue.ts';
import { checkRedis } from '../src/redis/connection.ts';
import { findS3Server } from '../src/s3/client.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import { resolveSettings } from '../src/settings/resolve.ts';
import { openStore } from '../src/stores/open-store.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { contextOf } from './helpers/context.ts';
import { makeSecrets } from './helpers/made-secrets.ts';
import { startServer } from './helpers/redis-servers.ts';
import { ask, serve } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const { folder, make } = await makeSecrets('10.0.0.1');
const read = (name: string, from = folder): string => readFileSync(join(from, 'secrets', name), 'utf8');

afterEach(() => vi.unstubAllEnvs());

test('nobody but the owner gets into the folder, and every container may read its files', () => {
  expect(statSync(join(folder, 'secrets')).mode & 0o777).toBe(0o700);
  const files = readdirSync(join(folder, 'secrets'), { recursive: true, withFileTypes: true });
  for (const file of files.filter((one) => one.isFile()))
    expect(statSync(join(file.parentPath, file.name)).mode & 0o777, file.name).toBe(0o444);
});

test('made again, they are the same; one that was deleted is new, wherever it stands; another machine has others', async () => {
  const all = () =>
    readdirSync(join(folder, 'secrets'))
      .filter((name) => name !== 'worker')
      .map((name) => read(name));
  const before = all();
  const said = await make();
  expect(all()).toEqual(before);
  // What it prints is kept in terminals and logs.
  for (const secret of ['redis-password', 's3-secret-key', 'lensmill-token', 'grafana-password'])
    expect(said).not.toContain(read(secret));
  expect(parseEnv(readFileSync(join(folder, '.env'), 'utf8'))).toEqual({
    LENSMILL_SECRETS: './secrets',
    BIND: '10.0.0.1',
  });

  const { folder: other, make: makeOther } = await makeSecrets();
  const [password, acl, token] = ['redis-password', 'redis.acl', 'lensmill-token'].map((name) =>
    read(name, other),
  );
  expect(password).not.toBe(read('redis-password'));
  rmSync(join(other, 'secrets/redis-password'));
  await makeOther();
  expect(read('redis-url', other)).toContain(read('redis-password', other));
  expect(read('redis-password', other)).not.toBe(password);
  expect(read('redis.acl', other)).not.toBe(acl);
  expect(read('lensmill-token', other)).toBe(token);
});

test('the user of Redis is the one of docs/redis.md', () => {
  const page = readFileSync(join(import.meta.dirname, '../docs/redis.md'), 'utf8');
  const [, documented = ''] = /^user lensmill on >PASSWORD ((?:.*\\\n)*.*)$/m.exec(page) ?? [];
  const [, made = ''] = /^user lensmill on #\w{64} (.*)$/m.exec(read('redis.acl')) ?? [];
  expect(made.trim().split(/\s+/)).toEqual(documented.replaceAll('\\\n', '').split(/\s+/));
});

test('Redis takes its users: lensmill does all of its work and shows it, who has no password may do nothing, and the healthcheck only ping', async () => {
  const server = await startServer([
    `aclfile ${join(folder, 'secrets/redis.acl')}`,
    'maxmemory-policy noeviction',
  ]);
  const redisUrl = read('redis-url').trim().replace('redis:6379', `127.0.0.1:${server.port}`);
  const probe = server.client({ username: 'probe', password: 'any' });
  expect(await probe.ping()).toBe('PONG');
  await expect(probe.keys('*')).rejects.toThrow('NOPERM');
  const address = { redisUrl, name: 'q' };
  const queue = openQueue(address);
  const finalized = Promise.withResolvers<void>();
  await queue.openRun('r', { lensmill: '1.0.0', model: 'm' });
  await queue.enqueue('r', [0, 1], { highWater: 10, attempts: 2 });
  await queue.setState('r', 'open');

  const { settings } = contextOf({ device: 'cpu' });
  const store = openStore(tempFolder(), s3OptionsOf(settings));
  await store.probe();
  const board = await serve({ store, settings }, { queue: address, queueBoard: true });
  // All that its page asks for, but logs: no job has any, and to find none it would need MULTI.
  const shown = [
    'queues?activeQueue=r',
    'queues/r/r-0',
    'queues/r/r-0/flow',
    'job-schedulers',
    'redis/stats',
  ];
  for (const path of shown)
    expect([path, (await ask(board, `/queues/api/${path}`)).status]).toEqual([path, 200]);
  await board.close();
  await store.close();

  const consumer = consumeShards(address, {
    concurrency: 2,
    queue,
    log: silentLog,
    handlers: {
      fits: () => true,
      async onShard({ shard }) {
        if (shard === 1) await queue.enqueueFinalize('r');
      },
      onFinalize: async () => finalized.resolve(),
    },
  });
  await finalized.promise;
  await consumer.close(0);
  await queue.close();

  const { hostname, port, username, password } = new URL(redisUrl);
  const lensmill = server.client({ username, password });
  await expect(lensmill.flushall()).rejects.toThrow('NOPERM');
  await expect(lensmill.config('SET', 'maxmemory', '1')).rejects.toThrow('NOPERM');
  await expect(lensmill.get('elsewhere')).rejects.toThrow('NOPERM');
  await expect(checkRedis(`redis://${hostname}:${port}`)).rejects.toThrow();
});

test('the AWS SDK finds the credentials, which are those of the identity that SeaweedFS knows', async () => {
  for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'])
    vi.stubEnv(name, undefined);
  vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', join(folder, 'secrets/s3-credentials'));
  const client = await findS3Server(s3OptionsOf(resolveSettings({}, {}, {}).values)).openClient();
  const { accessKeyId, secretAccessKey } = await client.config.credentials();
  const { identities } = JSON.parse(read('s3-identities.json'));
  expect(identities).toEqual([
    expect.objectContaining({ credentials: [{ accessKey: accessKeyId, secretKey: secretAccessKey }] }),
  ]);
  expect(read('worker/s3-credentials')).toBe(read('s3-credentials'));
});

test('a worker elsewhere gets an address that it can reach, and lensmill takes its settings', () => {
  const env = parseEnv(read('worker/lensmill.env')) as Record<string, string>; // no line of it is empty
  const { values, origins } = resolveSettings(
    {},
    { ...env, REDIS_URL_FILE: join(folder, 'secrets/worker/redis-url') },
    {},
  );
  expect(origins.redis).toBe('env-file');
  expect(values.redis).toBe(`redis://lensmill:${read('redis-password')}@10.0.0.1:6379`);
  expect(values).toMatchObject({
    s3Endpoint: 'http://10.0.0.1:8333',
    output: 's3://lensmill/index',
    metricsPort: 9464,
  });
});
