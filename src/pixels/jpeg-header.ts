/**
 * What a plain JPEG's header says: one that every decoder takes for the same picture. ITU-T T.81, annex B; Exif 2.32.
 * Whatever is unusual is not plain, and then libvips is asked; so nothing here need be clever.
 */

export interface PlainJpeg {
  /** As stored, before it is turned upright. */
  width: number;
  height: number;
  /** Exif's, 1 to 8; 1 where there is none. */
  orientation: number;
}

/** Grey or three colours, 8 bits, Huffman codes, 4:4:4, 4:2:2 or 4:2:0, and at most one Exif segment without surprises. */
export function readPlainJpeg(bytes: Uint8Array): PlainJpeg | undefined {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let size: { width: number; height: number } | undefined;
  let orientation: number | undefined;
  for (let at = 2; at + 4 <= view.byteLength; ) {
    if (view.getUint8(at) !== 0xff) return undefined;
    const marker = view.getUint8(at + 1);
    const end = at + 2 + view.getUint16(at + 2);
    if (end > view.byteLength) return undefined;
    if (marker === startOfScan) return size && { ...size, orientation: orientation ?? 1 };
    const segment = new DataView(view.buffer, view.byteOffset + at + 4, Math.max(0, end - at - 4));
    if (frames.has(marker)) {
      if (size) return undefined;
      size = readFrame(segment);
      if (!size) return undefined;
    } else if (marker === app1 && isExif(segment)) {
      if (orientation !== undefined) return undefined;
      orientation = readOrientation(segment);
      if (orientation === undefined) return undefined;
    } else if (!others.has(marker)) return undefined;
    at = end;
  }
  return undefined;
}

const startOfScan = 0xda;
const app1 = 0xe1;
/** Baseline, extended and progressive, all with Huffman codes. */
const frames = new Set([0xc0, 0xc1, 0xc2]);
/** Tables of codes and quantisation, the restart interval, application data and comments. */
const others = new Set([0xc4, 0xdb, 0xdd, ...Array.from({ length: 16 }, (_, n) => 0xe0 + n), 0xfe]);

/** Sampling factors of the first component; the others have 1 × 1. How other ones are scaled up differs between versions. */
const samplings = new Set([0x11, 0x21, 0x22]);

function readFrame(frame: DataView): { width: number; height: number } | undefined {
  if (frame.byteLength < 6) return undefined;
  const components = frame.getUint8(5);
  if (frame.getUint8(0) !== 8 || frame.byteLength !== 6 + components * 3) return undefined;
  const sampling = (component: number): number => frame.getUint8(6 + component * 3 + 1);
  const isPlain =
    components === 1
      ? sampling(0) === 0x11
      : components === 3 && samplings.has(sampling(0)) && sampling(1) === 0x11 && sampling(2) === 0x11;
  const [height, width] = [frame.getUint16(1), frame.getUint16(3)];
  return isPlain && width > 0 && height > 0 ? { width, height } : undefined;
}

const exif = 0x45786966;

function isExif(segment: DataView): boolean {
  return segment.byteLength >= 4 && segment.getUint32(0) === exif;
}

const orientationTag = 274;
const short = 3;

/** The orientation of the first directory, 1 if it has none; undefined if anything is out of place. */
function readOrientation(segment: DataView): number | undefined {
  if (segment.byteLength < 6 + 8 || segment.getUint16(4) !== 0) return undefined;
  const tiff = new DataView(segment.buffer, segment.byteOffset + 6, segment.byteLength - 6);
  const isLittle = tiff.getUint16(0) === 0x4949;
  if (!isLittle && tiff.getUint16(0) !== 0x4d4d) return undefined;
  if (tiff.getUint16(2, isLittle) !== 42) return undefined;
  const directory = tiff.getUint32(4, isLittle);
  if (directory + 2 > tiff.byteLength) return undefined;
  const end = directory + 2 + tiff.getUint16(directory, isLittle) * 12;
  if (end > tiff.byteLength) return undefined;
  let orientation: number | undefined;
  for (let at = directory + 2; at < end; at += 12) {
    if (tiff.getUint16(at, isLittle) !== orientationTag) continue;
    const isPlain = tiff.getUint16(at + 2, isLittle) === short && tiff.getUint32(at + 4, isLittle) === 1;
    if (!isPlain || orientation !== undefined) return undefined;
    orientation = tiff.getUint16(at + 8, isLittle);
  }
  if (orientation === undefined) return 1;
  return orientation >= 1 && orientation <= 8 ? orientation : undefined;
}
