import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blockRows, type Examples, fitSoftmax, logitsOf, softmaxLoss } from '../src/probe/fit.ts';
import { openProducts, type Products } from '../src/probe/products.ts';
import { measureCalibration, measureQuality } from '../src/probe/quality.ts';
import { heldOut, splitExamples } from '../src/probe/split.ts';
import { trainProbe } from '../src/probe/train.ts';
import { uniform } from '../src/uniform.ts';

let products: Products;

beforeAll(async () => {
  products = await openProducts(1);
});
afterAll(() => products.close());

describe('the fit', () => {
  interface Reference {
    dimension: number;
    points: number[];
    labels: number[];
    fits: { l2: number; weights: number[]; biases: number[]; probabilities: number[] }[];
  }
  const path = join(import.meta.dirname, 'fixtures/reference/probe.json');
  const reference: Reference = JSON.parse(readFileSync(path, 'utf8'));
  const examples: Examples = {
    rows: reference.labels.length,
    dimension: reference.dimension,
    blocks: [Float32Array.from(reference.points)],
    labels: Int32Array.from(reference.labels),
    classes: 3,
  };

  test.each(reference.fits)(
    "gives scikit-learn's coefficients and probabilities at l2 $l2",
    async (wanted) => {
      const fitted = await fitSoftmax(examples, { products, isUsed: () => true, l2: wanted.l2, enough: 0 });
      const largest = Math.max(...wanted.weights.map(Math.abs));
      // It stops at a slope of 1e-5, which is a weight's error of up to that over the curvature: at least l2, and more in truth.
      for (const [at, weight] of [...wanted.weights, ...wanted.biases].entries())
        expect(Math.abs((fitted.values[at] ?? Number.NaN) - weight)).toBeLessThan(2e-3 * largest);
      const logits = await logitsOf(examples, fitted, products);
      const probabilities = wanted.probabilities.map((_, at) => {
        const row = Math.floor(at / 3) * 10;
        const scores = logits.slice(row * 3, row * 3 + 3);
        softmaxLoss(scores, 0);
        return scores[at % 3] ?? Number.NaN;
      });
      for (const [at, probability] of wanted.probabilities.entries())
        expect(Math.abs((probabilities[at] ?? Number.NaN) - probability)).toBeLessThan(3e-4);
    },
  );

  test('leaves alone what it is not to learn from', async () => {
    const isUsed = (row: number) => row % 3 !== 0;
    const kept = reference.labels.flatMap((_, row) => (isUsed(row) ? [row] : []));
    const rest: Examples = {
      ...examples,
      rows: kept.length,
      blocks: [Float32Array.from(kept.flatMap((row) => reference.points.slice(row * 4, row * 4 + 4)))],
      labels: Int32Array.from(kept, (row) => reference.labels[row] ?? 0),
    };
    const masked = await fitSoftmax(examples, { products, isUsed, l2: 0.1, enough: 0 });
    const alone = await fitSoftmax(rest, { products, isUsed: () => true, l2: 0.1, enough: 0 });
    // Sums of other lengths are rounded otherwise, in float32.
    for (const [at, value] of alone.values.entries())
      expect(Math.abs((masked.values[at] ?? Number.NaN) - value)).toBeLessThan(1e-3);
  });

  test('gives the same over several blocks as over one', async () => {
    const rows = blockRows + 50;
    const random = uniform(1);
    const labels = Int32Array.from({ length: rows }, () => Math.floor(random() * 2));
    const points = Float32Array.from(
      { length: rows * 3 },
      (_, at) => random() + (at % 3 === labels[Math.floor(at / 3)] ? 0.5 : 0),
    );
    const shape = { rows, dimension: 3, labels, classes: 2 };
    const options = { products, isUsed: () => true, l2: 0.01, enough: 0 };
    const cut = await fitSoftmax(
      { ...shape, blocks: [points.slice(0, blockRows * 3), points.slice(blockRows * 3)] },
      options,
    );
    const logits = await logitsOf(
      { ...shape, blocks: [points.slice(0, blockRows * 3), points.slice(blockRows * 3)] },
      cut,
      products,
    );
    expect(logits).toHaveLength(rows * 2);
    const whole = await fitSoftmax({ ...shape, blocks: [points] }, options);
    for (const [at, value] of whole.values.entries())
      expect(Math.abs((cut.values[at] ?? Number.NaN) - value)).toBeLessThan(1e-3);
  });

  test('stops where it is told to', async () => {
    const stopped = fitSoftmax(examples, {
      products,
      isUsed: () => true,
      l2: 1,
      enough: 0,
      signal: AbortSignal.abort('SIGINT'),
    });
    await expect(stopped).rejects.toBe('SIGINT');
  });
});

