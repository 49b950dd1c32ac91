/**
 * What a picture's bytes say of themselves, without a decoder. libvips words most truncations as it words corruption
 * ("libpng read error", "unable to parse image"), and keeps one text for the whole process: of two pictures that fail side by
 * side one may be told the other's reason. So a picture that it refused is asked here how long it meant to be.
 */

export type PictureFormat = 'jpeg' | 'png' | 'webp' | 'gif' | 'tiff' | 'avif';

/** By the first bytes, as far as there are any. 'avif' is all of HEIF: which codec lies within, its decoder tells. */
export function formatOf(bytes: Uint8Array): PictureFormat | undefined {
  const head = latin1(bytes, 0, 12);
  if (head.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (head.startsWith('GIF8')) return 'gif';
  if (['II*\0', 'MM\0*', 'II+\0', 'MM\0+'].includes(head.slice(0, 4))) return 'tiff';
  if (head.startsWith('RIFF') && 'WEBP'.startsWith(head.slice(8))) return 'webp';
  if (head.startsWith('ftyp', 4)) return 'avif';
  return undefined;
}

/** True if the container promises bytes that are not there, or does not come to its end. */
export function endsEarly(bytes: Uint8Array, format: PictureFormat): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const promised = {
    png: endOfPng,
    webp: endOfWebp,
    tiff: endOfTiff,
    avif: endOfBoxes,
    jpeg: endOfJpeg,
    gif: endOfGif,
  };
  return promised[format](view) > view.byteLength;
}

/** ITU-T T.81, annex B: markers with their segments; after a scan's header coded bytes, in which FF 00 is a mere FF. */
function endOfJpeg(view: DataView): number {
  let at = 2;
  while (at + 4 <= view.byteLength) {
    if (view.getUint8(at) !== 0xff) {
      at += 1; // coded bytes
      continue;
    }
    const marker = view.getUint8(at + 1);
    if (marker === EOI) return at + 2;
    const isAlone = marker === 0 || marker === 0xff || (marker >= RST0 && marker <= RST7);
    at += isAlone ? (marker === 0xff ? 1 : 2) : 2 + view.getUint16(at + 2);
  }
  const isEnd = at + 2 === view.byteLength && view.getUint16(at) === 0xff00 + EOI;
  return isEnd ? view.byteLength : Infinity;
}

const [EOI, RST0, RST7] = [0xd9, 0xd0, 0xd7];

/** https://www.w3.org/Graphics/GIF/spec-gif89a.txt: a header, blocks of sub-blocks with their length, a trailer. */
function endOfGif(view: DataView): number {
  const colours = (flags: number): number => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const byte = (offset: number): number => (offset < view.byteLength ? view.getUint8(offset) : 0);
  let at = 13 + colours(byte(10));
  while (at < view.byteLength) {
    const block = byte(at);
    if (block === 0x3b) return at + 1;
    if (block === 0x21) at += 2;
    else if (block === 0x2c) at += 11 + colours(byte(at + 9));
    else return 0; // damaged in another way
    while (byte(at) > 0) at += 1 + byte(at);
    at += 1;
  }
  return Infinity;
}

/** https://www.w3.org/TR/png-3/#5Chunk-layout: chunks of length, type, content and CRC; IEND is the last. */
function endOfPng(view: DataView): number {
  for (let at = 8; at + 8 <= view.byteLength; ) {
    const type = view.getUint32(at + 4);
    at += 12 + view.getUint32(at);
    if (type === IEND) return at;
  }
  return Infinity;
}

const IEND = 0x49454e44;

/** https://developers.google.com/speed/webp/docs/riff_container: 'RIFF', then the size of all that follows. */
function endOfWebp(view: DataView): number {
  return view.byteLength < 12 ? Infinity : 8 + view.getUint32(4, true);
}

/**
 * TIFF 6.0, sections 2 and 8: the header points to a directory, and that to its longer values and to strips or tiles of pixels.
 * BigTIFF (https://www.awaresystems.be/imaging/tiff/bigtiff.html) is the same with longer counts and offsets.
 */
function endOfTiff(view: DataView): number {
  if (view.byteLength < 16) return Infinity;
  const isLittle = view.getUint8(0) === 0x49;
  const number = (at: number, bytes: number): number => {
    if (bytes === 8) return Number(view.getBigUint64(at, isLittle));
    if (bytes === 4) return view.getUint32(at, isLittle);
    return bytes === 2 ? view.getUint16(at, isLittle) : view.getUint8(at);
  };
  const isBig = number(2, 2) === 43;
  const offsetBytes = isBig ? 8 : 4;
  const directory = number(isBig ? 8 : 4, offsetBytes);
  const first = directory + (isBig ? 8 : 2);
  if (first > view.byteLength) return Infinity;
  const entryBytes = 4 + 2 * offsetBytes;
  const entriesEnd = first + entryBytes * number(directory, isBig ? 8 : 2);
  if (entriesEnd > view.byteLength) return Infinity;
  const found = new Map<number, { at: number; bytes: number; count: number }>();
  for (let entry = first; entry < entriesEnd; entry += entryBytes) {
    const bytes = bytesOfType[number(entry + 2, 2)] ?? 1;
    const count = number(entry + 4, offsetBytes);
    const place = entry + 4 + offsetBytes;
    const at = count * bytes <= offsetBytes ? place : number(place, offsetBytes);
    if (at + count * bytes > view.byteLength) return Infinity;
    found.set(number(entry, 2), { at, bytes, count });
  }
  const numberOf = (tag: number, n: number): number => {
    const values = found.get(tag);
    return values && n < values.count ? number(values.at + n * values.bytes, values.bytes) : 0;
  };
  const [starts, lengths] = found.has(TILES) ? [TILES, TILE_LENGTHS] : [STRIPS, STRIP_LENGTHS];
  let end = entriesEnd;
  for (let n = 0; n < (found.get(starts)?.count ?? 0); n++)
    end = Math.max(end, numberOf(starts, n) + numberOf(lengths, n));
  return end;
}

const [STRIPS, STRIP_LENGTHS, TILES, TILE_LENGTHS] = [273, 279, 324, 325];

/** By the number of the type. */
const bytesOfType = [1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8, 8, 8];

/** ISO/IEC 14496-12, section 4.2: boxes that begin with their size; 0 is "to the end", 1 "64 bits, after the type". */
function endOfBoxes(view: DataView): number {
  let at = 0;
  while (at < view.byteLength) {
    if (at + 16 > view.byteLength) return Infinity;
    const short = view.getUint32(at);
    const size = short === 1 ? Number(view.getBigUint64(at + 8)) : short;
    if (size < 8) return 0;
    at += size;
  }
  return at;
}

function latin1(bytes: Uint8Array, from: number, to: number): string {
  return String.fromCharCode(...bytes.subarray(from, to));
}
