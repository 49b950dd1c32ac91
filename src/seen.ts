/**
 * Which bytes a worker has met already: a table in shared memory that its lanes look up and write without a message. It holds
 * 64 bits of each SHA-256, so a hit must still be proven by the whole hash (reuse.ts).
 *
 * Open addressing with linear probing. An entry is never removed; when the table is full, further bytes are taken for new.
 */

/** Places of the smallest table and of the largest, whose keys are 32 MB. */
const leastPlaces = 2 ** 12;
const mostPlaces = 2 ** 22;
/** Looked at before the table counts as full there. */
const maxProbes = 32;
/** Above this share of places taken, probes get long. */
const maxLoad = 0.6;

/** Entries that the largest table takes well. */
export const seenCapacity = Math.floor(mostPlaces * maxLoad);

/** Where in the table a key is; `isNew` for who put it there: the bytes are his to do. */
export interface SeenPlace {
  place: number;
  isNew: boolean;
}

export interface SeenTable {
  /** Looks the bytes up and, where nobody has met them, claims them. `undefined` where there is no room for them. */
  claim(sha256: string): SeenPlace | undefined;
}

/** For so many entries, or as many as the largest table takes. */
export function makeSeenTable(entries: number): SharedArrayBuffer {
  let places = leastPlaces;
  while (places < mostPlaces && places * maxLoad < entries) places *= 2;
  return new SharedArrayBuffer(places * BigUint64Array.BYTES_PER_ELEMENT);
}

/** Opens the table that other threads of this process have open too. */
export function openSeenTable(buffer: SharedArrayBuffer): SeenTable {
  const keys = new BigUint64Array(buffer);
  const places = keys.length;
  return {
    claim(sha256) {
      const key = BigInt(`0x${sha256.slice(0, 16)}`) || 1n; // 0 is an empty place
      const first = Number.parseInt(sha256.slice(16, 24), 16) % places;
      for (let probe = 0; probe < maxProbes; probe++) {
        const place = (first + probe) % places;
        const found = Atomics.compareExchange(keys, place, 0n, key);
        if (found === 0n || found === key) return { place, isNew: found === 0n };
      }
      return undefined;
    },
  };
}
