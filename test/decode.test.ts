import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { decodeImage } from '../src/decode.ts';
import type { ResizeMode } from '../src/types.ts';
import { hugePng } from './helpers/huge-png.ts';

const WIDTH = 320;
const HEIGHT = 240;
const BYTES = 224 * 224 * 3;
/** Soft colours under fine noise: neither flat nor incompressible. */
const COLOURS = Uint8Array.from(
  { length: WIDTH * HEIGHT * 3 },
  (_, i) => 40 + (i % 960) / 8 + ((i * 7919) % 23),
);
const picture = () => sharp(COLOURS, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } });
const decode = (
  bytes: Uint8Array,
  target: Uint8Array = new Uint8Array(BYTES),
  more: { resizeMode?: ResizeMode; maxPixels?: number } = {},
) =>
  decodeImage(bytes, target, {
    preprocessing: { resize: 256, crop: 224, interpolation: 'bilinear', mean: [0, 0, 0], std: [1, 1, 1] },
    resizeMode: 'exact',
    maxPixels: 1e8,
    ...more,
  });

const FORMATS = {
  jpeg: await picture().jpeg().toBuffer(),
  'progressive jpeg': await picture().jpeg({ progressive: true }).toBuffer(),
  png: await picture().png().toBuffer(),
  'interlaced png': await picture().png({ progressive: true }).toBuffer(),
  webp: await picture().webp().toBuffer(),
  'lossless webp': await picture().webp({ lossless: true }).toBuffer(),
  gif: await picture().gif().toBuffer(),
  tiff: await picture().tiff({ compression: 'lzw' }).toBuffer(),
  'big tiff': await picture().tiff({ bigtiff: true, compression: 'lzw' }).toBuffer(),
  avif: await picture().avif({ effort: 0 }).toBuffer(),
};

const LARGE = { width: 3 * WIDTH, height: 3 * HEIGHT };
const large = () => picture().resize(LARGE);
const LARGE_JPEG = await large().jpeg({ quality: 95 }).toBuffer();

describe.each(Object.entries(FORMATS))('%s', (name, bytes) => {
  const format = name.split(' ').at(-1);

  test('is recognised by its content', async () => {
    expect(await decode(bytes)).toEqual({ width: WIDTH, height: HEIGHT, format });
  });

  test.each([0.1, 0.5, 0.9])('cut after %d of its bytes is truncated', async (part) => {
    const cut = bytes.subarray(0, bytes.length * part);
    expect(await decode(cut)).toEqual({
      error: 'truncated',
      message: `the ${format} ends early, after ${cut.length} bytes`,
    });
  });

  test('cut after its first 12 bytes is truncated', async () => {
    expect(await decode(bytes.subarray(0, 12))).toMatchObject({ error: 'truncated' });
  });
});

test.each(['tiff', 'big tiff'] as const)(
  'a %s cut near its end, where its directory is, is truncated or whole',
  async (name) => {
    const bytes = FORMATS[name];
    for (let cut = 1; cut < 150; cut++) {
      const result = await decode(bytes.subarray(0, -cut));
      if ('error' in result) expect(result.error).toBe('truncated');
    }
  },
);

test.each(['png', 'gif', 'tiff', 'avif'] as const)('a damaged %s is corrupt', async (format) => {
  const damaged = Buffer.from(FORMATS[format]);
  damaged.fill(0xa5, damaged.length >> 1, (damaged.length >> 1) + 40);
  const result = await decode(damaged);
  expect(result).toEqual({ error: 'corrupt', message: `the ${format} is damaged: its decoder refuses it` });
});

test('pictures that fail side by side are told their own reasons', async () => {
  const cut = FORMATS.jpeg.subarray(0, FORMATS.jpeg.length / 2);
  const damaged = Buffer.from(FORMATS.png);
  damaged.fill(0xa5, damaged.length >> 1, (damaged.length >> 1) + 40);
  for (let round = 0; round < 10; round++) {
    const results = await Promise.all(Array.from({ length: 8 }, (_, n) => decode(n % 2 ? damaged : cut)));
    const codes = results.map((result) => 'error' in result && result.error);
    expect(codes).toEqual(Array.from({ length: 8 }, (_, n) => (n % 2 ? 'corrupt' : 'truncated')));
  }
});

test.each([
  ['text', 'these are holiday pictures'],
  ['SVG', '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'],
  ['PDF', '%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\ntrailer<</Root 1 0 R>>\n%%EOF'],
  ['PPM', 'P6 1 1 255\nabc'],
  ['a few bytes', '\x89P'],
  ['noise', String.fromCharCode(...Array.from({ length: 4000 }, (_, i) => (i * i * 31 + 7) & 255))],
])('%s is an unsupported format', async (_, content) => {
  const result = await decode(Buffer.from(content, 'latin1'));
  expect(result).toEqual({
    error: 'unsupported-format',
    message: 'not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture',
  });
});

test('a TIFF of floats is an unsupported format', async () => {
  const floats = await picture().toColourspace('scrgb').tiff({ compression: 'none' }).toBuffer();
  expect(await decode(floats)).toEqual({
    error: 'unsupported-format',
    message: 'tiff of float in scrgb; 8- and 16-bit grey and RGB and 8-bit CMYK can be decoded',
  });
});

