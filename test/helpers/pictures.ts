/**
 * Pictures of every kind that people have, made at test time from real photographs. Most are written by sharp, some by
 * Pillow: what sharp cannot write, and a second opinion on the rest.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { photographs } from './photographs.ts';
import { type SaveJob, saveWithPillow } from './pillow.ts';

/** Writes them into `folder`. Returns their paths; a name says what the picture is, such as 'cmyk-plain.jpg'. */
export async function makePictures(folder: string): Promise<string[]> {
  const originals = await Promise.all(
    (await photographs()).map(async (path) => ({ path, bytes: await readFile(path) })),
  );
  const small = await Promise.all(originals.map(({ bytes }) => shrink(bytes)));
  let used = 0;
  const photograph = (width = WIDTH, height = HEIGHT) =>
    sharp(small[used++ % small.length]).resize(width, height);
  const paths: string[] = [];
  const write = async (name: string, picture: Sharp | Uint8Array) => {
    const path = join(folder, name);
    await writeFile(path, picture instanceof Uint8Array ? picture : await picture.toBuffer());
    paths.push(path);
    return path;
  };

  for (const [name, encode] of Object.entries(BY_SHARP)) await write(name, encode(photograph()));
  for (const [width, height, format] of SIZES) {
    await write(`${width}x${height}.${format}`, photograph(width, height).toFormat(format));
  }
  for (let orientation = 1; orientation <= 8; orientation++) {
    await write(`orientation-${orientation}.jpg`, photograph().withMetadata({ orientation }).jpeg());
  }
  const frames = await Promise.all([photograph(), photograph()].map((frame) => frame.png().toBuffer()));
  await write('animated.gif', sharp(frames, { join: { animated: true } }).gif());
  await write('animated.webp', sharp(frames, { join: { animated: true } }).webp());

  const from = await write('opaque.png', photograph().png());
  const jobs = Object.entries(BY_PILLOW).map(([name, job]) => ({ from, path: join(folder, name), ...job }));
  await saveWithPillow(jobs);
  paths.push(...jobs.map((job) => job.path));
  await write('cmyk-plain.jpg', withoutAdobeMarker(await readFile(join(folder, 'cmyk-adobe.jpg'))));

  // The photographs as they are: the sizes, encoders, profiles and EXIF of real cameras.
  for (const { path, bytes } of originals) await write(`original-${basename(path)}`, bytes);
  return paths;
}

const WIDTH = 431;
const HEIGHT = 317;

// Pillow, which resizes all of a picture, makes 256 × 128,000 pixels of 3 × 1500, in half a second: only two like that.
const SIZES = [
  [1, 1, 'jpeg'],
  [1, 1, 'png'],
  [2, 3, 'png'],
  [3, 1500, 'jpeg'],
  [1500, 3, 'png'],
  [100, 80, 'jpeg'],
  [223, 225, 'jpeg'],
  [224, 224, 'jpeg'],
  [224, 224, 'png'],
  [224, 500, 'png'],
  [256, 256, 'jpeg'],
  [257, 256, 'png'],
  [499, 373, 'jpeg'],
  [997, 1009, 'jpeg'],
] as const;

