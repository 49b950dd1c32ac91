/** Redis servers as operators set them up, each in a temporary folder of its own, and ended with the test file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Redis, type RedisOptions } from 'ioredis';
import { afterAll } from 'vitest';
import { tempFolder } from './temp.ts';
import { until } from './until.ts';

export interface RedisServer {
  /** On 127.0.0.1. */
  port: number;
  folder: string;
  process: ChildProcess;
  /** A client that waits until the server answers. */
  client(options?: ClientOptions): Redis;
  /** At once. Safe to call twice. */
  kill(): Promise<void>;
}

type ClientOptions = Pick<RedisOptions, 'username' | 'password' | 'tls' | 'db'>;

const ends: (() => unknown)[] = [];
afterAll(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** `lines` are those of redis.conf. */
export async function startServer(
  lines: readonly string[] = [],
  { sentinel = false, tls = false }: { sentinel?: boolean; tls?: boolean } = {},
): Promise<RedisServer> {
  const folder = tempFolder();
  const port = await freePort();
  const ports = tls ? ['port 0', `tls-port ${port}`] : [`port ${port}`];
  const file = join(folder, 'redis.conf');
  const own = sentinel ? [] : ['save ""'];
  writeFileSync(file, ['bind 127.0.0.1', ...ports, `dir ${folder}`, ...own, ...lines].join('\n'));
  const child = spawn('redis-server', sentinel ? [file, '--sentinel'] : [file], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  ends.push(kill);
  const client = (options: ClientOptions = {}): Redis => {
    const opened = new Redis({
      port,
      maxRetriesPerRequest: null,
      retryStrategy: () => 10,
      ...options,
    });
    opened.on('error', () => undefined);
    ends.push(() => opened.disconnect());
    return opened;
  };
  return { port, folder, process: child, client, kill };
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo; // it listens at a port
  server.close();
  await once(server, 'close');
  return port;
}

/**
 * A primary called `main` and a replica of it, both with this password, and three Sentinels. One of them notices within a
 * second that the primary is gone, and has the votes of the others, who are slower and do not stand for election.
 */
export async function startSentinels(password: string): Promise<{
  primary: RedisServer;
  replica: RedisServer;
  sentinels: RedisServer[];
}> {
  const lines = [`requirepass ${password}`, `masterauth ${password}`, 'repl-diskless-sync-delay 0'];
  const primary = await startServer(lines);
  const replica = await startServer([`replicaof 127.0.0.1 ${primary.port}`, ...lines]);
  const follower = replica.client({ password });
  await until(async () => (await follower.role())[3] === 'connected');
  const sentinels = await Promise.all(
    [600, 60_000, 60_000].map((downAfterMs) =>
      startServer(
        [
          `sentinel monitor main 127.0.0.1 ${primary.port} 1`,
          `sentinel auth-pass main ${password}`,
          `sentinel down-after-milliseconds main ${downAfterMs}`,
        ],
        { sentinel: true },
      ),
    ),
  );
  for (const { client } of sentinels) {
    const asked = client();
    // In ms. By default they greet each other every two seconds, and a busy machine is one whose clock has jumped, after which
    // they do nothing for half a minute.
    const paces = { 'info-period': 300, 'publish-period': 100, 'ping-period': 200, 'tilt-trigger': 60_000 };
    await asked.call('SENTINEL', 'DEBUG', ...Object.entries(paces).flat());
    await until(async () => {
      // Names and values in turn.
      const words = (await asked.call('SENTINEL', 'MASTER', 'main')) as string[];
      const known = Object.fromEntries(words.flatMap((word, at) => (at % 2 ? [] : [[word, words[at + 1]]])));
      return known['num-slaves'] === '1' && known['num-other-sentinels'] === '2';
    });
  }
  return { primary, replica, sentinels };
}

export interface ClusterNode extends RedisServer {
  /** Where nodes talk to each other. */
  bus: number;
}

/** Three nodes with this password that share the slots. */
export async function startCluster(password: string): Promise<ClusterNode[]> {
  const nodes = await Promise.all([0, 1, 2].map(() => startNode(password)));
  const clients = nodes.map(({ client }) => client({ password }));
  const share = Math.ceil(slots / nodes.length);
  for (const [at, client] of clients.entries()) {
    const last = Math.min((at + 1) * share, slots) - 1;
    await client.call('CLUSTER', 'ADDSLOTSRANGE', at * share, last);
    await client.call('CLUSTER', 'SET-CONFIG-EPOCH', at + 1);
    const [first] = nodes;
    if (first && at > 0) await client.call('CLUSTER', 'MEET', '127.0.0.1', first.port, first.bus);
  }
  for (const client of clients) {
    await until(async () => {
      const facts = String(await client.call('CLUSTER', 'INFO'));
      return /cluster_state:ok/.test(facts) && /cluster_known_nodes:3/.test(facts);
    });
  }
  return nodes;
}

/** Another node of a Cluster, that takes the place of one of these when it is gone. */
export async function startReplica(
  nodes: readonly ClusterNode[],
  of: ClusterNode,
  password: string,
): Promise<ClusterNode> {
  const node = await startNode(password);
  const [client, primary] = [node, of].map((one) => one.client({ password })) as [Redis, Redis];
  const id = String(await primary.call('CLUSTER', 'MYID'));
  await client.call('CLUSTER', 'MEET', '127.0.0.1', of.port, of.bus);
  // Until it has heard of it, it knows no node of that name.
  await until(() =>
    client.call('CLUSTER', 'REPLICATE', id).then(
      () => true,
      () => false,
    ),
  );
  await until(async () => (await client.role())[3] === 'connected');
  // Who is to vote for it has to know it as a replica.
  for (const voter of nodes) {
    const asked = voter.client({ password });
    await until(() => knows(asked, node.port));
  }
  return node;
}

async function knows(client: Redis, port: number): Promise<boolean> {
  const nodes = String(await client.call('CLUSTER', 'NODES'));
  return nodes.split('\n').some((line) => line.includes(`:${port}@`) && line.includes('slave'));
}

async function startNode(password: string): Promise<ClusterNode> {
  const bus = await freePort();
  const lines = ['cluster-enabled yes', `cluster-port ${bus}`, 'cluster-node-timeout 2000'];
  const logins = [`requirepass ${password}`, `masterauth ${password}`, 'repl-diskless-sync-delay 0'];
  return { ...(await startServer([...lines, ...logins])), bus };
}

const slots = 16_384;
