/** An archive of many real pictures of ImageNet's size, cut from the few large photographs that the bootstrap unpacks. */
import { mkdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pMap from 'p-map';
import sharp from 'sharp';
import { photographs } from './photographs.ts';

const width = 500;
const height = 375;

/** Writes `count` different JPEGs of 500 × 375 into `folder`, some in sub-folders. */
export async function makePhotoArchive(folder: string, count: number): Promise<void> {
  const originals = await pMap(await photographs(), async (path) => {
    const { width: w, height: h } = await sharp(path).metadata();
    return { path, w, h };
  });
  const large = originals.filter(({ w, h }) => w >= width && h >= height);
  for (let part = 0; part * 100 < count; part++) mkdirSync(join(folder, `part-${part}`), { recursive: true });
  await pMap(
    Array.from({ length: count }, (_, n) => n),
    async (n) => {
      const { path, w, h } = large[n % large.length] ?? { path: '', w: 0, h: 0 };
      // Another window of the photograph each time round, smaller and smaller, from the top left to the bottom right.
      const round = Math.floor(n / large.length);
      const rounds = Math.max(1, Math.ceil(count / large.length) - 1);
      const scale = 1 - 0.5 * (round / rounds);
      const cut = {
        width: Math.floor(Math.min(w, (h * 4) / 3) * scale),
        height: Math.floor(Math.min(h, (w * 3) / 4) * scale),
      };
      const left = Math.floor(((w - cut.width) * (round % 7)) / 6);
      const top = Math.floor(((h - cut.height) * (round % 5)) / 4);
      const jpeg = await sharp(path)
        .extract({ left, top, ...cut })
        .resize(width, height)
        .removeAlpha()
        .jpeg({ quality: 92 })
        .toBuffer();
      await writeFile(join(folder, `part-${Math.floor(n / 100)}`, `${String(n).padStart(5, '0')}.jpg`), jpeg);
    },
    { concurrency: 4 },
  );
}
