import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { decodeImage } from '../src/decode.ts';
import { imagenetPreprocessing } from '../src/models/presets.ts';
import { openSandbox, type Sandbox } from '../workers/sandbox.ts';
import { crashes, hangs } from './helpers/crashing-decoder.ts';

const options = {
  preprocessing: imagenetPreprocessing,
  resizeMode: 'exact',
  maxPixels: 1e8,
  decoder: 'sharp', // where crashing-decoder.ts crashes
} as const;
let sandbox: Sandbox;
let good: Uint8Array;

beforeAll(async () => {
  process.env.NODE_OPTIONS = `--import=${join(import.meta.dirname, 'helpers/crashing-decoder.ts')}`;
  sandbox = openSandbox(3_000);
  const noise = { type: 'gaussian', mean: 128, sigma: 40 } as const;
  good = await sharp({ create: { width: 300, height: 260, channels: 3, background: 'grey', noise } })
    .jpeg()
    .toBuffer();
});

afterAll(() => {
  sandbox.close();
  delete process.env.NODE_OPTIONS;
});

const pixels = (): Uint8Array => new Uint8Array(224 * 224 * 3);

test('a picture decoded in a sandbox has the pixels that it has outside', async () => {
  const [inside, outside] = [pixels(), pixels()];
  const facts = await sandbox.decode(good, inside, options);
  expect(facts).toEqual(await decodeImage(good, outside, options));
  expect(Buffer.compare(inside, outside)).toBe(0);
});

test('a picture that crashes its decoder costs its own row, and those beside it have theirs', async () => {
  const bad = Buffer.concat([good, crashes]);
  const results = await Promise.all(
    [good, bad, good].map((bytes) => sandbox.decode(bytes, pixels(), options)),
  );
  expect(results[0]).toMatchObject({ format: 'jpeg' });
  expect(results[1]).toEqual({
    error: 'crashed-worker',
    message: 'decoding ended the process with SIGSEGV, 2 times',
  });
  expect(results[2]).toMatchObject({ format: 'jpeg' });
});

test('a picture on which the decoder hangs is given up', async () => {
  const result = await sandbox.decode(Buffer.concat([good, hangs]), pixels(), options);
  expect(result).toEqual({ error: 'timeout', message: 'decoding did not end in 3 s' });
  expect(await sandbox.decode(good, pixels(), options)).toMatchObject({ format: 'jpeg' });
});

test('a picture that is merely broken is told as anywhere', async () => {
  expect(await sandbox.decode(good.subarray(0, 400), pixels(), options)).toMatchObject({
    error: 'truncated',
  });
});