test('no bytes are an empty file', async () => {
  expect(await decode(new Uint8Array(0))).toMatchObject({ error: 'empty' });
});

test('a picture of 900 million pixels is refused by its header, without the memory for them', async () => {
  const bomb = hugePng(30_000, 30_000);
  expect(bomb.length).toBeLessThan(200_000);
  const peakBefore = process.resourceUsage().maxRSS;
  expect(await decode(bomb)).toEqual({
    error: 'too-many-pixels',
    message: '30000 × 30000 = 900000000 pixels; the limit is 100000000',
  });
  expect(process.resourceUsage().maxRSS - peakBefore).toBeLessThan(50_000); // kB
});

test('a GIF of 65,535 × 65,535 pixels in a few bytes is refused', async () => {
  const bomb = Buffer.from(FORMATS.gif);
  bomb.fill(0xff, 6, 10); // the screen
  const frame = bomb.indexOf(Buffer.from([0x2c, 0, 0, 0, 0, WIDTH & 255, WIDTH >> 8, HEIGHT, 0]));
  bomb.fill(0xff, frame + 5, frame + 9);
  expect(await decode(bomb)).toMatchObject({ error: 'too-many-pixels' });
});

test('a picture of exactly the allowed pixels is decoded', async () => {
  expect(await decode(FORMATS.png, undefined, { maxPixels: WIDTH * HEIGHT })).not.toHaveProperty('error');
  const refused = await decode(FORMATS.png, undefined, { maxPixels: WIDTH * HEIGHT - 1 });
  expect(refused).toMatchObject({ error: 'too-many-pixels' });
});

test('width and height are those of the upright picture', async () => {
  const sideways = await picture().withMetadata({ orientation: 6 }).jpeg().toBuffer();
  expect(await decode(sideways)).toEqual({ width: HEIGHT, height: WIDTH, format: 'jpeg' });
});

test('the pixels of a lossless AVIF are those of the PNG', async () => {
  const lossless = await picture().avif({ lossless: true, chromaSubsampling: '4:4:4', effort: 0 }).toBuffer();
  expect(await pixelsOf(lossless)).toEqual(await pixelsOf(FORMATS.png));
});

test('a transparent pixel of a GIF is black', async () => {
  const clear = Buffer.alloc(WIDTH * HEIGHT);
  const gif = picture()
    .joinChannel(clear, { raw: { width: WIDTH, height: HEIGHT, channels: 1 } })
    .gif();
  expect(await pixelsOf(await gif.toBuffer())).toEqual(new Uint8Array(BYTES));
});

test('pixels go into their slot of a shared batch and nowhere else', async () => {
  const batch: Uint8Array = new Uint8Array(new SharedArrayBuffer(3 * BYTES)).fill(7);
  await decode(FORMATS.png, batch.subarray(BYTES, 2 * BYTES));
  expect(batch.slice(0, BYTES)).toEqual(new Uint8Array(BYTES).fill(7));
  expect(Uint8Array.from(batch.subarray(BYTES, 2 * BYTES))).toEqual(await pixelsOf(FORMATS.png));
  expect(batch.slice(2 * BYTES)).toEqual(new Uint8Array(BYTES).fill(7));
});

test('pictures decoded at the same time are those decoded one by one', async () => {
  const all = Object.values(FORMATS);
  const alone: Uint8Array[] = [];
  for (const bytes of all) alone.push(await pixelsOf(bytes));
  expect(await Promise.all(all.map((bytes) => pixelsOf(bytes)))).toEqual(alone);
});

test('the fast mode makes other pixels of a large photograph, and close ones', async () => {
  const [exact, fast] = [await pixelsOf(LARGE_JPEG), await pixelsOf(LARGE_JPEG, 'fast')];
  const mean = exact.reduce((sum, value, i) => sum + Math.abs(value - (fast[i] ?? 0)), 0) / BYTES;
  expect(mean).toBeGreaterThan(0);
  expect(mean).toBeLessThan(2);
});

test('the fast mode is the exact one for pictures that are small, transparent or CMYK', async () => {
  const pictures = [
    await picture().resize(200, 100).jpeg().toBuffer(),
    await large()
      .joinChannel(Buffer.alloc(LARGE.width * LARGE.height), { raw: { ...LARGE, channels: 1 } })
      .png()
      .toBuffer(),
    await large().toColourspace('cmyk').jpeg().toBuffer(),
  ];
  for (const bytes of pictures) expect(await pixelsOf(bytes, 'fast')).toEqual(await pixelsOf(bytes));
});

test('the fast mode refuses a truncated picture too', async () => {
  const cut = LARGE_JPEG.subarray(0, LARGE_JPEG.length / 2);
  expect(await decode(cut, undefined, { resizeMode: 'fast' })).toMatchObject({ error: 'truncated' });
});

async function pixelsOf(bytes: Uint8Array, resizeMode: ResizeMode = 'exact'): Promise<Uint8Array> {
  const target: Uint8Array = new Uint8Array(BYTES).fill(99);
  expect(await decode(bytes, target, { resizeMode })).not.toHaveProperty('error');
  return target;
}
