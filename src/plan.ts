/**
 * The plan of a run: an immutable list of its shards, cut from the source's listing.
 *
 * The plan is written page by page while the listing goes on. A page holds `shardsPerPage` shards (the last one
 * fewer), so shard s is on page ⌊s / shardsPerPage⌋ and nothing needs to be searched. A page is two objects:
 *   1. page-00042-<sha256>.jsonl   its items, a line each
 *   2. page-00042.json             its index, created second: where each shard's lines begin, and the last id listed
 * Whoever creates the index decides the page. A planner that was killed is followed by one that reads the indices and
 * lists on after the last id; two planners at once write the same pages or take over each other's.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { ConfigError } from './errors.ts';
import { pageItemsKey, pageKey } from './layout.ts';
import { createRun, decodeJson, encodeJson, findRun, type Run, type RunRequest } from './run.ts';
import type { Source } from './sources/source.ts';
import type { Store } from './stores/store.ts';
import type { Item } from './types.ts';

/** Shards on a page. At 512 items a shard, a page is about 10 MB of lines. */
export const shardsPerPage = 100;

const pageIndex = z.object({
  itemsKey: z.string(),
  /** Byte range of each shard's lines. */
  shards: z.array(z.object({ first: z.number(), count: z.number(), items: z.number() })),
  items: z.number(),
  bytes: z.number(),
  skipped: z.number(),
  /** The listing goes on after this id. */
  lastId: z.string(),
});
type PageIndex = z.infer<typeof pageIndex>;

const itemLine = z.object({ id: z.string(), uri: z.string(), etag: z.string(), size: z.number() });

export interface PlanProgress {
  items: number;
  skipped: number;
}

/**
 * Plans a run, or finishes a plan that was broken off, or returns the plan that is there.
 * Throws ConfigError 'empty-source' where the source has no item.
 */
export async function planRun(
  store: Store,
  source: Source,
  request: RunRequest,
  options: { onProgress?: (progress: PlanProgress) => void; signal?: AbortSignal } = {},
): Promise<Run> {
  const planned = await findRun(store, request.run);
  if (planned) return planned;

  const total = { pages: 0, shards: 0, items: 0, bytes: 0, skipped: 0 };
  const pageItems = request.shardSize * shardsPerPage;
  let lastId: string | undefined;
  let listed = false;
  const add = (index: PageIndex): void => {
    total.pages += 1;
    total.shards += index.shards.length;
    total.items += index.items;
    total.bytes += index.bytes;
    total.skipped += index.skipped;
    lastId = index.lastId;
    // Only the end of the listing makes a page that is not full.
    listed = index.items < pageItems;
    options.onProgress?.({ items: total.items, skipped: total.skipped });
  };

  for (;;) {
    const index = await readPage(store, request.run, total.pages);
    if (!index) break;
    add(index);
  }

  if (!listed) await listPages();
  if (total.items === 0) {
    throw new ConfigError(
      'empty-source',
      `no images in ${source.uri}: ${total.skipped} objects do not match --include ${request.source.include.join(' ')}`,
    );
  }
  return createRun(store, { ...request, ...total });

  async function listPages(): Promise<void> {
  let pending: Item[] = [];
  let skipped = 0;
  const listing = { ...(lastId !== undefined && { after: lastId }), ...(options.signal && { signal: options.signal }) };
  for await (const page of source.list(listing)) {
    options.signal?.throwIfAborted();
    pending.push(...page.items);
    skipped += page.skipped;
    while (pending.length >= pageItems) {
      add(await writePage(store, request, total.pages, pending.splice(0, pageItems), skipped));
      skipped = 0;
    }
  }
  if (pending.length > 0) add(await writePage(store, request, total.pages, pending, skipped));
  else total.skipped += skipped;
  }
}

/** Reads one shard's items; caches the page indices it meets, for `planReader` serves one worker's whole life. */
export function planReader(store: Store): (run: Run, shard: number) => Promise<Item[]> {
  const pages = new Map<string, Promise<PageIndex | undefined>>();
  return async (run, shard) => {
    const key = pageKey(run.run, Math.floor(shard / shardsPerPage));
    let page = pages.get(key);
    if (!page) {
      if (pages.size >= 16) pages.clear();
      page = readPage(store, run.run, Math.floor(shard / shardsPerPage));
      page.catch(() => pages.delete(key));
      pages.set(key, page);
    }
    const index = await page;
    const slice = index?.shards[shard % shardsPerPage];
    if (!index || !slice) throw new Error(`run ${run.run} has no shard ${shard} in its plan`);
    const lines = await store.read(index.itemsKey, { first: slice.first, count: slice.count });
    if (!lines) throw new Error(`${index.itemsKey} is missing`);
    return decodeItems(lines, index.itemsKey);
  };
}

/** Every shard's number of items, in order: what `finalize` and `verify` hold the parts against. */
export async function* shardSizes(store: Store, run: Run): AsyncIterable<number> {
  for (let page = 0; page < run.pages; page++) {
    const index = await readPage(store, run.run, page);
    if (!index) throw new Error(`${pageKey(run.run, page)} is missing`);
    for (const shard of index.shards) yield shard.items;
  }
}

async function readPage(store: Store, run: string, page: number): Promise<PageIndex | undefined> {
  const key = pageKey(run, page);
  const bytes = await store.read(key);
  return bytes && decodeJson(pageIndex, bytes, key);
}

async function writePage(
  store: Store,
  request: RunRequest,
  page: number,
  items: readonly Item[],
  skipped: number,
): Promise<PageIndex> {
  const shards: PageIndex['shards'] = [];
  const chunks: Buffer[] = [];
  let offset = 0;
  for (let at = 0; at < items.length; at += request.shardSize) {
    const slice = items.slice(at, at + request.shardSize);
    const chunk = Buffer.from(slice.map((item) => `${JSON.stringify(item)}\n`).join(''));
    shards.push({ first: offset, count: chunk.length, items: slice.length });
    chunks.push(chunk);
    offset += chunk.length;
  }
  const lines = Buffer.concat(chunks);
  const itemsKey = pageItemsKey(request.run, page, createHash('sha256').update(lines).digest('hex'));
  // Taken already only by the same lines: the key is their hash.
  await store.create(itemsKey, lines);
  const index: PageIndex = {
    itemsKey,
    shards,
    items: items.length,
    bytes: items.reduce((sum, item) => sum + item.size, 0),
    skipped,
    lastId: items.at(-1)?.id ?? '',
  };
  if (await store.create(pageKey(request.run, page), encodeJson(index))) return index;

  const theirs = await readPage(store, request.run, page);
  if (theirs?.itemsKey === itemsKey) return theirs;
  throw new ConfigError(
    'source-changed',
    `another planner of run ${request.run} listed other items: the source changed in between; \`lensmill resume ${request.run}\` goes on from its pages`,
  );
}

function decodeItems(lines: Uint8Array, key: string): Item[] {
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
