/**
 * A private Redis, for a command that was given none: a `redis-server` from the PATH on a socket in a temporary folder,
 * append-only, never evicting, gone with us. One that dies is started again on the same socket and files, so that its
 * clients connect anew and go on.
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
import { ConfigError } from '../errors.ts';

export interface PrivateRedis {
  /** The socket's path: ioredis takes it for a URL. */
  url: string;
  /** Of redis-server itself, the one that runs now. */
  readonly pid: number;
  /** Safe to call twice. */
  close(): Promise<void>;
}

export interface PrivateRedisOptions {
  /** It died and was started again from its files. */
  onRestart?: () => void;
  /** It died again and again, and stays away: ConfigError 'no-redis'. */
  onLost?: (error: ConfigError) => void;
}

const startMs = 10_000;
/** This often in a row, each within `quickSeconds` of its start: it cannot live here. */
const quickDeaths = 5;
const quickSeconds = 10;
const howToInstall = '`apt-get install redis-server` (macOS: `brew install redis`), or set REDIS_URL';

// The shell says each server's pid, and removes the folder, $0. A job in the background has no standard input of its own,
// hence descriptor 3. `kill 0` reaches the whole process group: the server, too, of a shell that is no more. A signal ends
// a `wait` before the server has ended, hence the loop around it.
const script = `
trap 'command -p rm -rf "$0"' EXIT
command -v redis-server >/dev/null || exit 127
exec 3<&0
trap 'closing=1; kill $pid 2>/dev/null' TERM
(read -r _ <&3; kill 0) &
deaths=0
until [ $deaths = ${quickDeaths} ]; do
  started=$(date +%s)
  redis-server "$@" >&2 & pid=$!
  echo $pid
  [ -z "$closing" ] || kill $pid
  while kill -0 $pid 2>/dev/null; do wait $pid; done
  [ -z "$closing" ] || exit 0
  [ $(($(date +%s) - started)) -lt ${quickSeconds} ] || deaths=0
  deaths=$((deaths + 1))
  sleep 0.1
done
exit 1`;

/** Throws ConfigError 'no-redis' where the PATH has no redis-server, or it does not start. */
export async function startPrivateRedis({
  onRestart,
  onLost,
}: PrivateRedisOptions = {}): Promise<PrivateRedis> {
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
  let pid = 0;
  let isUp = false;
  shell.stdout.on('data', (chunk) => {
    pid = Number(String(chunk).trim().split('\n').at(-1));
    if (isUp) onRestart?.();
  });
  let exitCode: number | undefined;
  let closing = false;
  const ended = once(shell, 'exit').then(([code]) => {
    exitCode = code ?? 1;
    if (!isUp || closing) return;
    const why =
      code === null
        ? 'the shell that kept it was killed'
        : `it died ${quickDeaths} times in a row: ${lastLine()}`;
    onLost?.(noRedis(`the private redis-server is gone, ${why}; \`lensmill resume\` starts another`));
  });
  const close = async (): Promise<void> => {
    closing = true;
    shell.ref();
    shell.stdin.end();
    await ended;
  };
  const lastLine = (): string => said.trim().split('\n').at(-1) ?? '';

  const deadline = Date.now() + startMs;
  while (!(await answers(socket))) {
    if (exitCode === undefined && Date.now() < deadline) {
      await sleep(20);
      continue;
    }
    await close();
    if (exitCode === 127) throw noRedis(`no redis-server on the PATH: ${howToInstall}`);
    throw noRedis(`redis-server did not start: ${lastLine()}`);
  }
  isUp = true;
  // What keeps a command alive is its work, not its Redis.
  shell.unref();
  for (const stream of [shell.stdin, shell.stdout, shell.stderr])
    (stream as unknown as { unref(): void }).unref(); // sockets
  return {
    url: socket,
    get pid() {
      return pid;
    },
    close,
  };
}

function noRedis(message: string): ConfigError {
  return new ConfigError('no-redis', message);
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
