/**
 * How a tensor's numbers are spread, and the range that 256 steps tell them apart in best.
 *
 * A bin's width is a power of two, as small as lets all numbers fit. When a larger number comes, pairs of bins become one, which
 * is exact: so the counts are those that one pass with the final width would have given, in whatever order numbers came.
 */
import type { Range } from './calibration.ts';

const bins = 8192;
const half = bins / 2;

export interface Histogram {
  /** Width of a bin; bin b holds [(b − 4096) · width, (b − 4095) · width). */
  readonly width: number;
  readonly counts: Float64Array;
  /** Numbers that are exactly 0, which any range keeps: in no bin. */
  readonly zeros: number;
  /** Throws RangeError where one is not finite. */
  add(values: Float32Array): void;
}

export function startHistogram(): Histogram {
  let width = 2 ** -60;
  let counts = new Float64Array(bins);
  let zeros = 0;
  const widen = (largest: number): void => {
    let factor = 1;
    while (largest >= half * width * factor) factor *= 2;
    if (factor === 1) return;
    const wider = new Float64Array(bins);
    for (const [bin, count] of counts.entries()) {
      const to = Math.floor((bin - half) / factor) + half;
      if (count > 0) wider[to] = (wider[to] as number) + count;
    }
    width *= factor;
    counts = wider;
  };
  return {
    get width() {
      return width;
    },
    get counts() {
      return counts;
    },
    get zeros() {
      return zeros;
    },
    add(values) {
      let largest = 0;
      let nothing = 0;
      for (const value of values) {
        if (Math.abs(value) > largest) largest = Math.abs(value);
        nothing += value - value; // NaN from the first one on that is not finite
      }
      if (nothing !== 0) throw new RangeError('a number is not finite');
      widen(largest);
      const perBin = 1 / width;
      for (const value of values) {
        if (value === 0) zeros += 1;
        else {
          const bin = Math.floor(value * perBin) + half;
          counts[bin] = (counts[bin] as number) + 1;
        }
      }
    },
  };
}

/** How far in an end of the range is tried, of the largest number on its side. */
const shares = Array.from({ length: 81 }, (_, index) => (100 - index) / 100);

/**
 * The range with the least mean square error: the wider it is, the coarser its 256 steps; the narrower, the more is cut off.
 * Steps are taken to be wrong by step²/12 on average, as rounding is where numbers are spread over many of them.
 */
export function chooseRange({ width, counts }: Histogram): Range {
  const lowest = counts.findIndex((count) => count > 0);
  if (lowest < 0) return [0, 1]; // nothing but zeros, which any range keeps
  const highest = counts.findLastIndex((count) => count > 0);
  const least = Math.min(0, (lowest - half) * width);
  const most = Math.max(0, (highest + 1 - half) * width);

  // Sums over all bins below a bin: of numbers, their values and their squares.
  const sums = [0, 1, 2].map((power) => {
    const sum = new Float64Array(bins + 1);
    for (const [bin, count] of counts.entries())
      sum[bin + 1] = (sum[bin] as number) + count * ((bin + 0.5 - half) * width) ** power;
    return sum;
  }) as [Float64Array, Float64Array, Float64Array];
  const binOf = (value: number): number => Math.round(value / width) + half;
  /** Σ (value − end)² over the numbers of some bins. */
  const cutOff = (end: number, from: number, to: number): number => {
    const [count, value, square] = sums.map((sum) => (sum[to] as number) - (sum[from] as number));
    return (square as number) - 2 * end * (value as number) + end ** 2 * (count as number);
  };
  const errorOf = (low: number, high: number): number => {
    const [first, end] = [binOf(low), binOf(high)];
    const inside = (sums[0][end] as number) - (sums[0][first] as number);
    const step = (high - low) / 255;
    return (inside * step ** 2) / 12 + cutOff(low, 0, first) + cutOff(high, end, bins);
  };

  let best: Range = [least, most];
  let error = Number.POSITIVE_INFINITY;
  for (const low of least === 0 ? [0] : shares.map((share) => share * least)) {
    for (const high of most === 0 ? [0] : shares.map((share) => share * most)) {
      const found = errorOf(low, high);
      if (found >= error) continue;
      error = found;
      best = [low, high];
    }
  }
  return best;
}
