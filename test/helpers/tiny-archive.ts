/** An archive that costs nothing to make or to read: one small JPEG under many names. */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { tempFolder } from './temp.ts';

/** The folder. Its pictures are all the same: a run that is to embed each takes `--reuse off`. */
export async function makeTinyArchive(count: number): Promise<string> {
  const folder = tempFolder();
  const first = join(folder, '0.jpg');
  const background = { r: 90, g: 120, b: 60 };
  await sharp({ create: { width: 64, height: 48, channels: 3, background } })
    .jpeg()
    .toFile(first);
  for (let n = 1; n < count; n++) copyFileSync(first, join(folder, `${n}.jpg`));
  return folder;
}
