/**
 * Files by their URIs: `file:///…` or an absolute path. An etag is a file's size and mtime.
 *
 * Whatever a name turns out to be, reading it neither waits nor has an effect: a device is not opened, and a file that
 * has become a FIFO since it was looked at is opened without waiting for its writer.
 *
 * Small files that are read whole are read by calls that block where that is cheaper: patience.ts says where.
 */
import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf } from '../errno.ts';
import { type FailureCode, messageOf } from '../errors.ts';
import { ReadError } from '../sources/source.ts';
import { fsPath, pathOfFileUri } from '../uri.ts';
import type { ObjectFacts, Objects } from './objects.ts';
import { openPatience, type Patience } from './patience.ts';

const streamedBytes = 256 * 1024;

/** One read of more holds a thread of libuv for long, and cannot be aborted meanwhile. */
const longestRead = 8 * 2 ** 20;

/** More is read by other threads, while this one decodes. */
const longestBlocking = 2 ** 20;

export function openFileObjects(): Objects {
  const patience = openPatience();
  const readAtOnce = (uri: string, options: Piecewise) => readWhole(uri, options, patience);
  return {
    async stat(uri, { signal } = {}) {
      try {
        signal?.throwIfAborted();
        return factsOf(await stat(pathOf(uri), { bigint: true }));
      } catch (error) {
        signal?.throwIfAborted();
        throw explain(error);
      }
    },

    read: readAtOnce,
    readRange: readAtOnce,
    stream: (uri, options) => readPieces(uri, { ...options, pieceBytes: streamedBytes }),

    close: async () => undefined,
  };
}

interface Piecewise {
  etag: string;
  first?: number;
  count?: number;
  maxBytes?: number;
  /** All at once where absent. */
  pieceBytes?: number;
  signal?: AbortSignal | undefined;
  /** Is told what it found before it opens it. */
  onFound?: (stats: BigIntStats) => void;
}

async function readWhole(uri: string, options: Piecewise, patience: Patience): Promise<Uint8Array> {
  options.signal?.throwIfAborted();
  const folder = dirname(uri);
  const blocking = patience.isGiven(folder) ? readBlocking(uri, options, patience) : undefined;
  if (blocking) return blocking;
  const learn = ({ dev }: BigIntStats): void => patience.learn(folder, pathOf(uri), dev);
  const [bytes] = await Array.fromAsync(readPieces(uri, { ...options, onFound: learn }));
  return bytes ?? new Uint8Array();
}

/** `undefined` where it is too long to stand still for. */
function readBlocking(uri: string, options: Piecewise, patience: Patience): Uint8Array | undefined {
  const started = performance.now();
  let file: number | undefined;
  try {
    const path = pathOf(uri);
    const facts = factsOf(statSync(path, { bigint: true }));
    const { first, end } = rangeOf(facts, options);
    if (end - first > longestBlocking) return undefined;
    const bytes = Buffer.allocUnsafeSlow(end - first);
    file = openSync(path, readFlags);
    for (let filled = 0; filled < bytes.length; ) {
      const count = readSync(file, bytes, filled, bytes.length - filled, first + filled);
      if (count === 0) throw changedMeanwhile();
      filled += count;
    }
    if (etagOf(fstatSync(file, { bigint: true })) !== facts.etag) throw changedMeanwhile();
    return bytes;
  } catch (error) {
    throw explain(error);
  } finally {
    if (file !== undefined) closeSync(file);
    patience.took(performance.now() - started);
  }
}

/** Bytes [first, first + count), each piece in a buffer of its own; none where there are none. */
async function* readPieces(uri: string, options: Piecewise): AsyncGenerator<Uint8Array> {
  const { pieceBytes = Infinity, signal, onFound } = options;
  let file: FileHandle | undefined;
  try {
    signal?.throwIfAborted();
    const path = pathOf(uri);
    const stats = await stat(path, { bigint: true });
    const facts = factsOf(stats);
    const { first, end } = rangeOf(facts, options);
    onFound?.(stats);
    file = await open(path, readFlags);
    for (let at = first; at < end; at += pieceBytes) {
      const piece = await readFully(file, at, Math.min(pieceBytes, end - at), signal);
      const isSame = etagOf(await file.stat({ bigint: true })) === facts.etag;
      if (!piece || !isSame) throw changedMeanwhile();
      yield piece;
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw explain(error);
  } finally {
    await file?.close();
  }
}

const readFlags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

function changedMeanwhile(): ReadError {
  return new ReadError('changed', 'it changed while it was read');
}

/** What to read of the file that was found. Throws ReadError 'changed', 'too-many-bytes'. */
function rangeOf(
  facts: ObjectFacts,
  { etag, first = 0, count = Infinity, maxBytes = Infinity }: Piecewise,
): { first: number; end: number } {
  if (etag !== '' && etag !== facts.etag)
    throw new ReadError('changed', `${facts.size} bytes now; its size or mtime is another than when listed`);
  if (facts.size > maxBytes)
    throw new ReadError('too-many-bytes', `${facts.size} bytes, the limit is ${maxBytes}`);
  return { first, end: Math.max(first, Math.min(first + count, facts.size)) };
}

/** `undefined` where the file ends earlier. */
async function readFully(
  file: FileHandle,
  first: number,
  count: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | undefined> {
  const bytes = Buffer.allocUnsafeSlow(count);
  for (let filled = 0; filled < count; ) {
    signal?.throwIfAborted();
    const length = Math.min(longestRead, count - filled);
    const { bytesRead } = await file.read(bytes, filled, length, first + filled);
    if (bytesRead === 0) return undefined;
    filled += bytesRead;
  }
  return bytes;
}

function pathOf(uri: string): string | Buffer {
  const path = pathOfFileUri(uri);
  if (path !== undefined) return fsPath(path);
  throw new ReadError('bad-uri', `'${uri}' names no file; expected an absolute path, or file:///… with %XX`);
}

function factsOf(stats: BigIntStats): ObjectFacts {
  if (!stats.isFile()) throw new ReadError('not-found', 'not a file, or no longer');
  return { etag: etagOf(stats), size: Number(stats.size) };
}

function etagOf(stats: BigIntStats): string {
  return `${stats.size.toString(16)}-${stats.mtimeNs.toString(16)}`;
}

function explain(error: unknown): ReadError {
  if (error instanceof ReadError) return error;
  const failure = failures.get(errnoOf(error) ?? '');
  return new ReadError(failure ?? 'read-failed', messageOf(error), { cause: error, transient: !failure });
}

/** ENXIO: a socket now. ELOOP: links that lead to each other. */
const failures = new Map<string, FailureCode>([
  ['ENOENT', 'not-found'],
  ['ENOTDIR', 'not-found'],
  ['EISDIR', 'not-found'],
  ['ELOOP', 'not-found'],
  ['ENXIO', 'not-found'],
  ['ENAMETOOLONG', 'not-found'],
  ['EACCES', 'access-denied'],
  ['EPERM', 'access-denied'],
]);
