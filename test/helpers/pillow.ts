/** Pillow, the live reference for pixels: runs `test/reference/pixels.py`. */
import { join } from 'node:path';
import { execa } from 'execa';
import type { Preprocessing } from '../../src/types.ts';

const SCRIPT = join(import.meta.dirname, '../reference/pixels.py');

/** A picture that sharp cannot write: `from` is read, converted to Pillow's `mode` and saved with `options`. */
export interface SaveJob {
  from: string;
  path: string;
  mode: string;
  options?: Record<string, unknown>;
}

export async function saveWithPillow(jobs: SaveJob[]): Promise<void> {
  await run('save', jobs);
}

export type Transform = Pick<Preprocessing, 'resize' | 'crop' | 'interpolation'>;

/** For every picture, the crop by each of its transforms (crop × crop × 3, uint8), as torchvision makes it with Pillow. */
export async function cropWithPillow(
  paths: string[],
  transformsOf: (path: string) => Transform[],
): Promise<Map<string, Map<Transform, Uint8Array>>> {
  const crops = await run(
    'crop',
    paths.map((path) => ({ path, transforms: transformsOf(path) })),
  );
  let at = 0;
  const take = (length: number) => {
    at += length;
    return crops.subarray(at - length, at);
  };
  return new Map(
    paths.map((path) => [
      path,
      new Map(transformsOf(path).map((transform) => [transform, take(transform.crop ** 2 * 3)])),
    ]),
  );
}

async function run(command: string, jobs: object[]): Promise<Uint8Array> {
  const { stdout, stderr, failed } = await execa(await python(), [SCRIPT, command], {
    input: JSON.stringify(jobs),
    encoding: 'buffer',
    maxBuffer: 2 ** 30,
    stripFinalNewline: false, // a last byte of 10 is a pixel
    reject: false, // execa's own error would print megabytes of pixels
  });
  if (failed) throw new Error(`pixels.py ${command}: ${Buffer.from(stderr)}`);
  return stdout;
}

/** The first Python that has Pillow: Debian's, then the PATH's. */
async function python(): Promise<string> {
  for (const candidate of ['/usr/bin/python3', 'python3']) {
    const { failed } = await execa(candidate, ['-c', 'import PIL'], { reject: false });
    if (!failed) return candidate;
  }
  throw new Error('Pillow, the reference for pixels, is missing; type: apt-get install -y python3-pil');
}
