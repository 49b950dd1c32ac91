/** Images by run and id: where the plan of a run says that they are. */
import { LRUCache } from 'lru-cache';
import { ConfigError } from '../errors.ts';
import { findFirst, type PageIndex, readSlice, requirePage, shardsPerPage } from '../page.ts';
import type { Store } from '../stores/store.ts';
import type { Item } from '../types.ts';
import { compareBytewise } from '../uri.ts';
import { type Run, readRun } from './run.ts';

export interface ItemFinder {
  /** In the plan of the run, or in those that it goes on from. Throws ConfigError 'no-run', 'not-planned', 'no-image'. */
  find(run: string, id: string): Promise<{ run: Run; item: Item }>;
  /** In the plan of this run alone; its row is in the part of that shard. */
  findIn(run: Run, id: string): Promise<{ item: Item; shard: number } | undefined>;
}

/** Of each kind of what was read: shards of 512 items, 100 KB in the store, make 20 MB. */
const kept = 64;

/**
 * Reads indices of pages and single shards by halves: ten small reads for the first of a run's images, fewer for the next,
 * since what was read is kept. Nothing to be closed.
 */
export function openItemFinder(store: Store): ItemFinder {
  const runs = keeper<Run>();
  const pages = keeper<PageIndex>();
  const shards = keeper<Item[]>();

  async function findIn(run: Run, id: string): Promise<{ item: Item; shard: number } | undefined> {
    const pageOf = (page: number): Promise<PageIndex> =>
      pages(`${run.run}/${page}`, () => requirePage(store, run, page));
    const page = await findFirst(
      run.pages,
      async (at) => compareBytewise((await pageOf(at)).lastId, id) >= 0,
    );
    if (page === run.pages) return undefined;
    const index = await pageOf(page);
    const itemsOf = (shard: number): Promise<Item[]> =>
      shards(`${run.run}/${page}/${shard}`, () => {
        const slice = index.shards[shard];
        if (!slice) throw new Error(`page ${page} of run ${run.run} has no shard ${shard}: this is a bug`);
        return readSlice(store, index, slice);
      });
    // The last of them ends with the last id of the page, so one of them fits.
    const shard = await findFirst(
      index.shards.length - 1,
      async (at) => compareBytewise((await itemsOf(at)).at(-1)?.id ?? '', id) >= 0,
    );
    const item = (await itemsOf(shard)).find((one) => one.id === id);
    return item && { item, shard: page * shardsPerPage + shard };
  }

  return {
    findIn,
    async find(asked, id) {
      for (let next: string | null = asked; next !== null; ) {
        const name: string = next;
        const run: Run = await runs(name, () => readRun(store, name));
        const item = (await findIn(run, id))?.item;
        if (item?.gone) throw new ConfigError('no-image', `'${id}' was gone when run ${run.run} was planned`);
        if (item) return { run, item };
        next = run.since;
      }
      throw new ConfigError(
        'no-image',
        `run ${asked} has no image '${id}': \`lensmill export\` lists the ids`,
      );
    },
  };
}

/** Values by key, each read once, also by those who ask meanwhile; the ones asked for last are kept. */
function keeper<T>(): (key: string, read: () => Promise<T>) => Promise<T> {
  const cache = new LRUCache<string, Promise<T>>({ max: kept });
  return (key, read) => {
    let value = cache.get(key);
    if (!value) {
      value = read();
      cache.set(key, value);
      // The next one tries again.
      value.catch(() => cache.delete(key));
    }
    return value;
  };
}
