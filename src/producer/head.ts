/** The head that a run or a command is given. */
import { readFile } from 'node:fs/promises';
import { ConfigError, messageOf } from '../errors.ts';
import { decodeHead, type Head } from '../models/head.ts';

/** Throws ConfigError 'no-head', and as `decodeHead`. */
export async function readHead(file: string): Promise<{ bytes: Uint8Array; head: Head }> {
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new ConfigError('no-head', `no head at ${file}: ${messageOf(error)}`);
  });
  return { bytes, head: decodeHead(bytes, file) };
}
