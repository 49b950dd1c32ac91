/**
 * A zip's central directory, in two ranged reads: the end of the file tells where the directory begins, and from there
 * all is read at once. The one door to yauzl, which takes it apart; it reads twice for each entry, from memory here.
 *
 * Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 (entry) to 4.3.16 (end record).
 */
import { isUtf8 } from 'node:buffer';
import { type Entry, fromRandomAccessReaderPromise, getFileNameLowLevel, RandomAccessReader } from 'yauzl';
import { messageOf } from '../errors.ts';
import type { ObjectFacts, Objects } from '../objects/objects.ts';
import { ReadError } from '../sources/source.ts';
import type { MemberPlace } from '../types.ts';
import { escapeName, type RawPath, rawOfText } from '../uri.ts';
import { badArchive } from './archive.ts';

export interface ZipEntry {
  /** `Member.name`, raw. */
  name: RawPath;
  /** Neither a folder, nor a link or device of a Unix. */
  isFile: boolean;
  crc: number;
  /** Unpacked, as declared. */
  size: number;
  at: MemberPlace;
}

/** Of some five million entries. It is held whole while it is read. */
export const maxDirectoryBytes = 512 * 2 ** 20;

/** What yauzl reads of the end, 65,577 bytes, and with it most small directories whole. */
const tailBytes = 2 ** 17;

/**
 * Every entry, in the directory's order, over two reads at most. An entry lies wholly before the directory; whether two
 * share bytes is not looked at. Throws ConfigError 'bad-archive'; ReadError as `Objects` does.
 */
