/** The pixels that the network sees are those that torchvision's transform makes with Pillow: the largest difference is 0. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeImage } from '../src/decode.ts';
import type { ResizeMode } from '../src/types.ts';
import { makePictures } from './helpers/pictures.ts';
import { cropWithPillow, type Transform } from './helpers/pillow.ts';

const TRANSFORMS: Transform[] = [
  { resize: 256, crop: 224, interpolation: 'bilinear' },
  { resize: 232, crop: 224, interpolation: 'bilinear' },
  { resize: 232, crop: 224, interpolation: 'bicubic' },
  { resize: 236, crop: 224, interpolation: 'bicubic' },
  { resize: 300, crop: 299, interpolation: 'bicubic' },
  { resize: 200, crop: 225, interpolation: 'bilinear' }, // smaller than the crop: torchvision pads
];

/**
 * Photographs as cameras made them tell what small pictures cannot: sizes, encoders, profiles, EXIF. They take Pillow a
 * second for each transform, so two do.
 */
const isOriginal = (path: string) => basename(path).startsWith('original-');
const FOR_ORIGINALS = [TRANSFORMS[0], TRANSFORMS[2]] as Transform[];

let folder: string;
let paths: string[];
let references: Map<string, Map<Transform, Uint8Array>>;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lensmill-pictures-'));
  paths = await makePictures(folder);
  references = await cropWithPillow(paths, (path) => (isOriginal(path) ? FOR_ORIGINALS : TRANSFORMS));
}, 600_000); // Pillow resizes all of 3 × 1500
afterAll(() => rm(folder, { recursive: true, force: true }));

test.each(TRANSFORMS)(
  'every kind of picture has the pixels of Pillow and torchvision: $interpolation, $resize → $crop',
  async (transform) => {
    const differing: string[] = [];
    let compared = 0;
    for (const path of paths) {
      const reference = references.get(path)?.get(transform);
      if (!reference) continue;
      compared += 1;
      const { largest } = difference(await crop(path, transform, 'exact'), reference);
      if (largest !== 0) differing.push(`${basename(path)}: ${largest}`);
    }
    expect(differing).toEqual([]);
    expect(compared).toBeGreaterThan(FOR_ORIGINALS.includes(transform) ? 90 : 65);
  },
);

test('the fast mode is nearer to the exact one than a shift by one pixel', async () => {
  const [transform] = TRANSFORMS as [Transform];
  for (const path of paths.filter(isOriginal)) {
    const exact = await crop(path, transform, 'exact');
    const fast = await crop(path, transform, 'fast');
    const shift = difference(exact.subarray(3), exact.subarray(0, -3)).mean;
    expect(difference(exact, fast).mean, path).toBeLessThan(shift / 2);
  }
});

async function crop(path: string, transform: Transform, resizeMode: ResizeMode): Promise<Uint8Array> {
  const preprocessing = { ...transform, mean: [0, 0, 0], std: [1, 1, 1] } as const;
  const target = new Uint8Array(transform.crop ** 2 * 3).fill(99);
  const result = await decodeImage(await readFile(path), target, {
    preprocessing,
    resizeMode,
    maxPixels: 1e8,
  });
  expect(result, path).not.toHaveProperty('error');
  return target;
}

/** In levels of 255. */
function difference(a: Uint8Array, b: Uint8Array | undefined): { largest: number; mean: number } {
  expect(b).toHaveLength(a.length);
  let largest = 0;
  let sum = 0;
  for (const [i, value] of a.entries()) {
    const level = Math.abs(value - (b?.[i] ?? 0));
    largest = Math.max(largest, level);
    sum += level;
  }
  return { largest, mean: sum / a.length };
}
