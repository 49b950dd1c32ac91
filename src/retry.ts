/**
 * What a retry is planned from: the images of a run that still fail, in that run's order.
 *
 * They are taken as they are now. An image that was replaced since the run listed it is done as it stands, with its new etag
 * and size, where its source can look one up (`refresh`): who mends a truncated file and types `retry` means the file that he
 * mended. One that is gone, or that a source cannot look up, keeps what was listed, and its row says 'not-found' or 'changed'.
 */
import pMap, { pMapIterable } from 'p-map';
import { openPlan } from './page.ts';
import type { PartFooter } from './parts/footer.ts';
import { sourceName } from './runs/run.ts';
import { type FailedRow, failedRows, type View } from './runs/view.ts';
import type { ItemPage, Source } from './sources/source.ts';
import type { Store } from './stores/store.ts';
import type { Item } from './types.ts';
import { compareBytewise } from './uri.ts';

/** Parts whose failed images are looked up ahead of the planner, and images of a part at once. */
const parts = 4;
const images = 16;

/** Lists the images of a view that still fail, by one of `codes` where any are named. */
export function failedItems(
  store: Store,
  view: View,
  source: Pick<Source, 'refresh'>,
  codes?: readonly string[],
): Pick<Source, 'uri' | 'list'> {
  const isAsked = ({ error, retried }: FailedRow): boolean => {
    const code = retried ? retried.error : error;
    return code !== null && (codes?.includes(code) ?? true);
  };
  // Which code a retry's row has now is in no footer of the run's own parts.
  const isWanted = view.retries.length > 0 ? undefined : hasOneOf(codes);
  const refresh = async (item: Item): Promise<Item> => (await source.refresh?.(item)) ?? item;

  return {
    uri: sourceName(view.run),
    async *list({ after, signal } = {}): AsyncIterable<ItemPage> {
      const readItems = openPlan(store);
      const pages = pMapIterable(
        failedRows(store, view, { after, isWanted }),
        async ({ part, rows }): Promise<Item[]> => {
          signal?.throwIfAborted();
          const asked = rows.filter(
            (row) => isAsked(row) && (after === undefined || compareBytewise(row.id, after) > 0),
          );
          if (asked.length === 0) return [];
          const planned = await readItems(view.run, part.shard);
          return pMap(asked.map(itemOf(planned, part.key)), refresh, { concurrency: images });
        },
        { concurrency: parts },
      );
      for await (const items of pages) if (items.length > 0) yield { items, skipped: 0 };
    },
  };
}

function hasOneOf(codes: readonly string[] | undefined): ((footer: PartFooter) => boolean) | undefined {
  return codes && (({ failures }) => codes.some((code) => failures[code]));
}

function itemOf(planned: readonly Item[], part: string): (failed: FailedRow) => Item {
  return ({ row, id }) => {
    const item = planned[row];
    if (item?.id === id) {
      // Of an increment's item: that a run before it has a row. A retry's plan counts no rows of other runs.
      const { replaces: _, ...rest } = item;
      return rest;
    }
    throw new Error(
      `${part}: row ${row} is ${id}, its plan says ${item?.id}; \`lensmill verify\` tells more`,
    );
  };
}
