/**
 * Pillow's antialiased resize followed by torchvision's centre crop, bit for bit, computing only what the crop shows.
 * libvips resizes as well as anyone, but otherwise: 0.23 levels away on average, which a deep network amplifies.
 *
 * Facts from Pillow's Resample.c: two passes, horizontal first, 8 bits between them; weights are rounded to fixed point
 * with 22 bits; a sum starts at one half and is clipped to 0–255. From torchvision's Resize and CenterCrop: the longer
 * side is truncated, an offset is rounded half to even, a crop wider than the picture lies on black.
 */
import type { Preprocessing } from './types.ts';

/** One axis of a centre crop: `count` samples from `first` on of a side resized to `size`, put at `at` in the crop. */
export interface CropAxis {
  /** Length of the side after the resize, in pixels. */
  size: number;
  first: number;
  count: number;
  /** Black pixels before the picture; not 0 only where the resized side is shorter than the crop. */
  at: number;
}

/** Where `Resize(resize)` and `CenterCrop(crop)` put a `width` × `height` picture. */
export function cropGeometry(
  width: number,
  height: number,
  { resize, crop }: Pick<Preprocessing, 'resize' | 'crop'>,
): { x: CropAxis; y: CropAxis } {
  const long = Math.trunc((resize * Math.max(width, height)) / Math.min(width, height));
  const isWide = width > height;
  return { x: cropAxis(isWide ? long : resize, crop), y: cropAxis(isWide ? resize : long, crop) };
}

/**
 * Resizes and crops `pixels` (height × width × 3, uint8) into `target` (crop × crop × 3, uint8).
 * 1.2 ms for a photograph of 0.19 megapixels (test/bench/decode.ts).
 */
export function resampleCrop(
  pixels: Uint8Array,
  width: number,
  height: number,
  target: Uint8Array,
  { resize, crop, interpolation }: Pick<Preprocessing, 'resize' | 'crop' | 'interpolation'>,
): void {
  const { x, y } = cropGeometry(width, height, { resize, crop });
  const columns = tapsOf(width, x, interpolation);
  const rows = tapsOf(height, y, interpolation);

  const top = rows.starts[0] ?? 0;
  const bottom = (rows.starts[y.count - 1] ?? 0) + (rows.counts[y.count - 1] ?? 0);
  const between = scratchOf((bottom - top) * x.count * 3);
  resampleRows(pixels.subarray(top * width * 3, bottom * width * 3), width * 3, between, x.count, columns);

  if (x.count < crop || y.count < crop) target.fill(0);
  const clamped = new Uint8ClampedArray(target.buffer, target.byteOffset, target.length);
  resampleColumns(
    between,
    x.count * 3,
    top,
    clamped.subarray((y.at * crop + x.at) * 3),
    crop * 3,
    y.count,
    rows,
  );
}

/** The weights of one axis; sample i is the sum of `counts[i]` weights from `i * stride` on, over inputs from `starts[i]` on. */
interface Taps {
  starts: Int32Array;
  counts: Int32Array;
  weights: Int32Array;
  stride: number;
}

const PRECISION_BITS = 22;
const ONE = 1 << PRECISION_BITS;
const HALF = 1 << (PRECISION_BITS - 1);

const SUPPORT = { bilinear: 1, bicubic: 2 };
const KERNEL = {
  bilinear: (x: number) => Math.max(0, 1 - Math.abs(x)),
  // Keys' cubic with a = -0.5.
  bicubic: (signed: number) => {
    const x = Math.abs(signed);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  },
};

