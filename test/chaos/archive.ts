/** An archive of very many, very small pictures, no two alike, made in seconds; some of them broken in every plain way. */
import { mkdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pMap from 'p-map';
import sharp from 'sharp';
import { crashes } from '../helpers/crashing-decoder.ts';

export interface ArchiveOptions {
  count: number;
  /** Every n-th picture is broken; 0: none. */
  brokenEvery?: number;
  /** Every n-th picture crashes its decoder (helpers/crashing-decoder.ts); 0: none. */
  crashEvery?: number;
  seed?: number;
}

export interface Archive {
  folder: string;
  items: number;
  /** Rows that must fail in a pool whose decoder does not crash. */
  broken: number;
  /** Ids of those that crash their decoder. */
  crashing: string[];
}

/** Behind a JPEG's end, where decoders do not look; decoder-crash-hook.ts does. */

const side = 40;
const patchSide = 5;
const folderSize = 500;

/** The same options give the same bytes. Files whose number is both are broken, not crashing. */
export async function makeArchive(folder: string, options: ArchiveOptions): Promise<Archive> {
  const { count, brokenEvery = 0, crashEvery = 0, seed = 1 } = options;
  for (let first = 0; first < count; first += folderSize)
    mkdirSync(join(folder, folderName(first)), { recursive: true });
  const archive: Archive = { folder, items: count, broken: 0, crashing: [] };
  await pMap(
    Array.from({ length: count }, (_, n) => n),
    async (n) => {
      const id = `${folderName(n)}/${String(n).padStart(6, '0')}.jpg`;
      let bytes: Uint8Array = await makePicture(seed * 1_000_003 + n);
      if (isEvery(n, brokenEvery)) {
        bytes = breakPicture(bytes, archive.broken++);
      } else if (isEvery(n, crashEvery)) {
        bytes = Buffer.concat([bytes, crashes]);
        archive.crashing.push(id);
      }
      await writeFile(join(folder, id), bytes);
    },
    { concurrency: 8 },
  );
  archive.crashing.sort();
  return archive;
}

function folderName(n: number): string {
  return `box-${String(Math.floor(n / folderSize)).padStart(3, '0')}`;
}

function isEvery(n: number, every: number): boolean {
  return every > 0 && n % every === every - 1;
}

/** A soft pattern of a few coloured patches: 40 × 40, about 900 bytes, 0.3 ms. */
async function makePicture(seed: number): Promise<Buffer> {
  const patches = Buffer.alloc(patchSide * patchSide * 3);
  let state = seed;
  for (let at = 0; at < patches.length; at++) {
    // An LCG of Knuth's; its high byte is random enough for a picture.
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    patches[at] = state >>> 24;
  }
  return sharp(patches, { raw: { width: patchSide, height: patchSide, channels: 3 } })
    .resize(side, side, { kernel: 'cubic' })
    .jpeg({ quality: 80 })
    .toBuffer();
}

function breakPicture(bytes: Uint8Array, nth: number): Uint8Array {
  const ways = [
    () => new Uint8Array(),
    () => bytes.subarray(0, bytes.length / 2),
    () => Buffer.from('this is no picture\n'),
    () => Buffer.concat([bytes.subarray(0, 200), Buffer.alloc(bytes.length - 200, 0xff)]),
  ];
  return ways[nth % ways.length]?.() ?? bytes;
}
