/**
 * A walk through a tar, from header to header, which makes the list of its members.
 *
 * Zeros do not end it: what was made by `cat a.tar b.tar` is read whole, as by `tar --ignore-zeros`. So every block
 * between members is zeros or a header, up to the last; anything else is damage, and is told. Two zero blocks at the end are
 * not asked for, since writers that were stopped between two members leave none.
 */
import { ReadError } from '../sources/source.ts';
import type { Item, MemberPlace } from '../types.ts';
import { escapeName, type RawPath, textOfRaw } from '../uri.ts';
import { badArchive, type Member, maxMembers } from './archive.ts';
import {
  announcesMore,
  blockBytes,
  cString,
  hasContent,
  isFile,
  NoHeader,
  parseHeader,
  parsePax,
  type TarHeader,
} from './tar-header.ts';

/** The bytes of a tar, forward only. */
export interface TarBytes {
  /** For error messages. */
  readonly uri: string;
  /** What a position counts, for error messages: 'byte', 'unpacked byte'. */
  readonly unit: string;
  readonly position: number;
  /** The next `count` bytes; fewer where the end is. Valid until the next call. */
  take(count: number): Promise<Buffer>;
  /** Moves on by `count` bytes, or to the end. */
  skip(count: number): Promise<void>;
}

/** Names of 64 KB, extended attributes. */
const maxExtraBytes = 4 * 2 ** 20;

/**
 * `ArchiveReader.list` of a tar whose etag is `etag`. A member's etag is its tar's, its `extra` has WebDataset's `__key__`.
 * A file that was stored with holes (`tar --sparse`) is a member, whose size is not the count of its place.
 */
export async function listTar(
  bytes: TarBytes,
  etag: string,
): Promise<{ members: Member[]; skipped: number }> {
  const members = new Map<RawPath, Member>();
  let entries = 0;
  for await (const entry of walk(bytes)) {
    if (++entries > maxMembers)
      throw badArchive(bytes.uri, `${bytes.unit} ${entry.first}`, `the limit is ${maxMembers} members`);
    const key = escapeName(entry.name.replace(/^(?:\.\/)+/, ''));
    if (!entry.isFile || key === '') continue;
    const { first, count, size } = entry;
    const name = textOfRaw(key);
    members.set(key, { name, etag, size, at: { archive: etag, first, count }, ...extraOf(name) });
  }
  const names = [...members.keys()].sort();
  const ordered = names.flatMap((name) => members.get(name) ?? []);
  return { members: ordered, skipped: entries - ordered.length };
}

/** The place of an item that `listTar` made a member of. Throws ReadError where it is not to be read. */
export function placeInTar({ uri, at, size }: Item, maxBytes: number): MemberPlace {
  if (!at) throw new Error(`${uri} has no place in its tar: this is a bug`);
  if (size > maxBytes) throw new ReadError('too-many-bytes', `${size} bytes, the limit is ${maxBytes}`);
  if (size === at.count) return at;
  throw new ReadError('unsupported-format', 'stored with holes in its tar: pack it without --sparse');
}

interface Entry {
  name: RawPath;
  isFile: boolean;
  /** Of the file. */
  size: number;
  /** Where its content is, and how much of it. */
  first: number;
  count: number;
}

/** What stands before a member and is about it. */
interface Extras {
  longName?: RawPath;
  pax: Map<string, RawPath>;
}

async function* walk(bytes: TarBytes): AsyncGenerator<Entry> {
  const global = new Map<string, RawPath>();
  let extras: Extras = { pax: new Map() };
  for (;;) {
    const place = `${bytes.unit} ${bytes.position}`;
    const fail = (found: string, cause?: unknown) => badArchive(bytes.uri, place, found, { cause });
    try {
      const header = await nextHeader(bytes);
      if (header === 'end') {
        if (extras.pax.size === 0 && extras.longName === undefined) return;
        throw new NoHeader('it ends before the member that a header of it is about');
      }
      if (header === 'zeros') continue;
      if (/[LKxXg]/.test(header.type)) {
        await readExtra(bytes, header, extras, global);
        continue;
      }
      yield await passMember(bytes, header, extras, global);
      extras = { pax: new Map() };
    } catch (error) {
      throw error instanceof NoHeader ? fail(error.message, error) : error;
    }
  }
}

async function nextHeader(bytes: TarBytes): Promise<TarHeader | 'zeros' | 'end'> {
  const block = await bytes.take(blockBytes);
  if (block.length === blockBytes) return parseHeader(block) ?? 'zeros';
  if (block.every((byte) => byte === 0)) return 'end';
  throw new NoHeader(`it ends ${block.length} bytes into a header`);
}

/** L and K: GNU's names longer than 100 bytes, of a member and of what it links to. x, X and g: pax. */
async function readExtra(
  bytes: TarBytes,
  { type, size }: TarHeader,
  extras: Extras,
  global: Map<string, RawPath>,
): Promise<void> {
  if (size > maxExtraBytes)
    throw new NoHeader(`an extended header of ${size} bytes, the limit is ${maxExtraBytes}`);
  const content = await bytes.take(size);
  if (content.length < size) throw new NoHeader('it ends in an extended header');
  if (type === 'L') extras.longName = cString(content);
  else if (type !== 'K')
    for (const [key, value] of parsePax(content)) (type === 'g' ? global : extras.pax).set(key, value);
  await bytes.skip(paddingOf(size));
}

async function passMember(
  bytes: TarBytes,
  { name, size, type, sparse }: TarHeader,
  { longName, pax }: Extras,
  global: Map<string, RawPath>,
): Promise<Entry> {
  // An empty value takes back a global one.
  const paxOf = (...keys: string[]): RawPath | undefined =>
    keys.map((key) => pax.get(key) ?? global.get(key)).find(Boolean);
  for (let isMore = sparse?.moreBlocks; isMore; ) isMore = announcesMore(await bytes.take(blockBytes));
  const paxSize = paxOf('size');
  const count = hasContent(type) ? (paxSize === undefined ? size : sizeOf(paxSize)) : 0;
  const first = bytes.position;
  await bytes.skip(count);
  if (bytes.position < first + count)
    throw new NoHeader(`it ends ${bytes.position - first} bytes into a member of ${count}`);
  await bytes.skip(paddingOf(count));
  const realSize = paxOf('GNU.sparse.realsize', 'GNU.sparse.size');
  const fullName = paxOf('GNU.sparse.name', 'path') ?? longName ?? name;
  return {
    name: fullName,
    isFile: isFile(type, fullName),
    size: realSize === undefined ? (sparse?.realSize ?? count) : sizeOf(realSize),
    first,
    count,
  };
}

function sizeOf(decimal: string): number {
  const size = Number(decimal);
  if (/^[0-9]+$/.test(decimal) && Number.isSafeInteger(size)) return size;
  throw new NoHeader(`a pax header with a size of '${textOfRaw(decimal.slice(0, 40))}'`);
}

function paddingOf(size: number): number {
  return -size & (blockBytes - 1);
}

/** https://github.com/webdataset/webdataset: what shares the path up to the first '.' of its last segment is one sample. */
function extraOf(name: string): Pick<Member, 'extra'> {
  const segment = name.lastIndexOf('/') + 1;
  const dot = name.indexOf('.', segment);
  return dot > segment ? { extra: { __key__: name.slice(0, dot) } } : {};
}
