/** What parity.test.ts does not show: the rules by themselves, without Pillow; and the kernel against its reference. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { main as compile } from 'assemblyscript/asc';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import manifest from '../package.json' with { type: 'json' };
import { openPasses } from '../src/pixels/kernel.ts';
import { javascriptPasses, resampleCrop, rowsOf } from '../src/pixels/resample.ts';
import { cropGeometry, type Resampling } from '../src/pixels/taps.ts';
import { uniform } from '../src/uniform.ts';

const EVAL = { resize: 256, crop: 224 };

test('the shorter side becomes 256 and the longer is truncated', () => {
  expect(cropGeometry(500, 375, EVAL)).toEqual({
    x: { size: 341, first: 58, count: 224, at: 0 }, // 341.3…; (341 - 224) / 2 = 58.5, half to even
    y: { size: 256, first: 16, count: 224, at: 0 },
  });
});

test('an offset of a half goes to the even neighbour, up as well as down', () => {
  expect(cropGeometry(343, 256, EVAL).x.first).toBe(60); // 59.5
  expect(cropGeometry(345, 256, EVAL).x.first).toBe(60); // 60.5
});

test('a resized side shorter than the crop is centred on black, the odd pixel after it', () => {
  const target = new Uint8Array(5 * 5 * 3).fill(9);
  const white = rowsOf(new Uint8Array(2 * 2 * 3).fill(200), 2, 2);
  resampleCrop(white, target, { resize: 2, crop: 5, interpolation: 'bilinear' });
  const red = Array.from({ length: 25 }, (_, i) => target[i * 3]);
  expect(red).toEqual([
    ...[0, 0, 0, 0, 0],
    ...[0, 200, 200, 0, 0],
    ...[0, 200, 200, 0, 0],
    ...[0, 0, 0, 0, 0],
    ...[0, 0, 0, 0, 0],
  ]);
});

test.each(['bilinear', 'bicubic'] as const)(
  '%s leaves a picture of the right size as it is',
  (interpolation) => {
    const pixels = Uint8Array.from({ length: 224 * 224 * 3 }, (_, i) => (i * 7919) >> 5);
    const target = new Uint8Array(pixels.length);
    resampleCrop(rowsOf(pixels, 224, 224), target, { resize: 224, crop: 224, interpolation });
    expect(target).toEqual(pixels);
  },
);

test('bicubic overshoot is clipped to white and black, and wraps nowhere', () => {
  const pixels = Uint8Array.from({ length: 8 * 8 * 3 }, (_, i) => (i % 24 < 12 ? 0 : 255));
  const target = new Uint8Array(32 * 32 * 3);
  resampleCrop(rowsOf(pixels, 8, 8), target, { resize: 32, crop: 32, interpolation: 'bicubic' });
  const row = Array.from({ length: 32 }, (_, i) => target[i * 3] ?? -1);
  expect(row.slice(0, 14)).toEqual(Array(14).fill(0));
  expect(row.slice(18)).toEqual(Array(14).fill(255));
  expect(row).toEqual(row.toSorted((a, b) => a - b));
});

test('the weights of a size are right after hundreds of other sizes', () => {
  const crop = (width: number) => {
    const target = new Uint8Array(4 * 4 * 3);
    const pixels = Uint8Array.from({ length: width * 9 * 3 }, (_, i) => i * 31);
    resampleCrop(rowsOf(pixels, width, 9), target, { resize: 6, crop: 4, interpolation: 'bicubic' });
    return target;
  };
  const before = crop(11);
  for (let width = 20; width < 400; width++) crop(width);
  expect(crop(11)).toEqual(before);
});

const kernel = openPasses();

test('this processor runs the kernel', () => {
  expect(kernel).not.toBe(javascriptPasses);
});

/** Sides of one pixel, of photographs, and so long that hundreds of pixels become one. */
const side = fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 500 }), fc.constant(4_001));
const transform = fc.record({
  resize: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 90 })),
  crop: fc.integer({ min: 1, max: 70 }),
  interpolation: fc.constantFrom('bilinear' as const, 'bicubic' as const),
});

test('the kernel makes the pixels of JavaScript, of any picture to any crop', () => {
  const isCheap = (width: number, height: number): boolean => width * height < 60_000;
  fc.assert(
    fc.property(side, side, transform, fc.integer(), fc.boolean(), (width, height, how, seed, isHarsh) => {
      fc.pre(isCheap(width, height));
      const random = uniform(seed);
      // Black and white alone overshoot the most.
      const level = (): number => (isHarsh ? Math.round(random()) : random()) * 255;
      const pixels = Uint8Array.from({ length: width * height * 3 }, level);
      expect(Buffer.compare(cropBy(kernel), cropBy(javascriptPasses))).toBe(0);

      function cropBy(passes: typeof kernel): Uint8Array {
        const target = new Uint8Array(how.crop ** 2 * 3).fill(9);
        resampleCrop(rowsOf(pixels, width, height), target, how, passes);
        return target;
      }
    }),
    { numRuns: 120 },
  );
});

test('a picture of 100 megapixels takes little memory, and leaves the kernel as it was', () => {
  const [width, height] = [50_000, 2_000];
  const row = Uint8Array.from({ length: width * 3 }, (_, i) => (i * 7919) >> 5);
  const strips: number[] = [];
  const picture = {
    width,
    height,
    read(
      target: Uint8Array,
      { left, right, top, bottom }: { left: number; right: number; top: number; bottom: number },
    ) {
      strips.push(target.byteLength);
      for (let y = top, to = 0; y < bottom; y++, to += (right - left) * 3)
        target.set(row.subarray(left * 3, right * 3), to);
    },
  };
  const how: Resampling = { resize: 256, crop: 224, interpolation: 'bilinear' };
  const [target, reference] = [new Uint8Array(224 * 224 * 3), new Uint8Array(224 * 224 * 3)];
  resampleCrop(picture, target, how, kernel);
  expect(strips.length).toBeGreaterThan(10);
  expect(Math.max(...strips)).toBeLessThan(200_000);
  resampleCrop(picture, reference, how, javascriptPasses);
  expect(target).toEqual(reference);
});

test('the kernel in the repository is what its source compiles to', async () => {
  const [asc, source = '', ...rest] = manifest.scripts['build:kernel'].split(' ');
  expect(asc).toBe('asc');
  const root = join(import.meta.dirname, '..');
  const written = new Map<string, Uint8Array>();
  const { error } = await compile([source, ...rest, '--baseDir', root], {
    writeFile(name, contents) {
      written.set(name, Buffer.from(contents));
    },
  });
  expect(error).toBeNull();
  const [path = ''] = written.keys();
  expect(path).toBe('src/pixels/kernel.wasm');
  expect(Buffer.compare(Buffer.from(written.get(path) ?? []), await readFile(join(root, path)))).toBe(0);
});