describe('the split', () => {
  const pictures = Array.from({ length: 60 }, (_, at) => ({ sha256: `${at % 50}`, label: at % 2 }));
  const split = (seed: number, some = pictures) => splitExamples(some, { share: 0.2, seed });

  test('holds out a share of each class, and deals the rest out evenly', () => {
    const parts = split(0);
    for (const label of [0, 1]) {
      const ofClass = new Set(
        pictures.flatMap((one, at) => (one.label === label && parts[at] === heldOut ? [one.sha256] : [])),
      );
      expect(ofClass.size).toBe(5);
    }
    const sizes = [0, 1, 2].map(
      (fold) => new Set(pictures.flatMap((one, at) => (parts[at] === fold ? [one.sha256] : []))).size,
    );
    expect(sizes.toSorted()).toEqual([13, 13, 14]);
  });

  test('keeps copies of a picture together', () => {
    const parts = split(0);
    for (let at = 50; at < 60; at++) expect(parts[at]).toBe(parts[at - 50]);
  });

  test('goes by content and seed, whatever the order', () => {
    const parts = split(0);
    const reversed = split(0, pictures.slice(0, 50).toReversed());
    expect([...reversed.toReversed()]).toEqual([...parts.slice(0, 50)]);
    expect([...split(1)]).not.toEqual([...parts]);
  });

  test('holds out the same of a class, whatever other classes there are', () => {
    const others = Array.from({ length: 30 }, (_, at) => ({ sha256: `other ${at}`, label: 2 }));
    const isHeld = (parts: Int8Array) =>
      [...parts.subarray(0, pictures.length)].map((part) => part === heldOut);
    expect(isHeld(split(0, [...pictures, ...others]))).toEqual(isHeld(split(0)));
  });

  test('leaves a picture a fold to learn from, however much is to be held out', () => {
    const few = pictures.slice(0, 10);
    const parts = splitExamples(few, { share: 0.9, seed: 0 });
    for (const label of [0, 1])
      expect(few.filter((one, at) => one.label === label && parts[at] !== heldOut)).toHaveLength(3);
  });
});

describe('the figures', () => {
  test('are those of a table that was counted by hand', () => {
    // Said: 0, 0, 1, 1, 1; true: 0, 1, 1, 1, 0.
    const probabilities = Float32Array.of(0.95, 0.05, 0.65, 0.35, 0.25, 0.75, 0.15, 0.85, 0.45, 0.55);
    const labels = Int32Array.of(0, 1, 1, 1, 0);
    const quality = measureQuality(probabilities, labels, { classes: 2, common: 1 });
    expect(quality).toMatchObject({
      examples: 5,
      accuracy: { count: 3, share: 0.6 },
      baseline: { label: 1, count: 3, share: 0.6 },
      classes: [
        { examples: 2, precision: 1 / 2, recall: 1 / 2 },
        { examples: 3, precision: 2 / 3, recall: 2 / 3 },
      ],
      confusion: [
        [1, 1],
        [1, 2],
      ],
    });
    const { error, loss, bins } = measureCalibration(probabilities, labels, 2);
    const losses = [0.95, 0.35, 0.75, 0.85, 0.45].map((probability) => -Math.log(probability));
    expect(loss).toBeCloseTo(losses.reduce((sum, one) => sum + one) / 5, 6);
    // Each in a bin of its own: |0.95 − 1|, |0.65 − 0|, |0.75 − 1|, |0.85 − 1|, |0.55 − 0|.
    expect(error).toBeCloseTo((0.05 + 0.65 + 0.25 + 0.15 + 0.55) / 5, 6);
    expect(bins.map(({ from, examples }) => [from, examples])).toEqual([
      [0.5, 1],
      [0.6, 1],
      [0.7, 1],
      [0.8, 1],
      [0.9, 1],
    ]);
  });

  test('have no precision of a class that was never said', () => {
    const { classes } = measureQuality(Float32Array.of(1, 0, 1, 0), Int32Array.of(0, 1), {
      classes: 2,
      common: 0,
    });
    expect(classes[1]).toEqual({ examples: 1, precision: null, recall: 0 });
  });
});

