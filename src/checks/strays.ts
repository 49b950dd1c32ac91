/** Objects below a run's prefix that belong to nothing of it. */
import {
  isPageItemsKey,
  pageKey,
  partKey,
  partsPrefix,
  requestKey,
  runKey,
  runPrefix,
  shardOfPart,
  successKey,
} from '../layout.ts';
import type { Run, Success } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';

/** Takes what does not hold, a line each. */
export type Report = (problem: string) => void;

/**
 * Reports every stray, and counts what may be left over: items of a page that a killed planner wrote before another one
 * decided the page, and on a store that cannot create atomically the attempts that were not chosen.
 */
export async function findStrays(
  store: Store,
  { run, pages, shards }: Run,
  named: { parts: Success['parts']; pageItems: ReadonlySet<string> },
  report: Report,
): Promise<number> {
  const parts = new Set(named.parts.map(({ key }) => key));
  const records = new Set([requestKey(run), runKey(run), successKey(run)]);
  for (let page = 0; page < pages; page++) records.add(pageKey(run, page));

  // As this store was when the parts were made: who verifies need not be allowed to write, and so to try.
  const hasAttempts = named.parts.some(({ key, shard }) => key !== partKey(run, shard));
  let leftovers = 0;
  for await (const { key } of store.list(runPrefix(run))) {
    if (parts.has(key) || records.has(key) || named.pageItems.has(key)) continue;
    if (isLeftover(key)) leftovers += 1;
    else report(`${key} belongs to ${key.startsWith(partsPrefix(run)) ? 'no shard' : 'nothing'} of the run`);
  }
  return leftovers;

  function isLeftover(key: string): boolean {
    const page = Number(/\/page-([0-9]+)-/.exec(key)?.[1]);
    if (page < pages && isPageItemsKey(run, page, key)) return true;
    const shard = shardOfPart(key);
    return hasAttempts && shard !== undefined && shard < shards;
  }
}
