/** JPEGs through libjpeg-turbo and through sharp: which it was cannot be told from what comes out. */
import { createHash } from 'node:crypto';
import sharp, { type Sharp } from 'sharp';
import { describe, expect, test } from 'vitest';
import { type DecoderChoice, decodeImage, describeDecoder } from '../src/decode.ts';
import { readPlainJpeg } from '../src/pixels/jpeg-header.ts';
import { openPasses } from '../src/pixels/kernel.ts';
import known from '../src/pixels/known-jpegs.json' with { type: 'json' };
import { openNative } from '../src/pixels/native.ts';
import { uniform } from '../src/uniform.ts';
import { mutate, type Sound, soundPictures } from './helpers/mutations.ts';

const native = openNative();
const crop = 64;
const preprocessing = {
  resize: 72,
  crop,
  interpolation: 'bilinear',
  mean: [0, 0, 0],
  std: [1, 1, 1],
} as const;

async function decodeBy(decoder: DecoderChoice, bytes: Uint8Array, maxPixels = 1e8) {
  const pixels = new Uint8Array(crop * crop * 3);
  const options = { preprocessing, resizeMode: 'exact', maxPixels, decoder } as const;
  const result = await decodeImage(bytes, pixels, options);
  return {
    result,
    pixels: 'error' in result ? undefined : createHash('sha256').update(pixels).digest('hex'),
  };
}

/** Whether libjpeg-turbo answers for it. */
function isNative(bytes: Uint8Array): boolean {
  if (typeof native === 'string') throw new Error(native);
  const header = readPlainJpeg(bytes);
  return (
    !!header && native.decode(bytes, header, new Uint8Array(crop * crop * 3), preprocessing, openPasses())
  );
}

function picture(width: number, height: number, seed = 1): Sharp {
  const random = uniform(seed);
  const pixels = Buffer.alloc(width * height * 3);
  for (let at = 0; at < pixels.length; at++)
    pixels[at] = ((at % (width * 3)) * 200) / width / 3 + random() * 55;
  return sharp(pixels, { raw: { width, height, channels: 3 } });
}

// The bootstrap builds it wherever a compiler and libjpeg-turbo are or can be had.
if (typeof native === 'string') console.warn(`NOT TESTED: ${native}`);

describe.skipIf(typeof native === 'string')('the native decoder', () => {
  test.each<[string, Sharp]>([
    ['4:2:0', picture(201, 155).jpeg()],
    ['4:4:4', picture(201, 155).jpeg({ chromaSubsampling: '4:4:4' })],
    ['progressive', picture(201, 155).jpeg({ progressive: true })],
    ['mozjpeg', picture(201, 155).jpeg({ mozjpeg: true })],
    ['grey', picture(201, 155).toColourspace('b-w').jpeg()],
    ['of one pixel', picture(1, 1).jpeg()],
    ['of one column', picture(1, 300).jpeg()],
    ['of one row', picture(300, 1).jpeg()],
    ['smaller than the crop', picture(30, 20).jpeg()],
    ...[1, 2, 3, 4, 5, 6, 7, 8].map(
      (orientation) =>
        [`of orientation ${orientation}`, picture(131, 87).withMetadata({ orientation }).jpeg()] as [
          string,
          Sharp,
        ],
    ),
  ])('has the pixels and the facts of sharp: a JPEG %s', async (_, jpeg) => {
    const bytes = await jpeg.toBuffer();
    expect(isNative(bytes)).toBe(true);
    expect(await decodeBy('native', bytes)).toEqual(await decodeBy('sharp', bytes));
  });

  test('leaves what is not plain to sharp', async () => {
    const cmyk = await picture(99, 55).toColourspace('cmyk').jpeg().toBuffer();
    const twiceTurned = await picture(99, 55).withMetadata({ orientation: 6 }).jpeg().toBuffer();
    // The Exif segment once more.
    const exif = twiceTurned.subarray(2, 4 + twiceTurned.readUInt16BE(4));
    const cut = (await picture(99, 55).jpeg().toBuffer()).subarray(0, -2);
    for (const bytes of [
      cmyk,
      Buffer.concat([twiceTurned.subarray(0, 2), exif, twiceTurned.subarray(2)]),
      cut,
    ]) {
      expect(isNative(bytes)).toBe(false);
      expect(await decodeBy('native', bytes)).toEqual(await decodeBy('sharp', bytes));
    }
  });

  test('refuses too many pixels with the words of sharp', async () => {
    const bytes = await picture(99, 55).jpeg().toBuffer();
    const refused = await decodeBy('native', bytes, 99 * 55 - 1);
    expect(refused.result).toMatchObject({ error: 'too-many-pixels' });
    expect(refused).toEqual(await decodeBy('sharp', bytes, 99 * 55 - 1));
  });

  test('of hundreds of damaged JPEGs each ends as with sharp', async () => {
    const sound: Sound[] = (await soundPictures(3)).filter(({ name }) => name.endsWith('.jpg'));
    for (const [n, jpeg] of [
      picture(90, 70).jpeg({ chromaSubsampling: '4:4:4', progressive: true }),
      picture(90, 70).toColourspace('b-w').jpeg(),
      picture(90, 70).withMetadata({ orientation: 8 }).jpeg({ mozjpeg: true }),
    ].entries())
      sound.push({ name: `${n}.jpg`, bytes: await jpeg.toBuffer() });
    let answered = 0;
    for (const { bytes } of mutate(sound, 400, 2)) {
      if (isNative(bytes)) answered += 1;
      expect(await decodeBy('native', bytes)).toEqual(await decodeBy('sharp', bytes));
    }
    // Some damage is none: a comment, or a colour's weight in the quantisation.
    expect(answered).toBeGreaterThan(20);
  });

  test('is not left a table by the picture before', async () => {
    const whole = await picture(64, 64).jpeg().toBuffer();
    const at = whole.indexOf(Buffer.from([0xff, 0xdb]));
    const without = Buffer.concat([
      whole.subarray(0, at),
      whole.subarray(at + 2 + whole.readUInt16BE(at + 2)),
    ]);
    expect(isNative(whole)).toBe(true);
    expect(isNative(without)).toBe(false);
  });

  test('is named where it decodes', async () => {
    expect((await describeDecoder('auto', 'exact')).decoder).toMatch(/^libjpeg-turbo \d/);
    expect((await describeDecoder('auto', 'fast')).decoder).toMatch(/^sharp \d/);
    expect((await describeDecoder('sharp', 'exact')).decoder).toMatch(/^sharp \d/);
  });
});

test('what the native decoder must make of its trial pictures is what sharp makes of them', async () => {
  for (const { name, jpeg, sha256 } of known) {
    const pixels = await sharp(Buffer.from(jpeg, 'base64')).toColourspace('srgb').raw().toBuffer();
    expect({ name, sha256: createHash('sha256').update(pixels).digest('hex') }).toEqual({ name, sha256 });
  }
});
