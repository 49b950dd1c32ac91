/** The plan's part of the proof: that it is whole, as it was written, and names no image twice. */
import { createHash } from 'node:crypto';
import { messageOf } from '../errors.ts';
import { pageItemsKey, pageKey, runKey } from '../layout.ts';
import { decodeItems, type PageIndex, readPage, shardsPerPage } from '../page.ts';
import type { Run } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';
import type { Item } from '../types.ts';
import { compareBytewise } from '../uri.ts';
import type { Report } from './strays.ts';

export interface PlanCheck {
  /** Keys of the items of the pages read so far. */
  readonly itemsKeys: ReadonlySet<string>;
  /** A page's shards, from page 0 on, each once; what does not hold is reported, and a page that cannot be read has none. */
  readPage(page: number): Promise<Item[][]>;
  /** Reports sums that do not hold. */
  close(): void;
}

export function openPlanCheck(store: Store, run: Run, report: Report): PlanCheck {
  const itemsKeys = new Set<string>();
  const total = { shards: 0, items: 0, bytes: 0, skipped: 0, replaced: 0, gone: 0 };
  let last: { id: string } | undefined;

  return {
    itemsKeys,
    async readPage(page) {
      const key = pageKey(run.run, page);
      try {
        const index = await readPage(store, run.run, page);
        if (!index) throw new Error('is missing');
        itemsKeys.add(index.itemsKey);
        const shards = await readShards(index, page);
        checkIndex(index, shards, page);
        for (const items of shards) for (const item of items) checkOrder(item, key);
        return shards;
      } catch (error) {
        report(`${key}: ${messageOf(error)}`);
        return [];
      }
    },
    close() {
      for (const field of ['shards', 'items', 'bytes', 'skipped', 'replaced', 'gone'] as const) {
        // What lay behind the last page's items was skipped too, and is in no page.
        if (field === 'skipped' ? total.skipped > run.skipped : total[field] !== run[field])
          report(`${runKey(run.run)} says ${run[field]} ${field}, its pages ${total[field]}`);
      }
    },
  };

  async function readShards(index: PageIndex, page: number): Promise<Item[][]> {
    const lines = await store.read(index.itemsKey);
    if (!lines) throw new Error(`${index.itemsKey} is missing`);
    if (pageItemsKey(run.run, page, createHash('sha256').update(lines).digest('hex')) !== index.itemsKey)
      throw new Error(`${index.itemsKey} is not what its name says: it was changed`);
    let offset = 0;
    const shards = index.shards.map(({ first, count }) => {
      if (first !== offset) throw new Error(`a shard begins at byte ${first}, expected ${offset}`);
      offset += count;
      return decodeItems(lines.subarray(first, first + count), index.itemsKey);
    });
    if (offset !== lines.length) throw new Error(`its shards are ${offset} bytes of ${lines.length}`);
    return shards;
  }

  function checkIndex(index: PageIndex, shards: readonly Item[][], page: number): void {
    const items = shards.flat();
    const bytes = items.reduce((sum, { size }) => sum + size, 0);
    const isLast = page === run.pages - 1;
    const fits = shards.every(({ length }, at) => {
      const isTail = isLast && at === shards.length - 1;
      return (
        length === index.shards[at]?.items && (length === run.shardSize || (isTail && length < run.shardSize))
      );
    });
    if (!fits || (!isLast && shards.length !== shardsPerPage) || items.length !== index.items)
      throw new Error(
        `its shards are not cut as planned: ${shards.map(({ length }) => length).join(', ')} images`,
      );
    if (bytes !== index.bytes) throw new Error(`its images are ${bytes} bytes, it says ${index.bytes}`);
    if (items.at(-1)?.id !== index.lastId) throw new Error(`it does not end with '${index.lastId}'`);
    total.shards += shards.length;
    total.items += items.length;
    total.bytes += bytes;
    total.skipped += index.skipped;
    total.replaced += items.filter((item) => item.replaces).length;
    total.gone += items.filter((item) => item.gone).length;
  }

  /** Ids that rise from the first to the last are each there once. */
  function checkOrder({ id }: Item, key: string): void {
    if (last && compareBytewise(last.id, id) >= 0)
      report(last.id === id ? `${key}: '${id}' is there twice` : `${key}: '${id}' comes after '${last.id}'`);
    last = { id };
  }
}
