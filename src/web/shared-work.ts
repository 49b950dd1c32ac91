/**
 * Results that take long to find, for all who want the same: found once, one at a time, and remembered. What nobody waits for
 * any longer is given up.
 */
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';

export interface SharedWork<T> {
  /** What `work` gives for this key. Rejects with the signal's reason when it aborts, though others go on waiting. */
  get(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

interface UnderWay<T> {
  result: Promise<T>;
  waiting: number;
  abort: AbortController;
}

/** `kept`: results that are remembered. */
export function openSharedWork<T extends object>(kept: number): SharedWork<T> {
  const results = new LRUCache<string, T>({ max: kept });
  const underWay = new Map<string, UnderWay<T>>();
  const oneAtATime = pLimit(1);

  function begin(key: string, work: (signal: AbortSignal) => Promise<T>): UnderWay<T> {
    const abort = new AbortController();
    const result = oneAtATime(async () => {
      abort.signal.throwIfAborted();
      return work(abort.signal);
    });
    const begun = { result, waiting: 0, abort };
    underWay.set(key, begun);
    const end = (): void => {
      if (underWay.get(key) === begun) underWay.delete(key);
    };
    result.then((found) => {
      results.set(key, found);
      end();
    }, end);
    return begun;
  }

  return {
    async get(key, signal, work) {
      signal.throwIfAborted();
      const known = results.get(key);
      if (known) return known;
      const shared = underWay.get(key) ?? begin(key, work);
      shared.waiting += 1;
      const left = Promise.withResolvers<never>();
      const leave = (): void => left.reject(signal.reason);
      signal.addEventListener('abort', leave);
      try {
        return await Promise.race([shared.result, left.promise]);
      } finally {
        signal.removeEventListener('abort', leave);
        shared.waiting -= 1;
        if (shared.waiting === 0) {
          shared.abort.abort(new Error('nobody waits for it any longer'));
          // Whoever comes now does not want one that was given up.
          if (underWay.get(key) === shared) underWay.delete(key);
        }
      }
    },
  };
}
