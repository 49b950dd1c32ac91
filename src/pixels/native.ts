/** The door to libjpeg-turbo (jpeg.c): plain JPEGs at a third of sharp's price, and the same pixels to the last bit. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../errors.ts';
import type { PlainJpeg } from './jpeg-header.ts';
import known from './known-jpegs.json' with { type: 'json' };
import { type Passes, type PixelRows, regionOf, resampleCrop, rowsOf } from './resample.ts';
import type { Resampling } from './taps.ts';

/** What jpeg.c exports; a thread has one picture open at a time. */
interface Addon {
  /** Of libjpeg-turbo. */
  version: string;
  open(bytes: Uint8Array, width: number, height: number): boolean;
  /** The pixel (x, y) goes to `origin + x * stepX + y * stepY`. */
  read(
    target: Uint8Array,
    left: number,
    right: number,
    top: number,
    bottom: number,
    origin: number,
    stepX: number,
    stepY: number,
  ): boolean;
  close(): boolean;
}

export interface NativeDecoder {
  /** Such as 'libjpeg-turbo 2.1.5'. */
  name: string;
  /**
   * Resizes and crops a JPEG, upright, into `target`. False where libjpeg has the least to say about it: then `target` holds
   * anything, and another decoder must be asked.
   */
  decode(
    bytes: Uint8Array,
    header: PlainJpeg,
    target: Uint8Array,
    resampling: Resampling,
    passes: Passes,
  ): boolean;
}

/** The decoder, or in a few words why there is none. */
export function openNative(): NativeDecoder | string {
  const path = fileURLToPath(new URL('./jpeg.node', import.meta.url));
  if (!existsSync(path)) return 'the native decoder is not built here (deploy/build-native.sh builds it)';
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path);
  } catch (error) {
    return `the native decoder does not load: ${messageOf(error)}`;
  }
  if (!known.every((one) => isDecodedAsKnown(addon, one)))
    return `libjpeg-turbo ${addon.version} makes other pixels here than sharp`;
  return {
    name: `libjpeg-turbo ${addon.version}`,
    decode(bytes, header, target, resampling, passes) {
      if (!addon.open(bytes, header.width, header.height)) return false;
      try {
        const picture =
          header.orientation === 1 ? rowsAsStored(addon, header) : turn(addon, header, resampling);
        resampleCrop(picture, target, resampling, passes);
      } catch (error) {
        if (error instanceof Damaged) return false;
        throw error;
      }
      return addon.close();
    },
  };
}

/** The system's libjpeg is whichever it is: that its pixels are sharp's is seen before it is trusted. */
function isDecodedAsKnown(addon: Addon, { jpeg, width, height, sha256 }: (typeof known)[number]): boolean {
  const pixels = new Uint8Array(width * height * 3);
  return (
    addon.open(Buffer.from(jpeg, 'base64'), width, height) &&
    addon.read(pixels, 0, width, 0, height, 0, 3, width * 3) &&
    addon.close() &&
    createHash('sha256').update(pixels).digest('hex') === sha256
  );
}

class Damaged extends Error {}

function rowsAsStored(addon: Addon, { width, height }: PlainJpeg): PixelRows {
  return {
    width,
    height,
    read(target, { left, right, top, bottom }) {
      const rowBytes = (right - left) * 3;
      const origin = -top * rowBytes - left * 3;
      if (!addon.read(target, left, right, top, bottom, origin, 3, rowBytes)) throw new Damaged();
    },
  };
}

/** Upright, in memory, as much of the picture as the crop needs: its first row may be the last that is decoded. */
function turn(addon: Addon, { width, height, orientation }: PlainJpeg, resampling: Resampling): PixelRows {
  const isSideways = orientation >= 5;
  const isMirrored = [2, 3, 6, 7].includes(orientation);
  const isFlipped = [3, 4, 7, 8].includes(orientation);
  const [uprightWidth, uprightHeight] = isSideways ? [height, width] : [width, height];
  const region = regionOf(uprightWidth, uprightHeight, resampling);
  const { left, right, top, bottom } = region;
  const rowBytes = (right - left) * 3;
  const pixels = new Uint8Array((bottom - top) * rowBytes);

  // Along the upright picture's axes, then along those of the stored one.
  const across = isMirrored
    ? { first: uprightWidth - right, end: uprightWidth - left, zero: uprightWidth - 1, step: -3 }
    : { first: left, end: right, zero: 0, step: 3 };
  const down = isFlipped
    ? { first: uprightHeight - bottom, end: uprightHeight - top, zero: uprightHeight - 1, step: -rowBytes }
    : { first: top, end: bottom, zero: 0, step: rowBytes };
  const origin = (down.zero - top) * rowBytes + (across.zero - left) * 3;
  const [x, y] = isSideways ? [down, across] : [across, down];
  if (!addon.read(pixels, x.first, x.end, y.first, y.end, origin, x.step, y.step)) throw new Damaged();
  return rowsOf(pixels, uprightWidth, uprightHeight, region);
}
