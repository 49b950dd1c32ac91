/** Zips: a directory at the end says where each member lies, so one is read without the rest, by one ranged read. */
import { setImmediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import { crc32, inflateRaw } from 'node:zlib';
import { errnoOf } from '../errno.ts';
import { messageOf } from '../errors.ts';
import type { ObjectFacts, Objects } from '../objects/objects.ts';
import { ReadError } from '../sources/source.ts';
import type { Item, MemberPlace } from '../types.ts';
import { type RawPath, textOfRaw } from '../uri.ts';
import {
  type ArchiveKind,
  type ArchiveReader,
  archiveUriOf,
  badArchive,
  type Member,
  maxMembers,
  throwIfSizeless,
} from './archive.ts';

/**
 * A member's etag is its CRC-32 and size, so one that a new version of the zip holds unchanged is known as unchanged.
 * Stored and deflated members can be read; the others are listed, and reading one says why it cannot be.
 */
export const zip: ArchiveKind = {
  extensions: ['.zip'],
  open: (objects) => new ZipReader(objects),
};

interface ReadOptions {
  maxBytes: number;
  signal?: AbortSignal | undefined;
}

class ZipReader implements ArchiveReader {
  readonly #objects: Objects;

  constructor(objects: Objects) {
    this.#objects = objects;
  }

  async list(
    uri: string,
    facts: ObjectFacts,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<{ members: Member[]; skipped: number }> {
    throwIfSizeless(uri, facts);
    // Loaded here: workers read members, and list nothing.
    const { readDirectory } = await import('./zip-directory.ts');
    const members = new Map<RawPath, Member>();
    const places: MemberPlace[] = [];
    for await (const { name, isFile, crc, size, at } of readDirectory(this.#objects, uri, facts, signal)) {
      if (places.push(at) > maxMembers)
        throw badArchive(uri, `byte ${at.first}`, `the limit is ${maxMembers} members`);
      if (isFile) members.set(name, { name: textOfRaw(name), etag: etagOf(crc, size), size, at });
      if (places.length % entriesPerTurn > 0) continue;
      await setImmediate();
      signal?.throwIfAborted();
    }
    refuseOverlaps(uri, places);
    const ordered = [...members.keys()].sort().flatMap((name) => members.get(name) ?? []);
    return { members: ordered, skipped: places.length - ordered.length };
  }

  async read(item: Item, { maxBytes, signal }: ReadOptions): Promise<Uint8Array> {
    signal?.throwIfAborted();
    const { at, size, etag } = item;
    if (!at) throw new Error(`${item.uri} has no place in its zip: this is a bug`);
    if (at.packed === 'encrypted') throw new ReadError('encrypted', 'it wants a password');
    if (typeof at.packed === 'number') {
      const method = methodNames[at.packed] ?? 'unknown';
      throw new ReadError(
        'unsupported-format',
        `packed by method ${at.packed} (${method}); only stored and deflated members can be read`,
      );
    }
    if (size > maxBytes || at.count > maxBytes + maxOverhead)
      throw new ReadError('too-many-bytes', `${size} bytes, ${at.count} packed; the limit is ${maxBytes}`);
    const packed = await this.#readPacked(archiveUriOf(item), at, signal);
    // Copied: the part of a buffer cannot be handed to another thread alone.
    const content = at.packed === 'stored' ? new Uint8Array(packed) : await inflate(packed, size);
    if (content.length !== size)
      throw new ReadError('corrupt', `${content.length} bytes, ${size} as its zip declares`);
    if (etagOf(crc32(content), size) !== etag)
      throw new ReadError('corrupt', 'its checksum is not the one that its zip declares');
    return content;
  }

  async close(): Promise<void> {}

  /** The content as it is packed. The local header before it says by how much it is later than it seemed from the directory. */
  async #readPacked(
    uri: string,
    { archive, first, count, packed }: MemberPlace,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const read = (from: number, length: number): Promise<Uint8Array> =>
      this.#objects.readRange(uri, { etag: archive, first: from, count: length, signal });
    const bytes = await read(first, count + usualExtraBytes);
    const header = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 30 || header.getUint32(0) !== 0x504b0304)
      throw new ReadError('corrupt', `no member begins at byte ${first} of its zip`);
    if (header.getUint16(8, true) !== (packed === 'stored' ? 0 : 8))
      throw new ReadError('corrupt', `its own header, at byte ${first}, says otherwise how it is packed`);
    const nameBytes = header.getUint16(26, true);
    const skip = 30 + nameBytes + header.getUint16(28, true);
    const packedCount = Math.max(0, count - 30 - nameBytes);
    return skip + packedCount <= bytes.length
      ? bytes.subarray(skip, skip + packedCount)
      : read(first + skip, packedCount);
  }
}

/** The event loop has its turn after so many entries, of a microsecond or two each. */
const entriesPerTurn = 4096;

/** Info-ZIP's local headers have 28 more bytes than the directory lets expect, those for more than 4 GB 48. */
const usualExtraBytes = 128;

/** What a member that cannot be made smaller may grow by, and its header. */
const maxOverhead = 2 ** 18;

/** https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.4.5 */
const methodNames: Record<number, string> = {
  1: 'shrunk',
  6: 'imploded',
  9: 'Deflate64',
  12: 'bzip2',
  14: 'LZMA',
  93: 'Zstandard',
  95: 'XZ',
  96: 'JPEG',
  98: 'PPMd',
};

/** As lower-case hex, '-', and bytes. */
function etagOf(crc: number, size: number): string {
  return `${crc.toString(16).padStart(8, '0')}-${size}`;
}

/**
 * A zip bomb without nesting has its members share their bytes: https://www.bamsoftware.com/hacks/zipbomb/. No honest packer
 * does that. Sorts `places`.
 */
function refuseOverlaps(uri: string, places: MemberPlace[]): void {
  places.sort((a, b) => a.first - b.first);
  let end = 0;
  for (const { first, count } of places) {
    if (first < end) throw badArchive(uri, `byte ${first}`, 'two members share the same bytes');
    end = first + count;
  }
}

const inflateAsync = promisify(inflateRaw);

/** Never more than `size` bytes. Throws ReadError 'corrupt'. */
async function inflate(packed: Uint8Array, size: number): Promise<Uint8Array> {
  try {
    // zlib wants a limit of at least one byte. What it returns may be part of a larger buffer.
    return new Uint8Array(await inflateAsync(packed, { maxOutputLength: Math.max(1, size) }));
  } catch (error) {
    const isLonger = errnoOf(error) === 'ERR_BUFFER_TOO_LARGE';
    const message = isLonger
      ? `it unpacks to more than the ${size} bytes that it declares`
      : messageOf(error);
    throw new ReadError('corrupt', message, { cause: error });
  }
}
