/**
 * A private Redis, for a command that was given none: a `redis-server` from the PATH on a socket in a temporary folder,
 * append-only, never evicting, gone with us.
 *
 * It must not outlive us, however we end, and must not die of the terminal's Ctrl-C before the worker has drained. So it
 * runs in a process group of its own, under a shell that waits for the end of its standard input: that pipe's other end
 * is ours, and the kernel closes it even after a SIGKILL.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError } from './errors.ts';

export interface PrivateRedis {
  /** The socket's path: ioredis takes it for a URL. */
  url: string;
  /** Of redis-server itself. */
  pid: number;
  /** Safe to call twice. */
  close(): Promise<void>;
}

const startMs = 10_000;
const howToInstall = '`apt-get install redis-server` (macOS: `brew install redis`), or set REDIS_URL';

// The shell says the server's pid, and removes the folder, $0. A job in the background has no standard input of its own,
// hence descriptor 3.
const script = `
trap 'command -p rm -rf "$0"' EXIT
command -v redis-server >/dev/null || exit 127
exec 3<&0
redis-server "$@" >&2 & pid=$!
echo $pid
(read -r _ <&3; kill $pid) &
wait $pid`;

/** Throws ConfigError 'no-redis' where the PATH has no redis-server, or it does not start. */
export async function startPrivateRedis(): Promise<PrivateRedis> {
  // A socket's path may have 107 bytes: a temporary folder's fits, one below the output might not.
  const folder = await mkdtemp(join(tmpdir(), 'lensmill-redis-'));
  const socket = join(folder, 'redis.sock');
  const settings = {
    port: 0,
    unixsocket: socket,
    unixsocketperm: 700,
    dir: folder,
    appendonly: 'yes',
    save: '',
    'maxmemory-policy': 'noeviction',
  };
  const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const shell = spawn('/bin/sh', ['-c', script, folder, ...args], {
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let said = '';
  shell.stderr.on('data', (chunk) => {
    said = `${said}${chunk}`.slice(-2_000);
  });
  let exitCode: number | undefined;
  const ended = once(shell, 'exit').then(([code]) => {
    exitCode = code ?? 1;
  });
  const close = async (): Promise<void> => {
    shell.ref();
    shell.stdin.end();
    await ended;
  };

  const pid = once(shell.stdout, 'data').then(([chunk]) => Number(String(chunk)));
  const deadline = Date.now() + startMs;
  while (!(await answers(socket))) {
    if (exitCode === undefined && Date.now() < deadline) {
      await sleep(20);
      continue;
    }
    await close();
    if (exitCode === 127) throw new ConfigError('no-redis', `no redis-server on the PATH: ${howToInstall}`);
    throw new ConfigError('no-redis', `redis-server did not start: ${said.trim().split('\n').at(-1)}`);
  }
  // What keeps a command alive is its work, not its Redis.
  shell.unref();
  for (const stream of [shell.stdin, shell.stdout, shell.stderr])
    (stream as unknown as { unref(): void }).unref(); // sockets
  return { url: socket, pid: await pid, close };
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => {
      connection.destroy();
      resolve(true);
    });
    connection.on('error', () => resolve(false));
  });
}