describe('a training', () => {
  /** Two classes that differ in the mean of a number of large scale, among others of a small one. */
  function makeExamples(rows: number, apart: number) {
    const random = uniform(7);
    const labels = Int32Array.from({ length: rows }, (_, row) => row % 2);
    const values = new Float32Array(rows * 8);
    for (let at = 0; at < values.length; at++) {
      const noise = random() + random() + random() - 1.5;
      values[at] = at % 8 === 0 ? 100 + 50 * (noise + apart * (labels[at / 8] ?? 0)) : 0.1 * noise;
    }
    const examples: Examples = { rows, dimension: 8, blocks: [values], labels, classes: 2 };
    return {
      examples,
      raw: values.slice(),
      pictures: Array.from(labels, (label, row) => ({ sha256: `${row}`, label })),
    };
  }
  const options = () => ({ products, classes: ['no', 'yes'], heldOut: 0.25, l2: 'auto' as const, seed: 0 });

  test('gives weights over the raw numbers that do on held-out examples what the report says', async () => {
    const { examples, raw, pictures } = makeExamples(400, 1);
    const { weights, biases, report } = await trainProbe(examples, pictures, options());
    const parts = splitExamples(pictures, { share: 0.25, seed: 0 });
    let right = 0;
    for (const [row, { label }] of pictures.entries()) {
      if (parts[row] !== heldOut) continue;
      const logits = [0, 1].map((one) =>
        raw
          .subarray(row * 8, row * 8 + 8)
          .reduce((sum, value, i) => sum + value * (weights[one * 8 + i] ?? 0), biases[one] ?? 0),
      );
      if (Number((logits[1] ?? 0) > (logits[0] ?? 0)) === label) right += 1;
    }
    expect(report.heldOut.accuracy.count).toBe(right);
    expect(report.heldOut.examples).toBe(100);
    // Three uniform numbers have a deviation of 0.5; half of 1 apart, Φ(1) of all are on their side.
    expect(report.heldOut.accuracy.low).toBeLessThan(0.84);
    expect(report.heldOut.accuracy.high).toBeGreaterThan(0.84);
    expect(report.tried.map(({ l2 }) => l2)).toContain(report.l2);
    expect(Math.min(...report.tried.map(({ loss }) => loss))).toBe(
      report.tried.find(({ l2 }) => l2 === report.l2)?.loss,
    );
  });

  test('of labels that mean nothing promises nothing', async () => {
    const { examples, pictures } = makeExamples(400, 0);
    const { report } = await trainProbe(examples, pictures, options());
    const { accuracy, calibration } = report.heldOut;
    expect(accuracy.low).toBeLessThan(0.5);
    expect(accuracy.high).toBeGreaterThan(0.5);
    // ln 2 is what a coin gives: a probe that learned noise by heart would be far above.
    expect(calibration.after.loss).toBeLessThan(Math.LN2 + 0.05);
  });

  test('that learned noise by heart is cooled by its temperature', async () => {
    const { examples, pictures } = makeExamples(400, 0);
    const { report } = await trainProbe(examples, pictures, { ...options(), heldOut: 0.9, l2: 1e-4 });
    expect(report.training.examples).toBe(40);
    expect(report.tried).toHaveLength(1);
    expect(report.temperature).toBeGreaterThan(1.2);
    expect(report.heldOut.calibration.after.loss).toBeLessThan(report.heldOut.calibration.before.loss);
  });

  test('gives the same weights again', async () => {
    const one = makeExamples(100, 1);
    const two = makeExamples(100, 1);
    const first = await trainProbe(one.examples, one.pictures, { ...options(), l2: 0.1 });
    const second = await trainProbe(two.examples, two.pictures, { ...options(), l2: 0.1 });
    expect(second).toEqual(first);
  });

  test('is unmoved by a number that is the same in all examples', async () => {
    const { examples, pictures } = makeExamples(100, 1);
    for (let row = 0; row < 100; row++) (examples.blocks[0] as Float32Array)[row * 8 + 3] = 5;
    const { weights } = await trainProbe(examples, pictures, { ...options(), l2: 0.1 });
    expect([weights[3], weights[11]]).toEqual([0, 0]);
  });

  test('of one class, or of too few pictures, says what is missing', async () => {
    const { examples, pictures } = makeExamples(40, 1);
    const one = trainProbe({ ...examples, classes: 1 }, pictures, { ...options(), classes: ['no'] });
    await expect(one).rejects.toMatchObject({ code: 'one-class' });
    // Four pictures and a copy are four pictures.
    const few = pictures.map((picture, row) =>
      row < 12 || row % 2 === 0 ? picture : { ...picture, label: 0 },
    );
    const copied = few.map((picture) =>
      picture.label === 1 ? { ...picture, sha256: `${Number(picture.sha256) % 8}` } : picture,
    );
    await expect(trainProbe(examples, copied, options())).rejects.toMatchObject({
      code: 'too-few-examples',
      message: expect.stringContaining('yes (4)'),
    });
  });
});
