/**
 * What a picture costs before the model sees it, on one thread.
 *
 *   decode   sharp to raw RGB of full size
 *   exact    `decodeImage`: header, decode, Pillow's resample of the centre crop
 *   fast     `decodeImage` in the fast mode: libvips shrinks while it decodes
 *   resample what `exact` does itself, in JavaScript
 *
 * node test/bench/decode.ts [FOLDER]     the photographs of deploy/bootstrap.sh, at 500 pixels, unless a folder is given
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { decodeImage } from '../../src/decode.ts';
import { resampleCrop } from '../../src/resample.ts';
import type { Preprocessing, ResizeMode } from '../../src/types.ts';
import { photographs } from '../helpers/photographs.ts';

export interface DecodeTimes {
  pictures: number;
  megapixels: number;
  kilobytes: number;
  /** Milliseconds a picture, the medians of the rounds. */
  decodeMs: number;
  exactMs: number;
  fastMs: number;
  resampleMs: number;
}

const ROUNDS = 5;
const PREPROCESSING: Preprocessing = {
  resize: 256,
  crop: 224,
  interpolation: 'bilinear',
  mean: [0, 0, 0],
  std: [1, 1, 1],
};

/** Measures `pictures` (encoded, each decodable) one after the other, the kinds of work taking turns. */
export async function benchDecode(pictures: readonly Uint8Array[]): Promise<DecodeTimes> {
  const target = new Uint8Array(new SharedArrayBuffer(PREPROCESSING.crop ** 2 * 3));
  const decodeTo = (bytes: Uint8Array, resizeMode: ResizeMode) =>
    decodeImage(bytes, target, { preprocessing: PREPROCESSING, resizeMode, maxPixels: 1e8 });
  const toRaw = (bytes: Uint8Array) =>
    sharp(bytes, { autoOrient: true, ignoreIcc: true })
      .toColourspace('srgb')
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });

  const times = {
    decode: [] as number[],
    exact: [] as number[],
    fast: [] as number[],
    resample: [] as number[],
  };
  let pixels = 0;
  for (let round = 0; round < ROUNDS; round++) {
    times.decode.push(await time(pictures, toRaw));
    times.exact.push(await time(pictures, (bytes) => decodeTo(bytes, 'exact')));
    times.fast.push(await time(pictures, (bytes) => decodeTo(bytes, 'fast')));
    let resampleMs = 0;
    pixels = 0;
    for (const bytes of pictures) {
      const { data, info } = await toRaw(bytes);
      pixels += info.width * info.height;
      const start = performance.now();
      resampleCrop(data, info.width, info.height, target, PREPROCESSING);
      resampleMs += performance.now() - start;
    }
    times.resample.push(resampleMs / pictures.length);
  }
  return {
    pictures: pictures.length,
    megapixels: pixels / pictures.length / 1e6,
    kilobytes: pictures.reduce((sum, { length }) => sum + length, 0) / pictures.length / 1e3,
    decodeMs: median(times.decode),
    exactMs: median(times.exact),
    fastMs: median(times.fast),
    resampleMs: median(times.resample),
  };
}

async function time(
  pictures: readonly Uint8Array[],
  work: (bytes: Uint8Array) => Promise<unknown>,
): Promise<number> {
  const start = performance.now();
  for (const bytes of pictures) await work(bytes);
  return (performance.now() - start) / pictures.length;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

/** ImageNet's usual size: 500 pixels on the longer side, as JPEG. */
async function webPhotographs(): Promise<Uint8Array[]> {
  const originals = await Promise.all((await photographs()).map((path) => readFile(path)));
  const size = { width: 500, height: 500, fit: 'inside' } as const;
  return Promise.all(originals.map((bytes) => sharp(bytes).resize(size).jpeg({ quality: 92 }).toBuffer()));
}

async function readFolder(folder: string): Promise<Uint8Array[]> {
  const names = (await readdir(folder)).filter((name) => /\.(jpe?g|png|webp)$/i.test(name));
  return Promise.all(names.map((name) => readFile(join(folder, name))));
}

if (import.meta.main) {
  const [folder] = process.argv.slice(2);
  const times = await benchDecode(folder ? await readFolder(folder) : await webPhotographs());
  const { pictures, megapixels, kilobytes, ...rest } = times;
  console.log(`${pictures} pictures of ${megapixels.toFixed(2)} megapixels and ${kilobytes.toFixed(0)} kB`);
  for (const [name, ms] of Object.entries(rest)) {
    console.log(`${name.replace('Ms', '').padEnd(9)} ${ms.toFixed(2).padStart(7)} ms a picture`);
  }
}
