/**
 * Bytes to the pixels that the network sees. The one door to sharp.
 *
 * sharp decodes to the same bytes as Pillow and resizes to others, so in the exact mode only its decoder is used, and
 * `resample.ts` does the rest. docs/pixels.md lists what becomes of every colour type, and what differs by how much.
 */
import sharp, { type Metadata, type Sharp, type SharpOptions } from 'sharp';
import { endsEarly, formatOf } from './container.ts';
import type { Failure } from './errors.ts';
import { cropGeometry, resampleCrop } from './resample.ts';
import type { ImageFacts, Preprocessing, ResizeMode } from './types.ts';

export interface DecodeOptions {
  preprocessing: Preprocessing;
  resizeMode: ResizeMode;
  /** Larger pictures are refused by their header, before anything is decoded. */
  maxPixels: number;
}

// Everything that libvips can load is off, but these. UhdrBuffer stays off: it would take every JPEG with a gain map
// away from the JPEG loader.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: ['Jpeg', 'Png', 'Webp', 'Nsgif', 'Tiff', 'Heif'].map((name) => `VipsForeignLoad${name}Buffer`),
});
// Many pictures at once, a thread each, beats many threads a picture; nothing is ever decoded twice, so nothing is kept.
sharp.concurrency(1);
sharp.cache(false);

/**
 * Decodes `bytes` upright (EXIF), in RGB without alpha, resizes and centre-crops, and writes `target` (crop × crop × 3,
 * uint8; it may lie in a SharedArrayBuffer). Throws nothing for a bad picture: that is a `Failure`, and `target` then
 * holds anything. Of an animation it takes the first frame.
 */
export async function decodeImage(
  bytes: Uint8Array,
  target: Uint8Array,
  options: DecodeOptions,
): Promise<ImageFacts | Failure> {
  if (bytes.length === 0) return { error: 'empty', message: 'the file has no bytes' };
  const { preprocessing, resizeMode, maxPixels } = options;
  let facts: ImageFacts;
  let pixels: Uint8Array;
  try {
    // Reads no more than the header, 0.2 of 4 ms: what to refuse, and what is CMYK, is known before a pixel is decoded.
    const header = await sharp(bytes, INPUT).metadata();
    const refusal = refuse(header, maxPixels);
    if (refusal) return refusal;
    const { width, height } = header.autoOrient;
    facts = { width, height, format: header.format === 'heif' ? 'avif' : header.format };
    if (resizeMode === 'fast' && canShrinkOnLoad(header, preprocessing)) {
      target.set(await shrinkOnLoad(bytes, facts, preprocessing));
      return facts;
    }
    pixels = header.space === 'cmyk' ? await decodeCmyk(bytes) : await decodeRgb(bytes);
  } catch {
    return failureOf(bytes);
  }
  resampleCrop(pixels, facts.width, facts.height, target, preprocessing);
  return facts;
}

const INPUT: SharpOptions = {
  // Stops at a truncated picture (else its rest is grey); 'warning' would also refuse what every viewer shows.
  failOn: 'error',
  // Pixels are counted above, where the message can name them.
  limitInputPixels: false,
  // Pillow and torchvision convert no profile either.
  ignoreIcc: true,
  autoOrient: true,
};

/** Why a picture whose header could be read is not for us, if it is not. */
function refuse(header: Metadata, maxPixels: number): Failure | undefined {
  const { width, height, format, compression, space, depth } = header;
  if (width * height > maxPixels) {
    const message = `${width} × ${height} = ${width * height} pixels; the limit is ${maxPixels}`;
    return { error: 'too-many-pixels', message };
  }
  // npm's sharp has no HEVC decoder: https://sharp.pixelplumbing.com/api-output/#heif
  if (format === 'heif' && compression !== 'av1') {
    return { error: 'unsupported-format', message: `HEIF with ${compression}; only AV1 can be decoded` };
  }
  if (COLOURS[space] !== depth) {
    const message = `${format} of ${depth} in ${space}; 8- and 16-bit grey and RGB and 8-bit CMYK can be decoded`;
    return { error: 'unsupported-format', message };
  }
  return undefined;
}

/**
 * Colour space to channel type, as libvips names them. Of two other kinds sharp would make a picture, and a wrong one:
 * 16-bit CMYK is clipped at 255 (16-bit RGB gives its high byte), and what range floats have is anyone's guess.
 */
const COLOURS: Record<string, string> = {
  srgb: 'uchar',
  'b-w': 'uchar',
  rgb16: 'ushort',
  grey16: 'ushort',
  cmyk: 'uchar',
};

async function decodeRgb(bytes: Uint8Array): Promise<Uint8Array> {
  return rawOf(sharp(bytes, INPUT).toColourspace('srgb').removeAlpha(), 3);
}

/** Pillow's conversion (Convert.c, cmyk2rgb), where sharp would go through an ICC profile. The result is in place. */
async function decodeCmyk(bytes: Uint8Array): Promise<Uint8Array> {
  const pixels = await rawOf(
    sharp(bytes, INPUT).pipelineColourspace('cmyk').toColourspace('cmyk').removeAlpha(),
    4,
  );
  let to = 0;
  for (let from = 0; from < pixels.length; from += 4, to += 3) {
    const light = 255 - (pixels[from + 3] ?? 0);
    for (let channel = 0; channel < 3; channel++) {
      const product = (pixels[from + channel] ?? 0) * light + 128;
      pixels[to + channel] = light - (((product >> 8) + product) >> 8);
    }
  }
  return pixels.subarray(0, to);
}

async function rawOf(image: Sharp, channels: number): Promise<Uint8Array> {
  const { data, info } = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  if (info.channels !== channels) throw new Error(`decoded to ${info.channels} channels, not to ${channels}`);
  return data;
}

/** Where libvips can save work: smaller pictures gain nothing, and of transparent ones it would resize premultiplied colours. */
function canShrinkOnLoad(header: Metadata, { resize, crop }: Preprocessing): boolean {
  return (
    Math.min(header.width, header.height) > resize &&
    resize >= crop &&
    !header.hasAlpha &&
    header.space !== 'cmyk'
  );
}

/** The crop (crop × crop × 3) in the geometry of the exact mode, resized by libvips: other pixels. */
function shrinkOnLoad(
  bytes: Uint8Array,
  { width, height }: ImageFacts,
  preprocessing: Preprocessing,
): Promise<Uint8Array> {
  const { x, y } = cropGeometry(width, height, preprocessing);
  const kernel = preprocessing.interpolation === 'bilinear' ? 'linear' : 'cubic';
  const image = sharp(bytes, INPUT)
    .resize({ width: x.size, height: y.size, fit: 'fill', kernel })
    .extract({ left: x.first, top: y.first, width: x.count, height: y.count })
    .toColourspace('srgb');
  return rawOf(image, 3);
}

function failureOf(bytes: Uint8Array): Failure {
  const format = formatOf(bytes);
  if (!format)
    return { error: 'unsupported-format', message: 'not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture' };
  if (endsEarly(bytes, format))
    return { error: 'truncated', message: `the ${format} ends early, after ${bytes.length} bytes` };
  // Not the decoder's own words: they may be about another picture (container.ts).
  return { error: 'corrupt', message: `the ${format} is damaged: its decoder refuses it` };
}
