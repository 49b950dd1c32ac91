/** Where a centre crop lies on a picture, and by which weights each of its pixels is made. Facts of Pillow: resample.ts. */
import type { Preprocessing } from '../types.ts';

/** One axis of a centre crop: `count` samples from `first` on of a side resized to `size`, put at `at` in the crop. */
export interface CropAxis {
  /** Length of the side after the resize, in pixels. */
  size: number;
  first: number;
  count: number;
  /** Black pixels before the picture; not 0 only where the resized side is shorter than the crop. */
  at: number;
}

/** What of a `Preprocessing` says where pixels come from. */
export type Resampling = Pick<Preprocessing, 'resize' | 'crop' | 'interpolation'>;

/** Where `Resize(resize)` and `CenterCrop(crop)` put a `width` × `height` picture. */
export function cropGeometry(
  width: number,
  height: number,
  { resize, crop }: Pick<Resampling, 'resize' | 'crop'>,
): { x: CropAxis; y: CropAxis } {
  const long = Math.trunc((resize * Math.max(width, height)) / Math.min(width, height));
  const isWide = width > height;
  return { x: cropAxis(isWide ? long : resize, crop), y: cropAxis(isWide ? resize : long, crop) };
}

function cropAxis(size: number, crop: number): CropAxis {
  if (size < crop) return { size, first: 0, count: size, at: Math.floor((crop - size) / 2) };
  return { size, first: roundHalfToEven((size - crop) / 2), count: crop, at: 0 };
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/** The weights of one axis; sample i is the sum of `counts[i]` weights from `i * stride` on, over inputs from `starts[i]` on. */
export interface Taps {
  starts: Int32Array;
  counts: Int32Array;
  /** Fixed point of `precisionBits`. */
  weights: Int32Array;
  stride: number;
  /** The inputs that any sample needs: from `first` on, and before `end`. */
  first: number;
  end: number;
}

export const precisionBits = 22;
const one = 1 << precisionBits;

const kernels = {
  bilinear: { support: 1, weight: (x: number) => Math.max(0, 1 - Math.abs(x)) },
  // Keys' cubic with a = -0.5.
  bicubic: {
    support: 2,
    weight(signed: number) {
      const x = Math.abs(signed);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  },
};

/** Recently used weights, oldest first: photographs come in few sizes. An entry is a few kilobytes. */
const recent = new Map<string, Taps>();
const maxRecent = 64;

/** The weights of `axis` over a side of `length` pixels. Shared: not to be written to. */
export function tapsOf(length: number, axis: CropAxis, interpolation: Resampling['interpolation']): Taps {
  const key = `${length}>${axis.size}[${axis.first}+${axis.count}]${interpolation}`;
  const taps = recent.get(key) ?? computeTaps(length, axis, interpolation);
  recent.delete(key);
  recent.set(key, taps);
  if (recent.size > maxRecent) recent.delete(recent.keys().next().value ?? key);
  return taps;
}

function computeTaps(length: number, axis: CropAxis, interpolation: Resampling['interpolation']): Taps {
  const kernel = kernels[interpolation];
  const scale = length / axis.size;
  const filterScale = Math.max(scale, 1);
  const support = kernel.support * filterScale;
  const stride = Math.ceil(support) * 2 + 1;
  const taps: Taps = {
    starts: new Int32Array(axis.count),
    counts: new Int32Array(axis.count),
    weights: new Int32Array(axis.count * stride),
    stride,
    first: 0,
    end: 0,
  };
  const exact = new Float64Array(stride);
  for (let i = 0; i < axis.count; i++) {
    const centre = (axis.first + i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(length, Math.trunc(centre + support + 0.5)) - start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      // Times the reciprocal, as Pillow does: a division can round to another weight.
      const weight = kernel.weight((k + start - centre + 0.5) * (1 / filterScale));
      exact[k] = weight;
      sum += weight;
    }
    taps.starts[i] = start;
    taps.counts[i] = count;
    for (let k = 0; k < count; k++) {
      const weight = ((exact[k] ?? 0) / sum) * one;
      taps.weights[i * stride + k] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    if (i === 0) taps.first = start;
    taps.end = start + count;
  }
  return taps;
}
