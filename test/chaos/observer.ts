/** Watches a run's objects while the pool works: none may change or vanish, and `_SUCCESS.json` comes last. */
import { setTimeout as sleep } from 'node:timers/promises';
import { partsPrefix, successKey } from '../../src/layout.ts';
import type { Place } from './place.ts';

export interface Observer {
  /** What it saw that may not be. */
  stop(): Promise<{ looks: number; problems: string[] }>;
}

export function observe(place: Place, run: string, everyMs = 300): Observer {
  const versions = new Map<string, string>();
  const problems = new Set<string>();
  let partsAtSuccess: number | undefined;
  let looks = 0;
  let isWatching = true;

  const look = async (): Promise<void> => {
    // Listings come in the order of keys, so `_SUCCESS.json` was looked for before the parts were.
    const objects = await place.versions(`runs/${run}/`);
    const seen = new Set<string>();
    for (const { key, version } of objects) {
      seen.add(key);
      const before = versions.get(key);
      if (before !== undefined && before !== version) problems.add(`${key} was written twice`);
      versions.set(key, version);
    }
    for (const key of versions.keys()) if (!seen.has(key)) problems.add(`${key} vanished`);
    if (partsAtSuccess === undefined && seen.has(successKey(run))) partsAtSuccess = countParts(seen);
    looks += 1;
  };
  const countParts = (keys: Iterable<string>): number =>
    [...keys].filter((key) => key.startsWith(partsPrefix(run))).length;

  const watching = (async () => {
    while (isWatching) {
      await look();
      await sleep(everyMs);
    }
  })();
  // Rejects in `stop`.
  watching.catch(() => undefined);

  return {
    async stop() {
      isWatching = false;
      await watching;
      await look();
      const parts = countParts(versions.keys());
      if (partsAtSuccess !== undefined && partsAtSuccess < parts)
        problems.add(`_SUCCESS.json was there when ${partsAtSuccess} of ${parts} parts were`);
      return { looks, problems: [...problems] };
    },
  };
}
