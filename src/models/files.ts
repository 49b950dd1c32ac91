/** Files that are there whole or not at all. */
import { randomUUID } from 'node:crypto';
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf } from '../errno.ts';
import { ConfigError, messageOf } from '../errors.ts';

/** Throws ConfigError 'unwritable' naming the folder. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch(rethrowUnwritable(path));
}

/** Writes beside the path and renames; whatever `chunks` throws is passed on. Throws ConfigError 'unwritable'. */
export async function writeWhole(path: string, chunks: Iterable<Uint8Array>): Promise<void> {
  await makeFolder(dirname(path));
  const partial = `${path}.${randomUUID()}.part`;
  const file = await open(partial, 'wx').catch(rethrowUnwritable(path));
  try {
    for (const chunk of chunks) await file.writeFile(chunk).catch(rethrowUnwritable(path));
    await file.sync();
    await file.close();
    await rename(partial, path);
  } catch (error) {
    await file.close();
    await rm(partial, { force: true });
    throw error;
  }
}

/** For what the system refuses: no permission, no space, a folder where a file should be. */
export function rethrowUnwritable(path: string): (error: unknown) => never {
  return (error) => {
    if (errnoOf(error) === undefined) throw error;
    throw new ConfigError('unwritable', `${path} cannot be written: ${messageOf(error)}`, { cause: error });
  };
}
