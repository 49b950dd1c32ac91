/** Images of a source, chosen at random and always the same. */
import { createHash } from 'node:crypto';
import type { Source } from './sources/source.ts';
import type { Item } from './types.ts';
import { compareBytewise } from './uri.ts';

/** A sample: the images whose names have the least hashes, of all in its source. */
export interface Draw {
  count: number;
  /** Samples that shall not be alike have different names. */
  name: string;
}

export interface SampleOptions extends Draw {
  /** No image that this one draws is drawn. */
  without?: Draw | undefined;
  /** Images listed so far. */
  onProgress?: (items: number) => void;
  signal?: AbortSignal;
}

/**
 * `count` items, by id; fewer where there are fewer. Any item is as likely as any other, a larger sample holds the smaller
 * one, and an item more in the source changes no more than one of them. Lists the whole source, once. Throws ConfigError as
 * `Source.list` does.
 */
export async function sampleItems(
  source: Pick<Source, 'list'>,
  { count, name, without = { count: 0, name: '' }, onProgress, signal }: SampleOptions,
): Promise<Item[]> {
  const drawn = openDraw({ name, count: count + without.count });
  const others = openDraw(without);
  let listed = 0;
  for await (const { items } of source.list({ ...(signal && { signal }) })) {
    signal?.throwIfAborted();
    for (const item of items) {
      drawn.add(item);
      others.add(item);
    }
    listed += items.length;
    onProgress?.(listed);
  }
  const taken = new Set(others.items().map(({ id }) => id));
  return drawn
    .items()
    .filter(({ id }) => !taken.has(id))
    .slice(0, count)
    .sort((a, b) => compareBytewise(a.id, b.id));
}

/** Holds at most twice as many as it draws. */
function openDraw({ count, name }: Draw): { add(item: Item): void; items(): Item[] } {
  let least: { rank: string; item: Item }[] = [];
  let limit = 'g'; // beyond every hash
  const cut = (): void => {
    least = least.sort((a, b) => (a.rank < b.rank ? -1 : 1)).slice(0, count);
    if (least.length === count) limit = least.at(-1)?.rank ?? limit;
  };
  return {
    add(item) {
      if (count === 0) return;
      const rank = createHash('sha256').update(`${name} ${item.id}`).digest('hex');
      if (rank < limit) least.push({ rank, item });
      if (least.length >= 2 * count) cut();
    },
    /** By rank. */
    items() {
      cut();
      return least.map(({ item }) => item);
    },
  };
}