function cropAxis(size: number, crop: number): CropAxis {
  if (size < crop) return { size, first: 0, count: size, at: Math.floor((crop - size) / 2) };
  return { size, first: roundHalfToEven((size - crop) / 2), count: crop, at: 0 };
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** Recently used weights, oldest first: photographs come in few sizes. An entry is a few kilobytes. */
const recentTaps = new Map<string, Taps>();
const MAX_RECENT_TAPS = 64;

function tapsOf(length: number, axis: CropAxis, interpolation: Preprocessing['interpolation']): Taps {
  const key = `${length}>${axis.size}[${axis.first}+${axis.count}]${interpolation}`;
  const taps = recentTaps.get(key) ?? computeTaps(length, axis, interpolation);
  recentTaps.delete(key);
  recentTaps.set(key, taps);
  if (recentTaps.size > MAX_RECENT_TAPS) recentTaps.delete(recentTaps.keys().next().value ?? key);
  return taps;
}

function computeTaps(length: number, axis: CropAxis, interpolation: Preprocessing['interpolation']): Taps {
  const kernel = KERNEL[interpolation];
  const scale = length / axis.size;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT[interpolation] * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const taps: Taps = {
    starts: new Int32Array(axis.count),
    counts: new Int32Array(axis.count),
    weights: new Int32Array(axis.count * stride),
    stride,
  };
  const exact = new Float64Array(stride);
  for (let i = 0; i < axis.count; i++) {
    const centre = (axis.first + i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(length, Math.trunc(centre + support + 0.5)) - start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      // Times the reciprocal, as Pillow does: a division can round to another weight.
      const weight = kernel((k + start - centre + 0.5) * (1 / filterScale));
      exact[k] = weight;
      sum += weight;
    }
    taps.starts[i] = start;
    taps.counts[i] = count;
    for (let k = 0; k < count; k++) {
      const weight = ((exact[k] ?? 0) / sum) * ONE;
      taps.weights[i * stride + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
  }
  return taps;
}

/** The picture between the passes. It lives on: `resampleCrop` never yields, so a thread needs only one. */
let scratch = new Uint8ClampedArray(0);

function scratchOf(length: number): Uint8ClampedArray {
  if (scratch.length < length) scratch = new Uint8ClampedArray(length);
  return scratch.subarray(0, length);
}

// The two passes below are the hot loops. `Math.imul` and `| 0` keep sums in int32, as in C: they stay below
// 255 · Σ|weight| < 2^31. Storing into a Uint8ClampedArray clips. The casts only say that an index is inside.

/** Every row of `source` (rows of `sourceStride` bytes) to `width` pixels. */
function resampleRows(
  source: Uint8Array,
  sourceStride: number,
  target: Uint8ClampedArray,
  width: number,
  { starts, counts, weights, stride }: Taps,
): void {
  let to = 0;
  for (let row = 0; row < source.length; row += sourceStride) {
    for (let i = 0; i < width; i++) {
      let from = row + (starts[i] as number) * 3;
      let w = i * stride;
      const end = w + (counts[i] as number);
      let r = HALF;
      let g = HALF;
      let b = HALF;
      for (; w < end; w++, from += 3) {
        const weight = weights[w] as number;
        r = (r + Math.imul(source[from] as number, weight)) | 0;
        g = (g + Math.imul(source[from + 1] as number, weight)) | 0;
        b = (b + Math.imul(source[from + 2] as number, weight)) | 0;
      }
      target[to] = r >> PRECISION_BITS;
      target[to + 1] = g >> PRECISION_BITS;
      target[to + 2] = b >> PRECISION_BITS;
      to += 3;
    }
  }
}

/** `height` rows of `rowBytes` bytes into rows of `targetStride`; the first row of `source` is the picture's row `top`. */
function resampleColumns(
  source: Uint8ClampedArray,
  rowBytes: number,
  top: number,
  target: Uint8ClampedArray,
  targetStride: number,
  height: number,
  { starts, counts, weights, stride }: Taps,
): void {
  for (let i = 0; i < height; i++) {
    const from = ((starts[i] as number) - top) * rowBytes;
    const first = i * stride;
    const end = first + (counts[i] as number);
    const to = i * targetStride;
    for (let j = 0; j < rowBytes; j += 3) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      for (let w = first, p = from + j; w < end; w++, p += rowBytes) {
        const weight = weights[w] as number;
        r = (r + Math.imul(source[p] as number, weight)) | 0;
        g = (g + Math.imul(source[p + 1] as number, weight)) | 0;
        b = (b + Math.imul(source[p + 2] as number, weight)) | 0;
      }
      target[to + j] = r >> PRECISION_BITS;
      target[to + j + 1] = g >> PRECISION_BITS;
      target[to + j + 2] = b >> PRECISION_BITS;
    }
  }
}
