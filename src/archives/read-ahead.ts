/**
 * Ranged reads where a request costs more than its bytes, and neighbours are read one after the other: the small members of
 * an archive in a store. A run of reads that each begin where the one before ended is read ahead of, by as much as it has read so
 * far and 1 MB at most, so that a run that ends soon has wasted no more than it used. Reads anywhere else are as they were.
 *
 * 1,024 members of 15 kB from a radosgw next door, 8 at once: 1,024 requests and 8.2 s without; 22 requests and 0.35 s with it;
 * 128 requests where four lanes take turns of 64 members each.
 */
import type { Objects, RangeRead } from '../objects/objects.ts';

/** Some 60 pictures of 16 kB; of 100 kB and more, fewer requests would not be quicker. */
const mostAhead = 2 ** 20;

/** Between two reads of a run: headers, labels. */
const widestGap = 65_536;

/** Kept at once: 8 MB. Runs: one for each shard that a thread works on. */
const keptWindows = 8;
const keptRuns = 16;

interface Run {
  object: string;
  /** Where its next read begins, or a little behind. */
  end: number;
  /** Bytes that were asked for. */
  read: number;
}

/** A stretch that was read, or is being read. */
interface Window {
  object: string;
  first: number;
  end: number;
  bytes: Promise<Uint8Array>;
  /** How many wait for it. It is abandoned when the last one leaves. */
  readers: number;
  left: AbortController;
  isHere: boolean;
}

/** As `objects.readRange`. One that fails, fails for all that wait for the same window. */
export function openReadAhead(objects: Objects): Pick<Objects, 'readRange'> {
  /** Least recently used first. */
  const runs: Run[] = [];
  const windows: Window[] = [];

  function openWindow(object: string, uri: string, { etag, first, count }: RangeRead): Window {
    const left = new AbortController();
    const bytes = objects.readRange(uri, { etag, first, count, signal: left.signal });
    const window = { object, first, end: first + count, bytes, readers: 0, left, isHere: false };
    const forget = (): void => remove(windows, window);
    bytes.then(() => (window.isHere = true), forget);
    left.signal.addEventListener('abort', forget);
    windows.push(window);
    if (windows.length > keptWindows) windows.shift();
    return window;
  }

  return {
    async readRange(uri, options) {
      const { etag, first, count, signal } = options;
      signal?.throwIfAborted();
      const object = `${etag} ${uri}`;
      const end = first + count;
      const run = runs.find(
        (run) => run.object === object && run.end <= first && first <= run.end + widestGap,
      );
      if (run) remove(runs, run);
      const read = (run?.read ?? 0) + count;
      runs.push({ object, end, read });
      if (runs.length > keptRuns) runs.shift();

      const isWithin = (window: Window): boolean =>
        window.object === object && window.first <= first && end <= window.end;
      const ahead = Math.min(read, mostAhead);
      const isWorth = run !== undefined && count < ahead;
      const window =
        windows.find(isWithin) ?? (isWorth && openWindow(object, uri, { etag, first, count: ahead }));
      return window ? cut(window, options) : objects.readRange(uri, options);
    },
  };
}

async function cut(window: Window, { first, count, signal }: RangeRead): Promise<Uint8Array> {
  window.readers++;
  const { promise: left, reject } = Promise.withResolvers<never>();
  const leave = (): void => reject(signal?.reason);
  signal?.addEventListener('abort', leave);
  try {
    const bytes = await Promise.race([window.bytes, left]);
    const part = bytes.subarray(first - window.first, first - window.first + count);
    const own = Buffer.allocUnsafeSlow(part.length);
    own.set(part);
    return own;
  } finally {
    signal?.removeEventListener('abort', leave);
    if (--window.readers === 0 && !window.isHere) window.left.abort();
  }
}

function remove<T>(list: T[], entry: T): void {
  const at = list.indexOf(entry);
  if (at >= 0) list.splice(at, 1);
}
