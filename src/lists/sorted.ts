/**
 * Sorts more than fits into memory: runs of `runBytes` are sorted where they are, written to a temporary file one behind
 * the other, and merged while the result is read. What fits into one run touches no disk.
 *
 * The file loses its name as soon as it is open, so that nothing is left of it however the process ends. All runs are
 * merged at once, with 64 kB of each at hand. For 64 GB that is 64 MB, as strings perhaps three times as much: a second
 * pass would be for lists beyond that.
 */
import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import type { RawPath } from '../uri.ts';

export interface Entry {
  /** What it is ordered by: one character per byte, as `rawOfText` gives it. */
  key: RawPath;
  value: string;
}

export interface SortOptions {
  /** Memory for the entries of a run, counted with what V8 adds to them. */
  runBytes?: number;
  /** Where the temporary file goes; default: TMPDIR. */
  folder?: string;
  signal?: AbortSignal | undefined;
}

/** Entries per page of the result; others get their turn between pages. */
const pageSize = 1000;

/** What two strings and their object take beside their characters. */
const entryBytes = 100;

/** Written at once, and read at once of each run. */
const blockBytes = 65_536;

/**
 * All entries, ordered by key; those of one key in the order in which they came. Throws ConfigError 'disk-full' and
 * 'not-writable' where the temporary file has no place, and what `entries` and the signal throw.
 */
export async function* sortEntries(
  entries: AsyncIterable<Entry>,
  { runBytes = 64e6, folder = tmpdir(), signal }: SortOptions = {},
): AsyncGenerator<Entry[]> {
  const runs: AsyncIterator<Entry[]>[] = [];
  let run: Entry[] = [];
  let held = 0;
  let spill: Spill | undefined;
  try {
    for await (const entry of entries) {
      run.push(entry);
      held += entry.key.length + entry.value.length + entryBytes;
      if (held < runBytes) continue;
      signal?.throwIfAborted();
      spill ??= await openSpill(folder);
      runs.push(await spill.write(run.sort(byKey)));
      run = [];
      held = 0;
    }
    runs.push(oneBlock(run.sort(byKey)));
    yield* merge(runs, signal);
  } finally {
    await spill?.close();
  }
}

function byKey(a: Entry, b: Entry): number {
  return a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
}

async function* oneBlock(run: Entry[]): AsyncGenerator<Entry[]> {
  yield run;
}

/** Where the merge stands in one run: at `head`, which is `block[at]`. */
interface Cursor {
  blocks: AsyncIterator<Entry[]>;
  block: Entry[];
  at: number;
  head: Entry;
  /** Of several runs with one key, the earlier comes first. */
  nth: number;
}

async function* merge(
  runs: readonly AsyncIterator<Entry[]>[],
  signal: AbortSignal | undefined,
): AsyncGenerator<Entry[]> {
  const cursors = await Promise.all(runs.map(openCursor));
  const heap: Heap = cursors.filter((cursor) => cursor !== undefined);
  for (let at = (heap.length >> 1) - 1; at >= 0; at--) sink(heap, at);
  let page: Entry[] = [];
  for (let top = heap[0]; top; top = heap[0]) {
    page.push(top.head);
    const next = top.block[++top.at];
    if (next) top.head = next;
    else {
      const last = (await openNextBlock(top)) ? undefined : heap.pop();
      if (last && last !== top) heap[0] = last;
    }
    sink(heap, 0);
    if (page.length < pageSize) continue;
    signal?.throwIfAborted();
    yield page;
    page = [];
  }
  if (page.length > 0) yield page;
}

async function openCursor(blocks: AsyncIterator<Entry[]>, nth: number): Promise<Cursor | undefined> {
  const cursor: Cursor = { blocks, block: [], at: 0, head: { key: '', value: '' }, nth };
  return (await openNextBlock(cursor)) ? cursor : undefined;
}

/** False at the end of the run. */
async function openNextBlock(cursor: Cursor): Promise<boolean> {
  const { value: block = [] } = await cursor.blocks.next();
  const [head] = block;
  if (head) Object.assign(cursor, { block, at: 0, head });
  return head !== undefined;
}

/** A binary heap: the cursor with the least head is first. */
type Heap = Cursor[];

