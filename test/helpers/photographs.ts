/** Real photographs, outside the repository: `deploy/bootstrap.sh` unpacks them from Debian packages into a cache. */
import { readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Absolute paths, sorted. Throws where there are none, naming the command that gets them. */
export async function photographs(): Promise<string[]> {
  const { LENSMILL_CACHE, XDG_CACHE_HOME } = process.env;
  const cache = LENSMILL_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'lensmill');
  const folder = join(cache, 'photographs');
  const names = await readdir(folder).catch(() => []);
  const paths = names.filter((name) => /\.(jpe?g|png)$/i.test(name)).map((name) => join(folder, name));
  if (paths.length === 0) throw new Error(`no photographs in ${folder}; type: bash deploy/bootstrap.sh test`);
  return paths.sort();
}
