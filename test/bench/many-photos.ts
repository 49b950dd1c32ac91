/** Folders of thousands of real photographs, made in seconds: for benches whose start must not decide. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pMap from 'p-map';
import sharp from 'sharp';
import { makePhotoArchive } from '../helpers/photo-archive.ts';

/** So many are cut from photographs; the others are those again, told apart by a comment. */
const differentPictures = 240;

/**
 * Writes `count` JPEGs into `folder` and gives their paths. No two have the same bytes, so none is used again where it
 * should be embedded; a comment costs a decoder nothing. 500 × 375 pixels unless another `width` is asked for.
 */
export async function makeManyPhotos(
  folder: string,
  count: number,
  { width }: { width?: number } = {},
): Promise<string[]> {
  const base = Math.min(count, differentPictures);
  await makePhotoArchive(folder, base);
  const paths = Array.from({ length: base }, (_, n) =>
    join(folder, `part-${Math.floor(n / 100)}`, `${String(n).padStart(5, '0')}.jpg`),
  );
  const pictures = await pMap(
    paths,
    async (path) => {
      const bytes = await readFile(path);
      if (width === undefined) return bytes;
      const small = await sharp(bytes).resize(width).jpeg({ quality: 92 }).toBuffer();
      await writeFile(path, small);
      return small;
    },
    { concurrency: 4 },
  );
  const copies = Array.from({ length: count - base }, (_, n) => base + n);
  const copied = await pMap(
    copies,
    async (n) => {
      const path = join(folder, `copy-${String(n).padStart(6, '0')}.jpg`);
      await writeFile(path, withComment(pictures[n % base] as Buffer, String(n))); // there are base of them
      return path;
    },
    { concurrency: 16 },
  );
  return [...paths, ...copied];
}

/** Behind the marker that opens a JPEG (ITU-T T.81, B.2.4.5). */
function withComment(jpeg: Buffer, text: string): Buffer {
  const comment = Buffer.alloc(4 + text.length);
  comment.writeUInt16BE(0xfffe);
  comment.writeUInt16BE(2 + text.length, 2);
  comment.write(text, 4, 'latin1');
  return Buffer.concat([jpeg.subarray(0, 2), comment, jpeg.subarray(2)]);
}