function sink(heap: Heap, at: number): void {
  for (let parent = at; ; ) {
    let least = parent;
    for (const child of [2 * parent + 1, 2 * parent + 2])
      if (isBefore(heap[child], heap[least])) least = child;
    if (least === parent) return;
    [heap[parent], heap[least]] = [heap[least] as Cursor, heap[parent] as Cursor]; // both are below its length
    parent = least;
  }
}

function isBefore(a: Cursor | undefined, b: Cursor | undefined): boolean {
  if (!a || !b) return false;
  return a.head.key < b.head.key || (a.head.key === b.head.key && a.nth < b.nth);
}

/** Sorted runs, one behind the other, in a file without a name. */
interface Spill {
  /** The run in blocks, none of them empty, read when they are asked for. */
  write(run: readonly Entry[]): Promise<AsyncIterator<Entry[]>>;
  close(): Promise<void>;
}

async function openSpill(folder: string): Promise<Spill> {
  let file: FileHandle;
  let end = 0;
  try {
    const path = join(folder, `lensmill-sort-${randomUUID()}`);
    file = await open(path, 'wx+', 0o600);
    await unlink(path);
  } catch (error) {
    throw explain(error, folder);
  }

  async function append(entries: readonly Buffer[]): Promise<void> {
    const block = Buffer.concat(entries);
    for (let at = 0; at < block.length; ) {
      at += (await file.write(block, at, block.length - at, end + at)).bytesWritten;
    }
    end += block.length;
  }

  async function* read(first: number, next: number): AsyncGenerator<Entry[]> {
    let rest: Buffer = Buffer.alloc(0);
    for (let at = first; at < next; ) {
      // An entry of more than a block is read in steps that grow with it.
      const more = Buffer.allocUnsafe(Math.min(Math.max(blockBytes, rest.length), next - at));
      const { bytesRead } = await file.read(more, 0, more.length, at);
      if (bytesRead === 0) throw new Error(`the temporary file in ${folder} was cut short`);
      at += bytesRead;
      const { entries, end } = decodeEntries(Buffer.concat([rest, more.subarray(0, bytesRead)]));
      rest = end;
      if (entries.length > 0) yield entries;
    }
  }

  return {
    async write(run) {
      const first = end;
      let block: Buffer[] = [];
      let bytes = 0;
      try {
        for (const entry of run) {
          const encoded = encodeEntry(entry);
          block.push(encoded);
          bytes += encoded.length;
          if (bytes < blockBytes) continue;
          await append(block);
          block = [];
          bytes = 0;
        }
        await append(block);
      } catch (error) {
        throw explain(error, folder);
      }
      return read(first, end);
    },

    close: () => file.close(),
  };
}

/** Lengths of key and value as two uint32, then both: the key a byte a character, the value in UTF-8. */
function encodeEntry({ key, value }: Entry): Buffer {
  const valueBytes = Buffer.byteLength(value);
  const bytes = Buffer.allocUnsafe(8 + key.length + valueBytes);
  bytes.writeUInt32LE(key.length, 0);
  bytes.writeUInt32LE(valueBytes, 4);
  bytes.write(key, 8, 'latin1');
  bytes.write(value, 8 + key.length, 'utf8');
  return bytes;
}

/** The entries that are whole, and the bytes behind them. */
function decodeEntries(bytes: Buffer): { entries: Entry[]; end: Buffer } {
  const entries: Entry[] = [];
  let at = 0;
  while (at + 8 <= bytes.length) {
    const valueAt = at + 8 + bytes.readUInt32LE(at);
    const next = valueAt + bytes.readUInt32LE(at + 4);
    if (next > bytes.length) break;
    entries.push({
      key: bytes.toString('latin1', at + 8, valueAt),
      value: bytes.toString('utf8', valueAt, next),
    });
    at = next;
  }
  return { entries, end: bytes.subarray(at) };
}

function explain(error: unknown, folder: string): unknown {
  const code = errnoOf(error);
  const fail = (name: string, what: string) =>
    new ConfigError(
      name,
      `a list is sorted in ${folder}, which ${what} (${code}): name another folder in TMPDIR`,
      {
        cause: error,
      },
    );
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return fail('disk-full', 'has no space left');
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
    case 'ENOENT':
    case 'ENOTDIR':
      return fail('not-writable', 'cannot be written');
    default:
      return error;
  }
}
