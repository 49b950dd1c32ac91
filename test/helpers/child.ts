/** Runs a few lines of a module in another process: as another user, or on a file system of its own. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;

/**
 * What `script` (an ES module) prints, run by a user whom file modes stop: 'nobody' where the tests run as root.
 */
export async function runAsNobody(script: string): Promise<string> {
  const user = isRoot ? { uid: 65534, gid: 65534 } : {};
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', script], user);
  return stdout;
}

/** What `script` prints, run with a file system of `size` (as tmpfs takes it: '1m') over the folder `path`. */
export async function runOnSmallDisk(path: string, size: string, script: string): Promise<string> {
  const shell = 'mount -t tmpfs -o size="$1" small "$2" && exec "$3" --input-type=module --eval "$4"';
  const namespace = isRoot ? ['--mount'] : ['--mount', '--map-root-user'];
  const { stdout } = await run('unshare', [
    ...namespace,
    'sh',
    '-c',
    shell,
    'sh',
    size,
    path,
    process.execPath,
    script,
  ]);
  return stdout;
}

/** The URL under which such a script imports a file of this repository. */
export function moduleUrl(path: string): string {
  return new URL(`../../${path}`, import.meta.url).href;
}
