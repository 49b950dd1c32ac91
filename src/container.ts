/**
 * What a picture's bytes say of themselves, without a decoder. libvips words most truncations as it words corruption
 * ("libpng read error", "unable to parse image"), so a picture that it refused is asked here how long it meant to be.
 */

export type PictureFormat = 'jpeg' | 'png' | 'webp' | 'gif' | 'tiff' | 'avif';

/** By the first bytes, as far as there are any. 'avif' is all of HEIF: which codec lies within, its decoder tells. */
export function formatOf(bytes: Uint8Array): PictureFormat | undefined {
  const head = latin1(bytes, 0, 12);
  if (head.startsWith('\xff\xd8\xff')) return 'jpeg';
  if (head.startsWith('\x89PNG\r\n\x1a\n')) return 'png';
  if (head.startsWith('GIF8')) return 'gif';
  if (head.startsWith('II*\0') || head.startsWith('MM\0*')) return 'tiff';
  if (head.startsWith('RIFF') && 'WEBP'.startsWith(head.slice(8))) return 'webp';
  if (head.startsWith('ftyp', 4)) return 'avif';
  return undefined;
}

/** True if the container promises bytes that are not there. JPEG and GIF promise no length: false, ask the decoder. */
export function endsEarly(bytes: Uint8Array, format: PictureFormat): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const promised = {
    png: endOfPng,
    webp: endOfWebp,
    tiff: endOfTiff,
    avif: endOfBoxes,
    jpeg: noLength,
    gif: noLength,
  };
  return promised[format](view) > view.byteLength;
}

const noLength = () => 0;

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

/** TIFF 6.0, section 2: the header points to a directory, which many writers put behind the pixels. */
function endOfTiff(view: DataView): number {
  return view.byteLength < 8 ? Infinity : 2 + view.getUint32(4, view.getUint8(0) === 0x49);
}

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
