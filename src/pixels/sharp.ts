/**
 * The door to sharp, which decodes every format, to the same bytes as Pillow. It resizes to other ones, so that in the
 * exact mode only its decoder is used.
 */
import sharp, { type Metadata, type Sharp, type SharpOptions } from 'sharp';
import type { Failure } from '../errors.ts';
import type { Preprocessing, ResizeMode } from '../types.ts';
import { chooseLoaders } from './loaders.ts';
import { cropGeometry } from './taps.ts';

/** Such as 'sharp 0.35.5'. */
export const sharpName = `sharp ${sharp.versions.sharp}`;

/** A picture upright, in RGB without alpha. */
export interface Decoded {
  pixels: Uint8Array;
  width: number;
  height: number;
  format: string;
  /** False where `pixels` are the crop already: the fast mode has resized. */
  isWhole: boolean;
}

// Everything that libvips can load is off, but these. UhdrBuffer stays off: it would take every JPEG with a gain map
// away from the JPEG loader.
chooseLoaders(() => {
  sharp.block({ operation: ['VipsForeignLoad'] });
  sharp.unblock({
    operation: ['Jpeg', 'Png', 'Webp', 'Nsgif', 'Tiff', 'Heif'].map((name) => `VipsForeignLoad${name}Buffer`),
  });
});
// Many pictures at once, a thread each, beats many threads a picture; nothing is ever decoded twice, so nothing is kept.
sharp.concurrency(1);
sharp.cache(false);

const input: SharpOptions = {
  // Stops at a truncated picture (else its rest is grey); 'warning' would also refuse what every viewer shows.
  failOn: 'error',
  // Pixels are counted below, where the message can name them.
  limitInputPixels: false,
  // Pillow and torchvision convert no profile either.
  ignoreIcc: true,
  autoOrient: true,
};

/** Decodes any format, or says by the header why the picture is not for us. Rejects where libvips refuses it. */
export async function decodeAny(
  bytes: Uint8Array,
  {
    preprocessing,
    resizeMode,
    maxPixels,
  }: { preprocessing: Preprocessing; resizeMode: ResizeMode; maxPixels: number },
): Promise<Decoded | Failure> {
  // Reads no more than the header, 0.2 of 4 ms: what to refuse, and what is CMYK, is known before a pixel is decoded.
  const header = await sharp(bytes, input).metadata();
  const refusal = refuse(header, maxPixels);
  if (refusal) return refusal;
  const { width, height } = header.autoOrient;
  const facts = { width, height, format: header.format === 'heif' ? 'avif' : header.format };
  if (resizeMode === 'fast' && canShrinkOnLoad(header, preprocessing))
    return { ...facts, isWhole: false, pixels: await shrinkOnLoad(bytes, facts, preprocessing) };
  const pixels = header.space === 'cmyk' ? await decodeCmyk(bytes) : (await decodeRgb(bytes)).data;
  return { ...facts, isWhole: true, pixels };
}

/** A WebP that shows the picture; width and height are its own. */
export interface SmallPicture {
  content: Uint8Array;
  width: number;
  height: number;
}

/**
 * The picture upright, its longer side at most `size` pixels, in sRGB (colour profiles are followed: this is for eyes), with
 * its transparency and no metadata. Of a picture that ends early it is what there is. Rejects where libvips refuses it.
 */
export async function shrinkToFit(
  bytes: Uint8Array,
  { size, maxPixels }: { size: number; maxPixels: number },
): Promise<SmallPicture | Failure> {
  const options: SharpOptions = { ...input, failOn: 'none', ignoreIcc: false };
  const refusal = refuse(await sharp(bytes, options).metadata(), maxPixels);
  if (refusal) return refusal;
  // Effort 4, which is usual, takes twice as long for 3 % fewer bytes.
  const { data, info } = await sharp(bytes, options)
    .resize({ width: size, height: size, fit: 'inside', withoutEnlargement: true })
    .toColourspace('srgb')
    .webp({ quality: 80, effort: 2 })
    .toBuffer({ resolveWithObject: true });
  return { content: data, width: info.width, height: info.height };
}

/** Decodes a JPEG whose header was read and found plain (jpeg-header.ts). Rejects where libvips refuses it. */
export async function decodePlainJpeg(bytes: Uint8Array): Promise<Decoded> {
  const { data, info } = await decodeRgb(bytes);
  return { pixels: data, width: info.width, height: info.height, format: 'jpeg', isWhole: true };
}

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
  if (colours[space] !== depth) {
    const message = `${format} of ${depth} in ${space}; 8- and 16-bit grey and RGB and 8-bit CMYK can be decoded`;
    return { error: 'unsupported-format', message };
  }
  return undefined;
}

/**
 * Colour space to channel type, as libvips names them. Of two other kinds sharp would make a picture, and a wrong one:
 * 16-bit CMYK is clipped at 255 (16-bit RGB gives its high byte), and what range floats have is anyone's guess.
 */
const colours: Record<string, string> = {
  srgb: 'uchar',
  'b-w': 'uchar',
  rgb16: 'ushort',
  grey16: 'ushort',
  cmyk: 'uchar',
};

function decodeRgb(bytes: Uint8Array): Promise<Raw> {
  return rawOf(sharp(bytes, input).toColourspace('srgb').removeAlpha(), 3);
}

/** Pillow's conversion (Convert.c, cmyk2rgb), where sharp would go through an ICC profile. The result is in place. */
async function decodeCmyk(bytes: Uint8Array): Promise<Uint8Array> {
  const { data: pixels } = await rawOf(
    sharp(bytes, input).pipelineColourspace('cmyk').toColourspace('cmyk').removeAlpha(),
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

interface Raw {
  data: Uint8Array;
  info: { width: number; height: number };
}

async function rawOf(image: Sharp, channels: number): Promise<Raw> {
  const raw = await image.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true });
  if (raw.info.channels !== channels)
    throw new Error(`decoded to ${raw.info.channels} channels, not to ${channels}`);
  return raw;
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
async function shrinkOnLoad(
  bytes: Uint8Array,
  { width, height }: { width: number; height: number },
  preprocessing: Preprocessing,
): Promise<Uint8Array> {
  const { x, y } = cropGeometry(width, height, preprocessing);
  const kernel = preprocessing.interpolation === 'bilinear' ? 'linear' : 'cubic';
  const image = sharp(bytes, input)
    .resize({ width: x.size, height: y.size, fit: 'fill', kernel })
    .extract({ left: x.first, top: y.first, width: x.count, height: y.count })
    .toColourspace('srgb');
  return (await rawOf(image, 3)).data;
}
