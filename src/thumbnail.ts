/**
 * The step "thumbnail": an image's bytes to a small WebP for people to look at. (workers/thumbnails.ts makes those of a run's
 * images, in a process of their own.)
 */
import { failureOf } from './decode.ts';
import type { Failure } from './errors.ts';
import type { SmallPicture } from './pixels/sharp.ts';

export type Thumbnail = SmallPicture;

export interface ThumbnailOptions {
  /** Of its longer side, in pixels; smaller pictures stay as they are. */
  size: number;
  /** Larger pictures are refused by their header. */
  maxPixels: number;
}

/** Upright, in sRGB, without metadata; of an animation its first frame. Throws nothing for a bad picture. */
export async function makeThumbnail(
  bytes: Uint8Array,
  options: ThumbnailOptions,
): Promise<Thumbnail | Failure> {
  if (bytes.length === 0) return { error: 'empty', message: 'the file has no bytes' };
  const { shrinkToFit } = await import('./pixels/sharp.ts');
  try {
    return await shrinkToFit(bytes, options);
  } catch {
    return failureOf(bytes);
  }
}
