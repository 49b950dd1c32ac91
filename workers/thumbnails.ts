/**
 * Thumbnails of a run's images, made from where the run found them, be it a file or a member of an archive. They are decoded
 * in processes of their own (sandbox.ts): among a run's images are those that crash a decoder.
 */
import { availableParallelism } from 'node:os';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import type { Failure } from '../src/errors.ts';
import { fetchItem } from '../src/fetch.ts';
import { makeGate } from '../src/objects/host-gate.ts';
import { openItemFinder } from '../src/runs/find-item.ts';
import type { Run } from '../src/runs/run.ts';
import { sourceOptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import { openSource } from '../src/sources/open-source.ts';
import type { Source } from '../src/sources/source.ts';
import type { Store } from '../src/stores/store.ts';
import type { Thumbnail, ThumbnailOptions } from '../src/thumbnail.ts';
import { openSandbox } from './sandbox.ts';

export type ThumbnailSettings = Parameters<typeof sourceOptionsOf>[0] & Pick<Settings, 'readTimeoutMs'>;

export interface Thumbnails {
  /**
   * A WebP whose longer side has at most `size` pixels, or why there is none: 'changed' where the source has another version of
   * the image now, 'not-found', 'too-many-pixels' (by the run's limits) … Throws ConfigError 'no-run', 'not-planned' and
   * 'no-image', those of a source that refuses everything, and the reason of `signal`.
   */
  make(
    image: { run: string; id: string },
    size: number,
    options?: { signal?: AbortSignal },
  ): Promise<Thumbnail | Failure>;
  /** As `make`, of a picture that is here already. */
  shrink(content: Uint8Array, options: ThumbnailOptions): Promise<Thumbnail | Failure>;
  /** Ends what is under way. Safe to call twice. */
  close(): Promise<void>;
}

/** Images in memory at once, each of up to the run's `maxBytes`. */
const reads = 8;
/** Sources that are kept open; most outputs have one. */
const openSources = 8;
/** Somebody is waiting: reading, with all its attempts, may take so long, and decoding as long again. */
const longestMs = 20_000;
const mostSandboxes = 4;

export function openThumbnails(store: Store, settings: ThumbnailSettings): Thumbnails {
  const options = sourceOptionsOf(settings);
  options.web.gate = makeGate();
  const finder = openItemFinder(store);
  const limit = pLimit(reads);
  const closing = new AbortController();
  const underWay = new Set<Promise<unknown>>();
  const sandboxes = Array.from({ length: Math.min(mostSandboxes, availableParallelism()) }, () => ({
    sandbox: openSandbox(longestMs),
    pictures: 0,
  }));
  const sources = new LRUCache<string, OpenSource>({ max: openSources, dispose: (opened) => drop(opened) });

  async function make(
    { run: asked, id }: { run: string; id: string },
    size: number,
    signal: AbortSignal,
  ): Promise<Thumbnail | Failure> {
    signal.throwIfAborted();
    const { run, item } = await finder.find(asked, id);
    const tooLong = AbortSignal.timeout(longestMs);
    let fetched: Awaited<ReturnType<typeof fetchItem>>;
    try {
      const { maxBytes } = run;
      const bounds = AbortSignal.any([signal, tooLong]);
      fetched = await withSource(run.source, (source) =>
        fetchItem(source, item, { maxBytes, timeoutMs: settings.readTimeoutMs, signal: bounds }),
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!tooLong.aborted) throw error;
      return { error: 'timeout', message: `it could not be read in ${longestMs / 1000} s` };
    }
    if ('error' in fetched) return fetched;
    signal.throwIfAborted();
    return shrink(fetched.content, { size, maxPixels: run.maxPixels });
  }

  async function shrink(content: Uint8Array, wanted: ThumbnailOptions): Promise<Thumbnail | Failure> {
    const member = sandboxes.reduce((least, other) => (other.pictures < least.pictures ? other : least));
    member.pictures += 1;
    try {
      return await member.sandbox.shrink(content, wanted);
    } finally {
      member.pictures -= 1;
    }
  }

  /** A source that is in use stays open, though it was the one used longest ago. */
  async function withSource<T>(spec: Run['source'], use: (source: Source) => Promise<T>): Promise<T> {
    const key = JSON.stringify(spec);
    let opened = sources.get(key);
    if (!opened) {
      opened = { source: openSource(spec, options), users: 0, isDropped: false };
      sources.set(key, opened);
    }
    opened.users += 1;
    try {
      return await use(opened.source);
    } finally {
      opened.users -= 1;
      if (opened.isDropped) drop(opened);
    }
  }

  /** Closing waits for it. */
  function follow<T>(making: Promise<T>): Promise<T> {
    underWay.add(making);
    return making.finally(() => underWay.delete(making));
  }

  return {
    make(image, size, { signal } = {}) {
      const bounds = signal ? AbortSignal.any([signal, closing.signal]) : closing.signal;
      return follow(limit(() => make(image, size, bounds)));
    },
    shrink: (content, wanted) => follow(shrink(content, wanted)),
    async close() {
      closing.abort(new Error('the thumbnails were closed'));
      await Promise.allSettled(underWay);
      for (const { sandbox } of sandboxes) sandbox.close();
      await Promise.all([...sources.values()].map(({ source }) => source.close()));
    },
  };
}

interface OpenSource {
  source: Source;
  /** Reads under way. */
  users: number;
  isDropped: boolean;
}

/** Closes it once nobody reads from it. */
function drop(opened: OpenSource): void {
  opened.isDropped = true;
  if (opened.users === 0) void opened.source.close();
}
