/** What parity.test.ts does not show: the rules by themselves, without Pillow. */
import { expect, test } from 'vitest';
import { cropGeometry, resampleCrop } from '../src/resample.ts';

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
  resampleCrop(new Uint8Array(2 * 2 * 3).fill(200), 2, 2, target, {
    resize: 2,
    crop: 5,
    interpolation: 'bilinear',
  });
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
    resampleCrop(pixels, 224, 224, target, { resize: 224, crop: 224, interpolation });
    expect(target).toEqual(pixels);
  },
);

test('bicubic overshoot is clipped to white and black, and wraps nowhere', () => {
  const pixels = Uint8Array.from({ length: 8 * 8 * 3 }, (_, i) => (i % 24 < 12 ? 0 : 255));
  const target = new Uint8Array(32 * 32 * 3);
  resampleCrop(pixels, 8, 8, target, { resize: 32, crop: 32, interpolation: 'bicubic' });
  const row = Array.from({ length: 32 }, (_, i) => target[i * 3] ?? -1);
  expect(row.slice(0, 14)).toEqual(Array(14).fill(0));
  expect(row.slice(18)).toEqual(Array(14).fill(255));
  expect(row).toEqual(row.toSorted((a, b) => a - b));
});

test('the weights of a size are right after hundreds of other sizes', () => {
  const crop = (width: number) => {
    const target = new Uint8Array(4 * 4 * 3);
    const pixels = Uint8Array.from({ length: width * 9 * 3 }, (_, i) => i * 31);
    resampleCrop(pixels, width, 9, target, { resize: 6, crop: 4, interpolation: 'bicubic' });
    return target;
  };
  const before = crop(11);
  for (let width = 20; width < 400; width++) crop(width);
  expect(crop(11)).toEqual(before);
});
