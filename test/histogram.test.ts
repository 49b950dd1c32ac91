import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chooseRange, startHistogram } from '../src/models/histogram.ts';

function histogramOf(...batches: ArrayLike<number>[]) {
  const histogram = startHistogram();
  for (const batch of batches) histogram.add(Float32Array.from(batch));
  return histogram;
}

/** Deterministic, nearly normal, of deviation 1. */
function bell(count: number): number[] {
  const sine = (n: number) => Math.abs(Math.sin(n * 12.9898) * 43758.5453) % 1;
  return Array.from({ length: count }, (_, n) => {
    let sum = 0;
    for (let i = 0; i < 12; i++) sum += sine(12 * n + i + 1);
    return sum - 6;
  });
}

test('counts do not depend on the order in which numbers come, however far apart they are', () => {
  const numbers = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 1 });
  fc.assert(
    fc.property(numbers, numbers, (a, b) => {
      const [one, other, whole] = [histogramOf(a, b), histogramOf(b, a), histogramOf([...a, ...b])];
      for (const found of [other, whole]) {
        expect(found.width).toBe(one.width);
        expect(found.zeros).toBe(one.zeros);
        expect(found.counts).toEqual(one.counts);
      }
      expect(one.zeros + one.counts.reduce((sum, count) => sum + count, 0)).toBe(a.length + b.length);
    }),
  );
});

test('a number that is none is told', () => {
  expect(() => histogramOf([1, Number.NaN, 2])).toThrow(RangeError);
  expect(() => histogramOf([1, Number.POSITIVE_INFINITY])).toThrow(RangeError);
});

test('a range holds what is common, and lets go of what is rare and far away', () => {
  const common = bell(200_000);
  const [low, high] = chooseRange(histogramOf(common));
  expect(low).toBeGreaterThan(-5);
  expect(low).toBeLessThan(-3);
  expect(high).toBeGreaterThan(3);
  expect(high).toBeLessThan(5);
  const [, withOutlier] = chooseRange(histogramOf(common, [12]));
  expect(withOutlier).toBeLessThan(11);
});

test('after a ReLU the range starts at 0; of zeros alone any range will do', () => {
  const [low, high] = chooseRange(histogramOf(bell(10_000).map((value) => Math.max(0, value))));
  expect(low).toBe(0);
  expect(high).toBeGreaterThan(2.5);
  expect(chooseRange(histogramOf([0, 0, 0]))).toEqual([0, 1]);
});
