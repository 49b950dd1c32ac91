/**
 * The plan of a run: an immutable list of its shards, cut from the source's listing, written page by page (page.ts) while
 * the listing goes on. A planner that was killed is followed by one that reads the pages and lists on after the last id;
 * two planners at once write the same pages.
 */
import { ConfigError } from './errors.ts';
import { type PageIndex, readPage, shardsPerPage, writePage } from './page.ts';
import { createRun, findRun, type Run, type RunRequest } from './runs/run.ts';
import { DEFAULT_INCLUDE } from './sources/globs.ts';
import type { Source } from './sources/source.ts';
import { atStep } from './steps.ts';
import type { Store } from './stores/store.ts';
import type { Item } from './types.ts';
import { compareBytewise } from './uri.ts';

/** `_SUCCESS.json` takes 285 bytes for each part, and everything that reads a run holds it in memory: docs/scale.md. */
const shardLimit = 1_000_000;

export interface PlanOptions {
  /** Rows that count in the runs before this one; its own replace some of them. */
  rowsBefore?: number;
  onProgress?: (progress: { items: number }) => void;
  signal?: AbortSignal;
  maxShards?: number;
  /**
   * Of a run that is new: claims its id. Called before the first thing is written, so that a source without images leaves no run, and
   * is listed once for all that.
   */
  claim?: (() => Promise<void>) | undefined;
}

/** What a plan is cut from: a source, what changed in it, or the images of a run that are to be done again. */
export type Lister = Pick<Source, 'uri' | 'list'>;

/**
 * Plans a run, or finishes a plan that was broken off, or returns the plan that is there. Throws ConfigError:
 * 'empty-source' where the source has no item, 'source-changed' where another planner of this run found other items,
 * 'unordered-source' where an id does not come after the one before: no listing could be continued, or proven whole;
 * 'too-many-shards' where there would be more than a run can have, and what `claim` throws.
 */
export async function planRun(
  store: Store,
  source: Lister,
  request: RunRequest,
  { rowsBefore = 0, onProgress, signal, maxShards = shardLimit, claim }: PlanOptions = {},
): Promise<Run> {
  // One that has the id of a new run is another's: the claim says so.
  const planned = claim ? undefined : await findRun(store, request.run);
  if (planned) return planned;

  const total = { pages: 0, shards: 0, items: 0, bytes: 0, skipped: 0, replaced: 0, gone: 0 };
  const pageItems = request.shardSize * shardsPerPage;
  let after: string | undefined;
  let isListed = false;
  const add = (page: PageIndex): void => {
    total.pages += 1;
    total.shards += page.shards.length;
    total.items += page.items;
    total.bytes += page.bytes;
    total.skipped += page.skipped;
    total.replaced += page.replaced;
    total.gone += page.gone;
    after = page.lastId;
    // Only the end of the listing makes a page that is not full.
    isListed = page.items < pageItems;
    if (total.shards > maxShards) throw tooManyShards(source, request, maxShards);
    onProgress?.({ items: total.items });
  };
  let unclaimed = claim;
  const claimOnce = async (): Promise<void> => {
    await unclaimed?.();
    unclaimed = undefined;
    signal?.throwIfAborted();
  };
  const write = async (items: readonly Item[], skipped: number): Promise<void> => {
    throwIfUnordered(source, after, items);
    await claimOnce();
    atStep('page listed', request.run);
    const page = await writePage(store, request, total.pages, { items, skipped });
    if (page) return add(page);
    throw new ConfigError(
      'source-changed',
      `another planner of run ${request.run} found other items, so the source changed: \`lensmill resume ${request.run}\` goes on from its pages`,
    );
  };

  for (;;) {
    const page = await readPage(store, request.run, total.pages);
    if (!page) break;
    add(page);
  }
  if (!isListed) {
    const pending: Item[] = [];
    let skipped = 0;
    for await (const listed of source.list({
      ...(after !== undefined && { after }),
      ...(signal && { signal }),
    })) {
      signal?.throwIfAborted();
      for (const item of listed.items) pending.push(item);
      skipped += listed.skipped;
      for (; pending.length >= pageItems; skipped = 0) await write(pending.splice(0, pageItems), skipped);
    }
    if (pending.length > 0) await write(pending, skipped);
    else total.skipped += skipped;
  }

  // An increment may find nothing to do.
  if (total.items > 0 || request.since !== null) {
    await claimOnce();
    const run = await createRun(store, { ...request, ...total, kept: rowsBefore - total.replaced });
    atStep('plan created', request.run);
    return run;
  }
  const { include } = request.source;
  const found =
    total.skipped === 0
      ? 'it is empty; mount what belongs there, or check its name'
      : `${total.skipped} objects do not match --include ${(include ?? DEFAULT_INCLUDE).join(' ')}`;
  throw new ConfigError('empty-source', `no images in ${source.uri}: ${found}`);
}

/** Found while listing: nobody can know before. It would else be found when every image is done. */
function tooManyShards({ uri }: Lister, { shardSize }: RunRequest, maxShards: number): ConfigError {
  const images = (maxShards * shardSize).toLocaleString('en-US');
  return new ConfigError(
    'too-many-shards',
    `${uri} has more than ${images} images, and a run has at most ${maxShards.toLocaleString('en-US')} shards, of ${shardSize} here: start another with --shard-size ${shardSize * 8}`,
  );
}

function throwIfUnordered({ uri }: Lister, after: string | undefined, items: readonly Item[]): void {
  let last = after;
  for (const { id } of items) {
    if (last !== undefined && compareBytewise(last, id) >= 0) {
      throw new ConfigError(
        'unordered-source',
        `${uri} lists '${id}' after '${last}': a server that does not list in the order of bytes cannot be a source`,
      );
    }
    last = id;
  }
}
