/**
 * Pillow's antialiased resize followed by torchvision's centre crop, bit for bit, computing only what the crop shows.
 * libvips resizes as well as anyone, but otherwise: 0.23 levels away on average, which a deep network amplifies.
 *
 * Facts from Pillow's Resample.c: two passes, horizontal first, 8 bits between them; weights are rounded to fixed point
 * with 22 bits; a sum starts at one half and is clipped to 0–255. From torchvision's Resize and CenterCrop: the longer
 * side is truncated, an offset is rounded half to even, a crop wider than the picture lies on black.
 *
 * The picture comes in strips, so that it need never be in memory as a whole. The passes are made by kernel.ts, or, where
 * that cannot run, by the JavaScript below, which is its reference.
 */
import { cropGeometry, precisionBits, type Resampling, type Taps, tapsOf } from './taps.ts';

/** Part of a picture, in pixels; `right` and `bottom` are outside. */
export interface Region {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/** A decoded picture, or one that is decoded as it is read: from the top down, each row once. */
export interface PixelRows {
  readonly width: number;
  readonly height: number;
  /** Writes the region's pixels (RGB, row after row) to the beginning of `target`. */
  read(target: Uint8Array, region: Region): void;
}

/** The arithmetic of one picture after the other: `begin`, `across` for each strip from the top, `down`. */
export interface Passes {
  /** For people. */
  readonly name: string;
  /** Returns where the strips are to be put: room for `stripRows` rows of the columns that `columns` needs. */
  begin(columns: Taps, rows: Taps, stripRows: number): Uint8Array;
  /** Resizes the first `count` rows of the strip horizontally; they are `first` and following of those that `rows` needs. */
  across(first: number, count: number): void;
  /** Resizes vertically. The crop's rows, `stride` bytes apart; they are overwritten by the next picture. */
  down(): { pixels: Uint8Array; stride: number };
}

/** A strip fits into a core's cache, beside what is made of it. */
const stripBytes = 128 * 1024;

/** Resizes and crops a picture into `target` (crop × crop × 3, uint8). */
export function resampleCrop(
  picture: PixelRows,
  target: Uint8Array,
  { resize, crop, interpolation }: Resampling,
  passes: Passes = javascriptPasses,
): void {
  const { x, y } = cropGeometry(picture.width, picture.height, { resize, crop });
  const columns = tapsOf(picture.width, x, interpolation);
  const rows = tapsOf(picture.height, y, interpolation);

  const rowBytes = (columns.end - columns.first) * 3;
  const stripRows = Math.max(4, Math.floor(stripBytes / rowBytes / 4) * 4);
  const strip = passes.begin(columns, rows, stripRows);
  for (let top = rows.first; top < rows.end; top += stripRows) {
    const bottom = Math.min(top + stripRows, rows.end);
    picture.read(strip, { left: columns.first, right: columns.end, top, bottom });
    passes.across(top - rows.first, bottom - top);
  }

  const { pixels, stride } = passes.down();
  if (x.count === crop && y.count === crop && stride === crop * 3) {
    target.set(pixels);
    return;
  }
  if (x.count < crop || y.count < crop) target.fill(0);
  for (let row = 0; row < y.count; row++) {
    const from = row * stride;
    target.set(pixels.subarray(from, from + x.count * 3), ((y.at + row) * crop + x.at) * 3);
  }
}

/** What of a picture the crop is made of. */
export function regionOf(width: number, height: number, { resize, crop, interpolation }: Resampling): Region {
  const { x, y } = cropGeometry(width, height, { resize, crop });
  const columns = tapsOf(width, x, interpolation);
  const rows = tapsOf(height, y, interpolation);
  return { left: columns.first, right: columns.end, top: rows.first, bottom: rows.end };
}

/** A picture in memory (RGB), of which `pixels` are the region that will be read, or all. */
export function rowsOf(
  pixels: Uint8Array,
  width: number,
  height: number,
  held: Region = { left: 0, right: width, top: 0, bottom: height },
): PixelRows {
  const heldWidth = held.right - held.left;
  return {
    width,
    height,
    read(target, { left, right, top, bottom }) {
      const first = (top - held.top) * heldWidth + left - held.left;
      if (right - left === heldWidth) {
        target.set(pixels.subarray(first * 3, (first + (bottom - top) * heldWidth) * 3));
        return;
      }
      for (let row = top, from = first, to = 0; row < bottom; row++, from += heldWidth) {
        target.set(pixels.subarray(from * 3, (from + right - left) * 3), to);
        to += (right - left) * 3;
      }
    },
  };
}

/** The reference. Buffers live on: a thread resizes one picture at a time. */
export const javascriptPasses: Passes = openJavascriptPasses();

function openJavascriptPasses(): Passes {
  let strip = new Uint8Array(0);
  let between = new Uint8ClampedArray(0);
  let crop = new Uint8ClampedArray(0);
  let columns: Taps;
  let rows: Taps;
  return {
    name: 'javascript',
    begin(itsColumns, itsRows, stripRows) {
      [columns, rows] = [itsColumns, itsRows];
      const rowBytes = columns.counts.length * 3;
      strip = roomFor(strip, stripRows * (columns.end - columns.first) * 3, Uint8Array);
      between = roomFor(between, (rows.end - rows.first) * rowBytes, Uint8ClampedArray);
      crop = roomFor(crop, rows.counts.length * rowBytes, Uint8ClampedArray);
      return strip;
    },
    across(first, count) {
      const rowBytes = columns.counts.length * 3;
      resampleRows(strip, between.subarray(first * rowBytes, (first + count) * rowBytes), columns);
    },
    down() {
      const stride = columns.counts.length * 3;
      resampleColumns(between, stride, crop, rows);
      return { pixels: new Uint8Array(crop.buffer, 0, rows.counts.length * stride), stride };
    },
  };
}

function roomFor<T extends Uint8Array | Uint8ClampedArray>(
  held: T,
  length: number,
  Type: new (length: number) => T,
): T {
  return held.length < length ? new Type(length) : held;
}

// The two passes below are hot loops. `Math.imul` and `| 0` keep sums in int32, as in C: they stay below
// 255 · Σ|weight| < 2^31. Storing into a Uint8ClampedArray clips. The casts only say that an index is inside.

const half = 1 << (precisionBits - 1);

/** Rows of the columns that the weights need to rows of a pixel for each sample, until `target` is full. */
function resampleRows(source: Uint8Array, target: Uint8ClampedArray, taps: Taps): void {
  const { starts, counts, weights, stride, first, end: last } = taps;
  const width = starts.length;
  let row = 0;
  for (let to = 0; to < target.length; row += (last - first) * 3) {
    for (let i = 0; i < width; i++) {
      let from = row + ((starts[i] as number) - first) * 3;
      let w = i * stride;
      const end = w + (counts[i] as number);
      let r = half;
      let g = half;
      let b = half;
      for (; w < end; w++, from += 3) {
        const weight = weights[w] as number;
        r = (r + Math.imul(source[from] as number, weight)) | 0;
        g = (g + Math.imul(source[from + 1] as number, weight)) | 0;
        b = (b + Math.imul(source[from + 2] as number, weight)) | 0;
      }
      target[to] = r >> precisionBits;
      target[to + 1] = g >> precisionBits;
      target[to + 2] = b >> precisionBits;
      to += 3;
    }
  }
}

/** Rows of `rowBytes` bytes to a row for each sample. */
function resampleColumns(
  source: Uint8ClampedArray,
  rowBytes: number,
  target: Uint8ClampedArray,
  { starts, counts, weights, stride, first: top }: Taps,
): void {
  for (let i = 0, to = 0; i < starts.length; i++) {
    const from = ((starts[i] as number) - top) * rowBytes;
    const first = i * stride;
    const end = first + (counts[i] as number);
    for (let j = 0; j < rowBytes; j += 3, to += 3) {
      let r = half;
      let g = half;
      let b = half;
      for (let w = first, p = from + j; w < end; w++, p += rowBytes) {
        const weight = weights[w] as number;
        r = (r + Math.imul(source[p] as number, weight)) | 0;
        g = (g + Math.imul(source[p + 1] as number, weight)) | 0;
        b = (b + Math.imul(source[p + 2] as number, weight)) | 0;
      }
      target[to] = r >> precisionBits;
      target[to + 1] = g >> precisionBits;
      target[to + 2] = b >> precisionBits;
    }
  }
}
