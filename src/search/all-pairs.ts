/** Which images are near which: all with all, or with what an index finds. */
import { setImmediate } from 'node:timers/promises';
import pMap from 'p-map';
import { openProducts } from '../infer.ts';
import { productsGraph } from '../models/products.ts';
import type { DuplicatesOptions } from './duplicates.ts';
import { Claims, type Ranking } from './grouping.ts';
import type { Hit, SearchIndex } from './search-index.ts';

export type ComparisonOptions = Pick<DuplicatesOptions, 'threshold' | 'filter' | 'signal' | 'onProgress'>;

/** Images whose cosines are made together: 20 ms of a core, 2 MB. */
const rowsAtOnce = 256;
const columnsAtOnce = 2048;

/** Every image with every other. `vectors`: [candidates × dimension], each with length 1; they are put in another order. */
export async function compareAll(
  vectors: Float32Array,
  ranking: Ranking,
  { dimension, threshold, signal, onProgress }: ComparisonOptions & { dimension: number },
): Promise<Claims> {
  const count = ranking.singles.length;
  const claims = new Claims(count);
  sortRows(vectors, ranking, dimension);
  const rowsOf = (first: number, end: number): Float32Array =>
    vectors.subarray(first * dimension, end * dimension);
  const products = await openProducts(productsGraph(dimension), dimension);
  try {
    for (let first = 0; first < count; first += rowsAtOnce) {
      const end = Math.min(first + rowsAtOnce, count);
      const keepers: number[] = [];
      const among = await products.of(rowsOf(first, end), rowsOf(first, end));
      for (let place = first; place < end; place++) {
        if (claims.isClaimed(place)) continue;
        keepers.push(place);
        const start = (place - first) * (end - first);
        claimNear(claims, place, among.subarray(start, start + end - first), first, threshold);
      }
      const rows = new Float32Array(keepers.length * dimension);
      for (const [at, place] of keepers.entries()) rows.set(rowsOf(place, place + 1), at * dimension);
      for (let other = end; other < count && keepers.length > 0; other += columnsAtOnce) {
        const width = Math.min(columnsAtOnce, count - other);
        const cosines = await products.of(rows, rowsOf(other, other + width));
        for (const [at, keeper] of keepers.entries())
          claimNear(claims, keeper, cosines.subarray(at * width, (at + 1) * width), other, threshold);
        await setImmediate();
        signal?.throwIfAborted();
      }
      // Each image is compared with those behind it only: the first ones have most to do.
      const left = (count - end) / count;
      onProgress?.({ done: Math.round(count * (1 - left ** 2)), total: count });
      await setImmediate();
      signal?.throwIfAborted();
    }
    return claims;
  } finally {
    await products.release();
  }
}

/** Moves the rows of singles to their places, within the same memory; copies come behind them. */
function sortRows(vectors: Float32Array, { places, singles }: Ranking, dimension: number): void {
  const rowAt = (row: number): Float32Array => vectors.subarray(row * dimension, (row + 1) * dimension);
  let behind = singles.length;
  const targets = places.map((place) => (place < 0 ? behind++ : place));
  for (let row = 0; row < targets.length; row++) {
    // Each swap puts one row where it belongs.
    for (let to = targets[row] as number; to !== row; to = targets[row] as number) {
      const displaced = rowAt(to).slice();
      rowAt(to).set(rowAt(row));
      rowAt(row).set(displaced);
      targets[row] = targets[to] as number;
      targets[to] = to;
    }
  }
}

/** `cosines`: of the keeper to the images from `first` on. */
function claimNear(
  claims: Claims,
  keeper: number,
  cosines: Float32Array,
  first: number,
  threshold: number,
): void {
  for (let at = 0; at < cosines.length; at++) {
    const cosine = cosines[at] as number; // its length
    if (cosine >= threshold) claims.claim(keeper, first + at, Math.min(1, cosine));
  }
}

/** Images that are asked for together; where one of them claims another, that one was asked for in vain. */
const askedAtOnce = 64;
const hitsAsked = 20;
/** As many as the index gives: of a keeper with more near images, the rest are grouped by themselves. */
const mostHits = 1000;

/** Every image with those that the index finds nearest to it. */
export async function compareByIndex(
  index: SearchIndex,
  { singles }: Ranking,
  { threshold, filter, signal, onProgress }: ComparisonOptions,
): Promise<Claims> {
  const claims = new Claims(singles.length);
  const places = new Map(singles.map(({ key }, place) => [key, place]));
  const near = async (key: string, vector: Float32Array, k: number): Promise<Hit[]> => {
    const request = { vectors: [vector], k, minScore: threshold, without: [key] };
    const hits = await index.search({ ...request, ...(filter && { filter }), ...(signal && { signal }) });
    return hits.length === k && k < mostHits ? near(key, vector, mostHits) : hits;
  };
  for (let first = 0; first < singles.length; first += askedAtOnce) {
    const asked = singles
      .slice(first, first + askedAtOnce)
      .map(({ key }, at) => ({ key, place: first + at }))
      .filter(({ place }) => !claims.isClaimed(place));
    const vectors = await index.vectorsOf(asked.map(({ key }) => key));
    const hits = await pMap(
      asked,
      ({ key }, at) => near(key, vectors[at] as Float32Array, hitsAsked), // one for each
      { concurrency: 4 },
    );
    for (const [at, { place }] of asked.entries()) {
      if (claims.isClaimed(place)) continue;
      // Of images of the same bytes only one has a place.
      for (const { key, score } of hits[at] ?? []) claims.claim(place, places.get(key) ?? -1, score);
    }
    signal?.throwIfAborted();
    onProgress?.({ done: Math.min(first + askedAtOnce, singles.length), total: singles.length });
  }
  return claims;
}
