/** A disk that can be filled to its last byte, and emptied again. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { CannotRunHere } from './scenario.ts';

export interface SmallDisk {
  folder: string;
  fill(): void;
  free(): void;
  close(): void;
}

/** Throws CannotRunHere where nothing may be mounted. */
export function mountSmallDisk(folder: string, size: string): SmallDisk {
  mkdirSync(folder, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'lensmill-chaos', folder], { stdio: 'pipe' });
  } catch (error) {
    throw new CannotRunHere(`no small disk can be mounted: ${String(error).split('\n').at(-2)}`);
  }
  const close = (): void => {
    process.off('exit', close);
    execFileSync('umount', ['--lazy', folder]);
  };
  process.on('exit', close);
  const filler = join(folder, '.filler');
  return {
    folder,
    fill() {
      const file = openSync(filler, 'w');
      try {
        for (let bytes = 1 << 20; bytes > 0; ) {
          try {
            writeSync(file, Buffer.alloc(bytes));
          } catch {
            bytes >>= 1;
          }
        }
      } finally {
        closeSync(file);
      }
    },
    free: () => rmSync(filler, { force: true }),
    close,
  };
}
