/** A Redis Cluster of three nodes, and a run from its plan to its end over it. */
import { expect, test } from 'vitest';
import { openQueue } from '../src/queue.ts';
import { checkRedis } from '../src/redis/connection.ts';
import { lensmill, logged } from './helpers/cli.ts';
import { clusterRule, userRule } from './helpers/redis-page.ts';
import { type RedisServer, startCluster, startReplica } from './helpers/redis-servers.ts';
import { tempFolder } from './helpers/temp.ts';
import { makeTinyArchive } from './helpers/tiny-archive.ts';
import { until } from './helpers/until.ts';

test('a run is planned, done, shown, paused, resumed and cancelled in a Cluster, and all its keys have one slot', async () => {
  const images = 30;
  const output = tempFolder();
  const nodes = await startCluster('secret');
  const places = nodes.map(({ port }) => `127.0.0.1:${port}`).join(',');
  for (const { client } of nodes) {
    const rule = [...userRule('of-the-user'), ...clusterRule()];
    await client({ password: 'secret' }).call('ACL', 'SETUSER', 'lensmill', ...rule);
  }
  const redis = `redis-cluster://lensmill:of-the-user@${places}`;
  const env = { REDIS_URL: redis, LENSMILL_OUTPUT: output, LENSMILL_JSON: 'true', LENSMILL_QUEUE: 'q' };
  const archive = await makeTinyArchive(images);
  const plan = ['--model', 'null', '--shard-size', '1', '--reuse', 'off', '--run'];
  expect((await lensmill(['enqueue', archive, ...plan, 'r'], env)).exitCode).toBe(0);
  const queue = openQueue({ redisUrl: redis, name: 'q' });
  expect(await queue.counts('r')).toEqual({ waiting: images, active: 0, delayed: 0 });

  const worker = lensmill(['work', '--device', 'sleep:50', '--batch', '1'], env);
  await logged(worker, 'shard done', 3);
  expect((await lensmill(['pause', 'r'], env)).exitCode).toBe(0);
  const { stdout } = await lensmill(['status', 'r'], env);
  const { queueState, queue: jobs } = JSON.parse(stdout);
  expect(queueState).toBe('paused');
  expect(jobs.waiting).toBeGreaterThan(0);
  expect((await lensmill(['resume', 'r', '--enqueue'], env)).exitCode).toBe(0);
  await logged(worker, 'run done');

  const keys = await Promise.all(nodes.map(({ client }) => client({ password: 'secret' }).keys('*')));
  const holders = nodes.filter((_, at) => keys[at]?.length);
  expect(holders).toHaveLength(1);
  expect(keys.flat().every((key) => key.startsWith('{lensmill}:'))).toBe(true);

  await queue.openRun('s', { lensmill: '1.0.0', model: 'of another' });
  await queue.enqueue('s', [0, 1, 2], { highWater: 10, attempts: 2 });
  await queue.setState('s', 'cancelled');
  await queue.dropJobs('s');
  expect(await queue.counts('s')).toEqual({ waiting: 0, active: 0, delayed: 0 });
  await queue.close();

  worker.kill('SIGTERM');
  expect((await worker).exitCode).toBe(0);
  const verified = await lensmill(['verify', 'r'], env);
  expect(JSON.parse(verified.stdout)).toMatchObject({ sound: true, items: images });

  const others = nodes.filter((node) => !holders.includes(node));
  await expect(checkRedis(`redis://:secret@127.0.0.1:${others[0]?.port}`)).rejects.toMatchObject({
    code: 'redis-other-kind',
    message: expect.stringContaining('redis-cluster://'),
  });
  // What is left of it has no majority.
  await Promise.all(others.map(({ kill }) => kill()));
  const [holder] = holders;
  await until(async () => /state:fail/.test(await clusterInfo(holder)));
  await expect(checkRedis(`redis-cluster://:secret@127.0.0.1:${holder?.port}`)).rejects.toMatchObject({
    code: 'redis-not-ready',
  });
});

test('a node that is killed in the middle of a run is followed by its replica, and nothing is tried again', async () => {
  const images = 40;
  const password = 'secret';
  const nodes = await startCluster(password);
  const slot = Number(await nodes[0]?.client({ password }).call('CLUSTER', 'KEYSLOT', '{lensmill}'));
  const holder = nodes[Math.floor(slot / Math.ceil(16_384 / nodes.length))];
  if (!holder) throw new Error('no node has our slot');
  const replica = await startReplica(nodes, holder, password);
  const places = nodes.map(({ port }) => `127.0.0.1:${port}`).join(',');
  const run = lensmill([
    ...['index', await makeTinyArchive(images), '--output', tempFolder(), '--json', '--reuse', 'off'],
    ...['--redis', `redis-cluster://:${password}@${places}`],
    ...['--model', 'null', '--device', 'sleep:100', '--batch', '1', '--shard-size', '1'],
  ]);
  await logged(run, 'shard done', 3);
  await holder.kill();
  const { exitCode, stdout, stderr } = await run;
  expect(exitCode, stderr).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ items: images, ok: images, failed: 0 });
  expect(stderr).not.toContain('shard failed');
  expect((await replica.client({ password }).role())[0]).toBe('master');
}, 120_000);

async function clusterInfo(node: RedisServer | undefined): Promise<string> {
  return String(await node?.client({ password: 'secret' }).call('CLUSTER', 'INFO'));
}
