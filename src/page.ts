/**
 * A page of a plan, as it stands in the store. It holds `shardsPerPage` shards, the last page fewer, so shard s is on page
 * ⌊s / shardsPerPage⌋ and nothing needs to be searched. A page is two objects:
 *   1. page-00042-<sha256>.jsonl   its items, a line each
 *   2. page-00042.json             its index, created second: where each shard's lines begin, and the last id listed
 * Whoever creates the index decides the page.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { pageItemsKey, pageKey } from './layout.ts';
import { encodeJson, type Run, type RunRequest, readJson } from './runs/run.ts';
import { atStep } from './steps.ts';
import type { Store } from './stores/store.ts';
import type { Item } from './types.ts';
import { compareBytewise } from './uri.ts';

/** At 512 items a shard, a page is about 10 MB of lines. */
export const shardsPerPage = 100;

const pageIndex = z.object({
  itemsKey: z.string(),
  /** Byte range of each shard's lines. */
  shards: z.array(z.object({ first: z.number(), count: z.number(), items: z.number() })),
  items: z.number(),
  bytes: z.number(),
  skipped: z.number(),
  replaced: z.number(),
  gone: z.number(),
  /** The listing goes on after this id. */
  lastId: z.string(),
});
export type PageIndex = z.infer<typeof pageIndex>;

const itemLine = z.object({
  id: z.string(),
  uri: z.string(),
  etag: z.string(),
  size: z.number(),
  at: z
    .object({
      archive: z.string(),
      first: z.number(),
      count: z.number(),
      packed: z.union([z.literal(['stored', 'deflated', 'encrypted']), z.number()]).exactOptional(),
    })
    .exactOptional(),
  extra: z.record(z.string(), z.unknown()).exactOptional(),
  replaces: z.literal(true).exactOptional(),
  gone: z.literal(true).exactOptional(),
});

/** A page's index, or `undefined` where nobody has written it yet. */
export async function readPage(store: Store, run: string, page: number): Promise<PageIndex | undefined> {
  return readJson(store, pageIndex, pageKey(run, page));
}

/** The index of a page of a planned run. */
export async function requirePage(store: Store, { run }: Run, page: number): Promise<PageIndex> {
  const index = await readPage(store, run, page);
  if (!index) throw new Error(`${pageKey(run, page)} is missing`);
  return index;
}

/** The page's index, or `undefined` where another planner has written this page with other items. */
export async function writePage(
  store: Store,
  { run, shardSize }: Pick<RunRequest, 'run' | 'shardSize'>,
  page: number,
  { items, skipped }: { items: readonly Item[]; skipped: number },
): Promise<PageIndex | undefined> {
  const shards: PageIndex['shards'] = [];
  const chunks: Buffer[] = [];
  let offset = 0;
  for (let at = 0; at < items.length; at += shardSize) {
    const slice = items.slice(at, at + shardSize);
    const chunk = encodeItems(slice);
    shards.push({ first: offset, count: chunk.length, items: slice.length });
    chunks.push(chunk);
    offset += chunk.length;
  }
  const lines = Buffer.concat(chunks);
  const itemsKey = pageItemsKey(run, page, createHash('sha256').update(lines).digest('hex'));
  // Taken already only by the same lines: the key is their hash.
  await store.create(itemsKey, lines);
  atStep('page items created', run);
  const index: PageIndex = {
    itemsKey,
    shards,
    items: items.length,
    bytes: items.reduce((sum, item) => sum + item.size, 0),
    skipped,
    replaced: items.filter((item) => item.replaces).length,
    gone: items.filter((item) => item.gone).length,
    lastId: items.at(-1)?.id ?? '',
  };
  const isOurs = await store.create(pageKey(run, page), encodeJson(index));
  atStep('page created', run);
  if (isOurs) return index;
  const theirs = await readPage(store, run, page);
  return theirs?.itemsKey === itemsKey ? theirs : undefined;
}

/** Indices kept by one reader: shards are done roughly in order, so a few suffice. */
const keptIndices = 16;

/** Reads a shard's items. Open one for long: it keeps the indices that it met. */
export function openPlan(store: Store): (run: Run, shard: number) => Promise<Item[]> {
  const readLines = openPlanLines(store);
  return async (run, shard) => decodeItems(await readLines(run, shard), `the plan of run ${run.run}`);
}

/** As `openPlan`, but gives a shard's items as they stand in the plan: a line each. */
export function openPlanLines(store: Store): (run: Run, shard: number) => Promise<Uint8Array> {
  const indices = new Map<string, Promise<PageIndex | undefined>>();
  const indexOf = (run: Run, page: number): Promise<PageIndex | undefined> => {
    const key = `${pageKey(run.run, page)} ${run.createdAt}`;
    let index = indices.get(key);
    if (!index) {
      if (indices.size >= keptIndices) indices.clear();
      index = readPage(store, run.run, page);
      index.catch(() => indices.delete(key));
      indices.set(key, index);
    }
    return index;
  };
  return async (run, shard) => {
    const index = await indexOf(run, Math.floor(shard / shardsPerPage));
    const slice = index?.shards[shard % shardsPerPage];
    if (!index || !slice) throw new Error(`run ${run.run} has no shard ${shard} in its plan`);
    return readLines(store, index, slice);
  };
}

/** The items of one shard of a page. */
export async function readSlice(
  store: Store,
  page: PageIndex,
  shard: PageIndex['shards'][number],
): Promise<Item[]> {
  return decodeItems(await readLines(store, page, shard), page.itemsKey);
}

async function readLines(
  store: Store,
  { itemsKey }: PageIndex,
  { first, count }: PageIndex['shards'][number],
): Promise<Uint8Array> {
  const lines = await store.read(itemsKey, { first, count });
  if (!lines) throw new Error(`${itemsKey} is missing`);
  return lines;
}

/** Every shard's number of items, in order: what parts are held against. */
export async function* shardSizes(store: Store, run: Run): AsyncIterable<number> {
  for (let page = 0; page < run.pages; page++) {
    for (const shard of (await requirePage(store, run, page)).shards) yield shard.items;
  }
}

/** The first shard of the first page that has an id behind `id`; that of no page where none has. Reads few of the indices. */
export async function shardBehind(store: Store, run: Run, id: string): Promise<number> {
  const page = await findFirst(run.pages, async (page) => {
    const { lastId } = await requirePage(store, run, page);
    return compareBytewise(lastId, id) > 0;
  });
  return page * shardsPerPage;
}

/** The first of `end` that fits, where all behind one that fits do too; `end` where none does. Asks for few of them. */
export async function findFirst(end: number, fits: (at: number) => Promise<boolean>): Promise<number> {
  let first = 0;
  while (first < end) {
    const at = Math.floor((first + end) / 2);
    if (await fits(at)) end = at;
    else first = at + 1;
  }
  return first;
}

/** A line each, as they stand in a plan. */
export function encodeItems(items: readonly Item[]): Buffer {
  return Buffer.from(items.map((item) => `${JSON.stringify(item)}\n`).join(''));
}

/** Throws where a line is no item. */
export function decodeItems(lines: Uint8Array, key: string): Item[] {
  const text = Buffer.from(lines.buffer, lines.byteOffset, lines.byteLength).toString('utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const parsed = itemLine.safeParse(JSON.parse(line));
      if (!parsed.success) throw new Error(`${key} is damaged: ${z.prettifyError(parsed.error)}`);
      return parsed.data;
    });
}