export async function* readDirectory(
  objects: Objects,
  uri: string,
  facts: ObjectFacts,
  signal: AbortSignal | undefined,
): AsyncGenerator<ZipEntry> {
  const read = async (first: number): Promise<Buffer> => {
    const count = facts.size - first;
    const bytes = await objects.readRange(uri, { etag: facts.etag, first, count, signal });
    if (bytes.length < count) throw new ReadError('changed', `it ended at ${first + bytes.length} bytes`);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
  const tailFirst = Math.max(0, facts.size - tailBytes);
  const tail = await read(tailFirst);
  const directory = findDirectory(tail, tailFirst, uri);
  const isWhole = directory.first >= tailFirst;
  const end = isWhole ? tail : await read(directory.first);
  const reader = new HeldEnd(end, (isWhole ? tailFirst : directory.first) - directory.shift);
  let at = directory.first;
  try {
    const options = { decodeStrings: false, validateEntrySizes: false };
    const zip = await fromRandomAccessReaderPromise(reader, facts.size - directory.shift, options);
    // The 16 bits of the old count overflow in zips of more entries (macOS makes them): the directory's length decides.
    const declared = zip.entryCount;
    zip.entryCount = Number.POSITIVE_INFINITY;
    const directoryEnd = directory.first + directory.size;
    const entries = at < directoryEnd ? zip.eachEntry() : [];
    let count = 0;
    for await (const entry of entries) {
      yield placeEntry(entry, directory, facts.etag);
      at += 46 + entry.fileNameLength + entry.extraFieldLength + entry.fileCommentLength;
      count++;
      if (at >= directoryEnd) break;
    }
    if (at !== directoryEnd) throw new Error(`its last entry ends after the directory, at ${directoryEnd}`);
    if ((count - declared) % 0x1_0000 !== 0)
      throw new Error(`${count} entries, but its end says ${declared}`);
  } catch (error) {
    throw badArchive(uri, `byte ${at}`, messageOf(error), { cause: error });
  }
}

interface Directory {
  /** In the object. */
  first: number;
  size: number;
  /** What stands before the zip, such as a program that unpacks it: the zip's own offsets may count from behind it. */
  shift: number;
}

/** By the end record, or zip64's. The directory ends where the record begins, wherever it says that it lies. */
function findDirectory(tail: Buffer, tailFirst: number, uri: string): Directory {
  const fail = (at: number, found: string): never => {
    throw badArchive(uri, `byte ${tailFirst + at}`, found);
  };
  let record = tail.length < 22 ? -1 : tail.lastIndexOf('PK\x05\x06', tail.length - 22, 'latin1');
  if (record < 0) fail(tail.length, 'there is no end record: it is no zip, or cut off');
  let size = tail.readUInt32LE(record + 12);
  let declared = tail.readUInt32LE(record + 16);
  const locator = record - 20;
  if (locator >= 0 && tail.readUInt32LE(locator) === 0x07064b50) {
    const wanted = [Number(tail.readBigUInt64LE(locator + 8)) - tailFirst, locator - 56];
    const found = wanted.find((at) => at >= 0 && at + 56 <= locator && tail.readUInt32LE(at) === 0x06064b50);
    record = found ?? fail(locator, 'it names a zip64 end record that is not there');
    size = Number(tail.readBigUInt64LE(record + 40));
    declared = Number(tail.readBigUInt64LE(record + 48));
  }
  if (size > maxDirectoryBytes)
    fail(record, `its directory would be ${size} bytes long, the limit is ${maxDirectoryBytes}`);
  const first = tailFirst + record - size;
  const shift = first - declared;
  if (shift < 0) fail(record, `a directory of ${size} bytes at ${declared} is not before its end record`);
  return { first, size, shift };
}

/** The end of an object, for yauzl to read. `first` counts as the zip's own offsets do. */
class HeldEnd extends RandomAccessReader {
  readonly #bytes: Buffer;
  readonly #first: number;

  constructor(bytes: Buffer, first: number) {
    super();
    this.#bytes = bytes;
    this.#first = first;
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    const from = position - this.#first;
    const isHeld = from >= 0 && from + length <= this.#bytes.length;
    if (isHeld) this.#bytes.copy(buffer, offset, from, from + length);
    // Not within the call: yauzl's iterator is not ready for an answer then.
    queueMicrotask(() => callback(isHeld ? null : new Error('an entry reaches beyond the end')));
  }
}

/** Throws an Error where what it says of itself cannot be. */
function placeEntry(entry: Entry, { first: end, shift }: Directory, archive: string): ZipEntry {
  const { crc32: crc, uncompressedSize: size, compressionMethod: method } = entry;
  const name = nameOf(entry);
  const first = entry.relativeOffsetOfLocalHeader + shift;
  // The local header has an extra field too, of a length of its own, which only it tells.
  const count = 30 + entry.fileNameLength + entry.compressedSize;
  // Not told by its name, which may be 64 KB of anything.
  if (first + count > end)
    throw new Error(`an entry's content would end at ${first + count}, in the directory`);
  if (!Number.isSafeInteger(size)) throw new Error(`an entry would have ${size} bytes`);
  const packed = entry.isEncrypted() ? 'encrypted' : (readable[method] ?? method);
  return { name, isFile: isFile(entry, name), crc, size, at: { archive, first, count, packed } };
}

const readable: Record<number, 'stored' | 'deflated'> = { 0: 'stored', 8: 'deflated' };

/**
 * The name stands in Info-ZIP's Unicode field, else it is UTF-8 where it can be (macOS sets no flag), else CP437.
 * A '\' is a '/' where the zip was made on MS-DOS or Windows, as in unzip; on a Unix it is a letter like any other.
 */
function nameOf(entry: Entry): RawPath {
  const { fileNameRaw: bytes, generalPurposeBitFlag: flags, extraFields } = entry;
  const isText = isUtf8(bytes);
  const decoded = rawOfText(getFileNameLowLevel(isText ? utf8Flag : 0, bytes, extraFields, true));
  const isMislabelled = (flags & utf8Flag) !== 0 && !isText;
  const name = escapeName(isMislabelled ? bytes.toString('latin1') : decoded);
  const isDos = entry.versionMadeBy >> 8 === 0 && !name.includes('/');
  return (isDos ? name.replaceAll('\\', '/') : name).replace(/^(\.\/)+/, '');
}

const utf8Flag = 0x800;

function isFile({ versionMadeBy, externalFileAttributes }: Entry, name: RawPath): boolean {
  if (name === '' || name.endsWith('/')) return false;
  const isUnix = [3, 19].includes(versionMadeBy >> 8);
  const type = (externalFileAttributes >>> 16) & 0o170000;
  return !isUnix || type === 0 || type === 0o100000;
}
