/**
 * Whether files may be read by calls that block their thread. One that is in the page cache is there sooner than another
 * thread is woken for it: 151 against 249 us of CPU for 120 kB (test/bench/read.ts). But a lane that waits for a disk decodes
 * nothing meanwhile, and a network mount may never answer. So only files of local file systems are read so, and none for a
 * while where they took long.
 */
import { statfsSync } from 'node:fs';

export interface Patience {
  /** Whether files of this folder may be read so now; `folder` is any name for it. */
  isGiven(folder: string): boolean;
  /** A file of a folder was found at this path, on this device (`st_dev`). */
  learn(folder: string, path: string | Buffer, device: bigint): void;
  /** How long one took that was read so. */
  took(ms: number): void;
}

/** Of the latest reads on average; a scheduler on busy cores, which is nobody's fault, costs some 0.2. */
const patienceMs = 0.6;
const averaged = 16;
/** Reads that do not block after slow ones: twice as many the next time, up to the last. */
const leastRest = 16;
const mostRest = 1024;
/** A source comes folder by folder. */
const keptFolders = 64;

/** `f_type` of file systems that lie on the machine's own disks or in its memory (statfs(2)). */
const localTypes = new Set([
  0xef53, // ext2, ext3, ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0x01021994, // tmpfs
  0x794c7630, // overlayfs
  0x2fc12fc1, // zfs
  0xf2f52010, // f2fs
]);

export function openPatience(): Patience {
  const devices = new Map<bigint, boolean>();
  const folders = new Map<string, boolean>();
  let meanMs = patienceMs / 2;
  let toSkip = 0;
  let rest = leastRest;
  return {
    isGiven(folder) {
      if (toSkip > 0) {
        toSkip -= 1;
        return false;
      }
      return folders.get(folder) ?? false;
    },
    learn(folder, path, device) {
      const isLocal = devices.get(device) ?? isLocalFileSystem(path);
      devices.set(device, isLocal);
      folders.delete(folder);
      folders.set(folder, isLocal);
      const [oldest = folder] = folders.keys();
      if (folders.size > keptFolders) folders.delete(oldest);
    },
    took(ms) {
      meanMs += (ms - meanMs) / averaged;
      if (meanMs <= patienceMs) {
        if (meanMs < patienceMs / 2) rest = leastRest;
        return;
      }
      toSkip = rest;
      rest = Math.min(2 * rest, mostRest);
      meanMs = patienceMs / 2;
    },
  };
}

function isLocalFileSystem(path: string | Buffer): boolean {
  try {
    return process.platform === 'linux' && localTypes.has(statfsSync(path).type);
  } catch {
    return false; // what is wrong with it, reading will tell
  }
}
