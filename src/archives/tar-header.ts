/**
 * The 512-byte headers of a tar, and the records that say more than a header can. As in
 * https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html ("ustar Interchange Format", "pax Header Block") and
 * https://www.gnu.org/software/tar/manual/html_node/Standard.html, which also has GNU's sparse files and long names.
 */
import type { RawPath } from '../uri.ts';

/** A tar is made of blocks; content is filled up to whole ones. */
export const blockBytes = 512;

export interface TarHeader {
  name: RawPath;
  /** Of what follows, in bytes. */
  size: number;
  /** One character: '0' a file, '5' a folder … */
  type: string;
  /** Of an old GNU sparse file. `moreBlocks`: 512 more bytes of its map follow, which may announce more themselves. */
  sparse?: { realSize: number; moreBlocks: boolean };
}

/** Why a block is no header, as a clause. */
export class NoHeader extends Error {}

/** `undefined`: 512 zeros, as at the end of a tar. Throws NoHeader. */
export function parseHeader(block: Buffer): TarHeader | undefined {
  const sums = sumsOf(block);
  if (sums.unsigned === 0) return undefined;
  const checksum = parseNumber(block.subarray(148, 156), 'checksum');
  if (checksum !== sums.unsigned && checksum !== sums.signed)
    throw new NoHeader(`a header whose checksum is ${sums.unsigned}, where it says ${checksum}`);
  const magic = block.toString('latin1', 257, 263);
  const prefix = magic === 'ustar\0' ? cString(block.subarray(345, 500)) : '';
  const name = cString(block.subarray(0, 100));
  const flag = block.toString('latin1', 156, 157);
  const header: TarHeader = {
    name: prefix === '' ? name : `${prefix}/${name}`,
    size: parseNumber(block.subarray(124, 136), 'size'),
    type: flag === '\0' ? '0' : flag,
  };
  if (flag !== 'S') return header;
  const realSize = parseNumber(block.subarray(483, 495), 'real size');
  return { ...header, sparse: { realSize, moreBlocks: block[482] !== 0 } };
}

/** Of one more block of an old GNU sparse file's map. */
export function announcesMore(block: Uint8Array): boolean {
  return block[504] !== 0;
}

/** '7' is a file that some file system keeps in one piece. v7 tells a folder by its name alone, which may be a long one. */
export function isFile(type: string, name: RawPath): boolean {
  return (type === '0' || type === '7' || type === 'S') && !name.endsWith('/');
}

/** Links, devices, folders and FIFOs may have a size, but nothing follows them. */
export function hasContent(type: string): boolean {
  return !(type >= '1' && type <= '6');
}

/** The records of a pax header, `LENGTH KEY=VALUE\n` each. An empty value is one too. Throws NoHeader. */
export function parsePax(content: Buffer): Map<string, RawPath> {
  const records = new Map<string, RawPath>();
  for (let at = 0; at < content.length && content[at] !== 0; ) {
    const space = content.indexOf(0x20, at);
    const length = space < 0 ? 0 : Number(content.toString('latin1', at, space));
    const record = content.toString('latin1', space + 1, at + length);
    const equals = record.indexOf('=');
    const isWhole = Number.isSafeInteger(length) && at + length <= content.length && record.endsWith('\n');
    if (!isWhole || equals < 1) throw new NoHeader(`a pax header with a broken record at its byte ${at}`);
    records.set(record.slice(0, equals), record.slice(equals + 1, -1));
    at += length;
  }
  return records;
}

/** Up to the first NUL. */
export function cString(bytes: Buffer): RawPath {
  const end = bytes.indexOf(0);
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
}

/** Octal digits between spaces or NULs, or, where the first bit is set, a big-endian number (GNU). */
function parseNumber(field: Buffer, what: string): number {
  if ((field[0] ?? 0) >= 0x80) {
    const value = field.reduce((sum, byte, at) => sum * 256 + (at === 0 ? byte & 0x7f : byte), 0);
    if (Number.isSafeInteger(value)) return value;
    throw new NoHeader(`a header whose ${what} is no number of bytes`);
  }
  const [, digits] = /^[ \0]*([0-7]*)(?:[ \0]|$)/.exec(field.toString('latin1')) ?? [];
  if (digits === undefined) throw new NoHeader(`a header whose ${what} is no octal number`);
  return digits === '' ? 0 : Number.parseInt(digits, 8);
}

/** Of all bytes, those of the checksum taken as spaces. Old tars summed up signed bytes. A block of zeros has 0. */
function sumsOf(block: Buffer): { unsigned: number; signed: number } {
  let unsigned = 0;
  let high = 0;
  for (let at = 0; at < blockBytes; at++) {
    const byte = block[at] ?? 0;
    unsigned += byte;
    high += byte >> 7;
  }
  if (unsigned === 0) return { unsigned, signed: 0 };
  for (let at = 148; at < 156; at++) {
    const byte = block[at] ?? 0;
    unsigned += 0x20 - byte;
    high -= byte >> 7;
  }
  return { unsigned, signed: unsigned - 256 * high };
}