const BY_SHARP: Record<string, (picture: Sharp) => Sharp> = {
  '420.jpg': (picture) => picture.jpeg({ chromaSubsampling: '4:2:0' }),
  '444.jpg': (picture) => picture.jpeg({ chromaSubsampling: '4:4:4', quality: 95 }),
  'progressive.jpg': (picture) => picture.jpeg({ progressive: true }),
  'mozjpeg.jpg': (picture) => picture.jpeg({ mozjpeg: true }),
  'grey.jpg': (picture) => picture.toColourspace('b-w').jpeg(),
  'cmyk-profiled.jpg': (picture) => picture.toColourspace('cmyk').jpeg(),
  'p3-profiled.jpg': (picture) => picture.withIccProfile('p3').jpeg(),
  'p3-profiled.png': (picture) => picture.withIccProfile('p3').png(),
  'palette.png': (picture) => picture.png({ palette: true, colours: 200 }),
  'palette-4bit.png': (picture) => picture.png({ palette: true, colours: 16 }),
  'interlaced.png': (picture) => picture.png({ progressive: true }),
  'grey.png': (picture) => picture.toColourspace('b-w').png(),
  '16bit.png': (picture) => picture.toColourspace('rgb16').linear(0.97, 77).png(),
  '16bit-interlaced.png': (picture) =>
    picture.toColourspace('rgb16').linear(0.97, 77).png({ progressive: true }),
  '16bit-grey.png': (picture) => picture.toColourspace('grey16').linear(0.97, 77).png(),
  'lossy.webp': (picture) => picture.webp({ quality: 75 }),
  'lossless.webp': (picture) => picture.webp({ lossless: true }),
  'transparent.png': (picture) => withAlpha(picture).png(),
  'transparent.webp': (picture) => withAlpha(picture).webp({ quality: 80, exact: true }),
  'transparent-lossless.webp': (picture) => withAlpha(picture).webp({ lossless: true, exact: true }),
  'grey-transparent.png': (picture) => withAlpha(picture).toColourspace('b-w').png(),
  'still.gif': (picture) => picture.gif(),
  'plain.tif': (picture) => picture.tiff({ compression: 'none' }),
  'lzw.tif': (picture) => picture.tiff({ compression: 'lzw', predictor: 'horizontal' }),
  'deflate-tiled.tif': (picture) => picture.tiff({ compression: 'deflate', tile: true }),
  '16bit.tif': (picture) => picture.toColourspace('rgb16').linear(0.97, 77).tiff({ compression: 'lzw' }),
  '16bit-grey.tif': (picture) =>
    picture.toColourspace('grey16').linear(0.97, 77).tiff({ compression: 'none' }),
};

const BY_PILLOW: Record<string, Pick<SaveJob, 'mode' | 'options'>> = {
  '422.jpg': { mode: 'RGB', options: { subsampling: '4:2:2' } },
  '420-pillow.jpg': { mode: 'RGB', options: { subsampling: '4:2:0', quality: 60 } },
  'cmyk-adobe.jpg': { mode: 'CMYK', options: { quality: 90 } },
  'cmyk.tif': { mode: 'CMYK' },
  '1bit.png': { mode: '1' },
  '1bit.tif': { mode: '1' },
  'grey-transparent-pillow.png': { mode: 'LA' },
  'palette-pillow.png': { mode: 'P' },
  'palette-transparent.png': { mode: 'P', options: { transparency: 3 } },
  'palette.gif': { mode: 'P' },
  'palette.tif': { mode: 'P' },
  'lossy-pillow.webp': { mode: 'RGB', options: { quality: 70, method: 6 } },
  'lzw-pillow.tif': { mode: 'RGB', options: { compression: 'tiff_lzw' } },
  'jpeg.tif': { mode: 'RGB', options: { compression: 'jpeg' } },
  'group4.tif': { mode: '1', options: { compression: 'group4' } },
  'transparent-colour.png': { mode: 'RGB', options: { transparency: [10, 20, 30] } },
  'transparent.tif': { mode: 'RGBA' },
  'orientation-6.tif': { mode: 'RGB', options: { exif_orientation: 6 } },
  'orientation-8.png': { mode: 'RGB', options: { exif_orientation: 8 } },
  'orientation-3.webp': { mode: 'RGB', options: { exif_orientation: 3 } },
};

/** Large enough to be cut into any shape. From bytes, as decode.ts switches libvips's file loaders off. */
function shrink(photograph: Uint8Array): Promise<Buffer> {
  const image = sharp(photograph).resize(1100).toColourspace('srgb').removeAlpha();
  return image.png({ compressionLevel: 1 }).toBuffer();
}

/** The right half of the picture at 0, the left at 200 of 255. */
function withAlpha(picture: Sharp): Sharp {
  const alpha = Buffer.from(
    Array.from({ length: WIDTH * HEIGHT }, (_, i) => (i % WIDTH < WIDTH / 2 ? 200 : 0)),
  );
  return picture.joinChannel(alpha, { raw: { width: WIDTH, height: HEIGHT, channels: 1 } });
}

/** CMYK without the marker means what it says; with it, every value is inverted. */
function withoutAdobeMarker(jpeg: Buffer): Uint8Array {
  const at = jpeg.indexOf(Buffer.from([0xff, 0xee]));
  return Buffer.concat([jpeg.subarray(0, at), jpeg.subarray(at + 2 + jpeg.readUInt16BE(at + 2))]);
}
