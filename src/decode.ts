/**
 * The step "decode": bytes to the pixels that the network sees.
 *
 * A plain JPEG is libjpeg-turbo's, where the native decoder is built; it says no to whatever it has the least doubt
 * about, and that, as every other picture, is sharp's. Which of the two it was cannot be told from the pixels, nor from
 * the failures. docs/pixels.md lists what becomes of every kind of picture, and what differs by how much.
 */

import { ConfigError, type Failure } from './errors.ts';
import { endsEarly, formatOf } from './pixels/container.ts';
import { type PlainJpeg, readPlainJpeg } from './pixels/jpeg-header.ts';
import { openPasses } from './pixels/kernel.ts';
import { openNative } from './pixels/native.ts';
import { javascriptPasses, resampleCrop, rowsOf } from './pixels/resample.ts';
import type { Decoded } from './pixels/sharp.ts';
import type { ImageFacts, Preprocessing, ResizeMode } from './types.ts';

/** 'auto': native where it is built. */
export type DecoderChoice = 'auto' | 'native' | 'sharp';

export interface DecodeOptions {
  preprocessing: Preprocessing;
  resizeMode: ResizeMode;
  /** Larger pictures are refused by their header, before anything is decoded. */
  maxPixels: number;
  /** Of JPEGs; 'auto' unless given. */
  decoder?: DecoderChoice;
}

// Of this thread: they hold one picture at a time, and are used without a pause from its first row to its last.
const native = openNative();
const passes = openPasses();
/** Loaded for the first picture that needs it: 90 ms and 22 MB that a thread with nothing but plain JPEGs does without. */
let sharp: Promise<typeof import('./pixels/sharp.ts')> | undefined;
function loadSharp(): NonNullable<typeof sharp> {
  sharp ??= import('./pixels/sharp.ts');
  return sharp;
}

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
  const { preprocessing, maxPixels, resizeMode, decoder } = options;
  let jpeg = resizeMode === 'exact' ? readPlainJpeg(bytes) : undefined;
  // The message is sharp's to make, as for all that is not plain.
  if (jpeg && jpeg.width * jpeg.height > maxPixels) jpeg = undefined;
  if (jpeg && decoder !== 'sharp' && typeof native !== 'string') {
    if (native.decode(bytes, jpeg, target, preprocessing, passes)) return factsOf(jpeg);
  }
  const { decodeAny, decodePlainJpeg } = await loadSharp();
  let decoded: Decoded | Failure;
  try {
    decoded = await (jpeg ? decodePlainJpeg(bytes) : decodeAny(bytes, options));
  } catch {
    return failureOf(bytes);
  }
  if ('error' in decoded) return decoded;
  const { pixels, width, height, format, isWhole } = decoded;
  if (isWhole) resampleCrop(rowsOf(pixels, width, height), target, preprocessing, passes);
  else target.set(pixels);
  return { width, height, format };
}

/** What decodes here, for people. */
export interface DecoderFacts {
  /** Of JPEGs; other pictures are always sharp's. Such as 'libjpeg-turbo 2.1.5' or 'sharp 0.35.5'. */
  decoder: string;
  /** Of the resample: 'WebAssembly SIMD' or 'javascript'. */
  passes: string;
  /** What is slower than it could be, and why; the pixels are the same. */
  notices: string[];
}

/** Throws ConfigError 'no-native-decoder' where `choice` insists on what is not here. */
export async function describeDecoder(choice: DecoderChoice, resizeMode: ResizeMode): Promise<DecoderFacts> {
  const notices = [];
  if (typeof native === 'string' && choice === 'native')
    throw new ConfigError('no-native-decoder', `--decoder native: ${native}; use auto or sharp`);
  if (typeof native === 'string' && choice === 'auto' && resizeMode === 'exact')
    notices.push(`${native}; sharp decodes JPEGs, to the same pixels, and slower`);
  if (passes === javascriptPasses)
    notices.push('pictures are resized in JavaScript: this processor has no SIMD that WebAssembly may use');
  const isNative = choice !== 'sharp' && resizeMode === 'exact' && typeof native !== 'string';
  const decoder = isNative ? native.name : (await loadSharp()).sharpName;
  return { decoder, passes: passes.name, notices };
}

function factsOf({ width, height, orientation }: PlainJpeg): ImageFacts {
  const isSideways = orientation >= 5;
  return {
    width: isSideways ? height : width,
    height: isSideways ? width : height,
    format: 'jpeg',
  };
}

/** What is wrong with bytes that a decoder refused. */
export function failureOf(bytes: Uint8Array): Failure {
  const format = formatOf(bytes);
  if (!format)
    return { error: 'unsupported-format', message: 'not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture' };
  if (endsEarly(bytes, format))
    return { error: 'truncated', message: `the ${format} ends early, after ${bytes.length} bytes` };
  // Not the decoder's own words: they may be about another picture (pixels/container.ts).
  return { error: 'corrupt', message: `the ${format} is damaged: its decoder refuses it` };
}
