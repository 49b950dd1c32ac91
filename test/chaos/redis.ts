/** A real Redis on a port of its own that can be killed, started again from its append-only file, emptied, replaced. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';

export interface RedisServer {
  url: string;
  /** Of the redis-server that runs now. */
  pid(): number;
  /** SIGKILL. Resolves when it is gone. */
  kill(): Promise<void>;
  /** From the append-only file, on the same port. Resolves when it answers. */
  start(): Promise<void>;
  flush(): Promise<void>;
  /** Kills it and starts another with nothing in it, on the same port. */
  replace(): Promise<void>;
  command(...words: [string, ...string[]]): Promise<unknown>;
  close(): Promise<void>;
}

export interface RedisOptions {
  /** Where the append-only file is; made if it is not there. */
  folder: string;
  /** An address of this machine, or of the host that `prefix` leads to; loopback by default. */
  host?: string;
  /** Words that run it on another host (netns.ts), where it has its usual port. */
  prefix?: readonly string[];
}

const answerMs = 15_000;

export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const { folder, host = '127.0.0.1', prefix = [] } = options;
  const port = prefix.length > 0 ? 6379 : await freePort(host);
  const url = `redis://${host}:${port}`;
  let server: ChildProcess | undefined;

  const ask = async (...[name, ...words]: [string, ...string[]]): Promise<unknown> => {
    const client = new Redis(url, {
      lazyConnect: true,
      retryStrategy: () => null,
      maxRetriesPerRequest: 0,
      connectTimeout: 2_000,
    });
    client.on('error', () => undefined);
    try {
      await client.connect();
      return await client.call(name, ...words);
    } finally {
      client.disconnect();
    }
  };

  const start = async (): Promise<void> => {
    mkdirSync(folder, { recursive: true });
    const all = {
      port: String(port),
      bind: host,
      'protected-mode': 'no',
      dir: folder,
      appendonly: 'yes',
      save: '',
      'maxmemory-policy': 'noeviction',
    };
    const args = Object.entries(all).flatMap(([name, value]) => [`--${name}`, value]);
    const [command = '', ...words] = [...prefix, 'redis-server', ...args];
    const started = spawn(command, words, { stdio: ['ignore', 'pipe', 'ignore'] });
    server = started;
    let said = '';
    started.stdout.on('data', (chunk) => {
      said = `${said}${chunk}`.slice(-2_000);
    });
    const deadline = Date.now() + answerMs;
    while ((await ask('PING').catch(() => undefined)) !== 'PONG') {
      if (started.exitCode !== null || Date.now() > deadline)
        throw new Error(`redis-server does not answer:\n${said}`);
      await sleep(25);
    }
  };

  const kill = async (): Promise<void> => {
    if (!server || server.exitCode !== null || server.signalCode !== null) return;
    const gone = once(server, 'exit');
    server.kill('SIGKILL');
    await gone;
  };

  await start();
  return {
    url,
    pid: () => server?.pid ?? 0,
    kill,
    start,
    async flush() {
      await ask('FLUSHALL');
    },
    async replace() {
      await kill();
      rmSync(folder, { recursive: true, force: true });
      await start();
    },
    command: ask,
    close: kill,
  };
}

/** Below the ports that the kernel lends to clients (32768 and up): while the server is down, one of them could take it. */
async function freePort(host: string): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_768);
    const probe = createServer().listen(port, host);
    const isFree = await once(probe, 'listening').then(
      () => true,
      () => false,
    );
    if (!isFree) continue;
    probe.close();
    await once(probe, 'close');
    return port;
  }
}
