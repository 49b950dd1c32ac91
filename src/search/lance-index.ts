/** The contract of search-index.ts, over a Lance table. */
import { LRUCache } from 'lru-cache';
import { ConfigError } from '../errors.ts';
import { toUnit } from '../vectors.ts';
import { columnOf, decodeImages, decodeVectors, factsColumn } from './arrow.ts';
import { both, isOneOf, predicateOf, quote } from './filter.ts';
import { fewImages } from './kind.ts';
import type { ImageTable, Nearest, Selection } from './lance.ts';
import type { Filter, Hit, IndexedImage, IndexRecord, SearchIndex, SearchRequest } from './search-index.ts';

/** Filters whose counts are remembered: a page asks with the same one again and again. */
const rememberedCounts = 256;

/** What the parameters of an index are measured for (kind.ts). */
export const measuredK = 10;

export class LanceIndex implements SearchIndex {
  readonly record: IndexRecord;
  readonly #table: ImageTable;
  readonly #counts = new LRUCache<string, number>({ max: rememberedCounts });

  constructor(record: IndexRecord, table: ImageTable) {
    this.record = record;
    this.#table = table;
  }

  async search(request: SearchRequest): Promise<Hit[]> {
    const { vectors, filter, minScore = -1, without = [], exact = false, signal } = request;
    const vector = this.#directionOf(vectors);
    signal?.throwIfAborted();
    if (this.record.images === 0) return [];
    // Those that shall not be found are dropped from the hits: cheaper than a predicate that every row is held against.
    const k = request.k + without.length;
    const where = predicateOf(filter);
    const how = exact ? { exact } : await this.#breadthOf(request.k, where);
    const nearest = this.#table.nearest({ vector, k, where, ...how }, [factsColumn]);
    const hits: Hit[] = [];
    for await (const batch of nearest) {
      signal?.throwIfAborted();
      const distance = columnOf(batch, '_distance');
      for (const [row, image] of decodeImages(batch).entries())
        hits.push({ ...image, score: clamp(1 - Number(distance(row))) });
    }
    const unwanted = new Set(without);
    return hits
      .filter(({ key, score }) => score >= minScore && !unwanted.has(key))
      .toSorted((a, b) => b.score - a.score || (a.key < b.key ? -1 : 1))
      .slice(0, request.k);
  }

  async get(key: string): Promise<IndexedImage | undefined> {
    const [image] = await this.#images({ where: `key = ${quote(key)}`, limit: 1 });
    return image;
  }

  async find(name: string): Promise<IndexedImage | undefined> {
    const places = new Map(this.record.runs.map((run, place) => [run, place]));
    const placeOf = ({ run }: IndexedImage): number => places.get(run) ?? -1;
    const images = await this.#images({ where: `id = ${quote(name)} OR uri = ${quote(name)}` });
    return images.toSorted((a, b) => placeOf(b) - placeOf(a) || (a.key < b.key ? -1 : 1))[0];
  }

  async vectorsOf(keys: readonly string[]): Promise<Float32Array[]> {
    const { dimension } = this.record.model;
    const found = new Map<string, Float32Array>();
    for await (const batch of this.#table.select({
      columns: ['key', 'vector'],
      where: isOneOf('key', keys),
    })) {
      const key = columnOf(batch, 'key');
      const vectors = decodeVectors(batch, dimension);
      for (let row = 0; row < batch.numRows; row++)
        found.set(String(key(row)), vectors.slice(row * dimension, (row + 1) * dimension));
    }
    return keys.map((key) => {
      const vector = found.get(key);
      if (vector) return vector;
      throw new ConfigError('no-image', `the index has no image '${key}'`);
    });
  }

  async list(options: { filter?: Filter; after?: string; limit: number }): Promise<IndexedImage[]> {
    const { filter, after, limit } = options;
    const behind = after === undefined ? undefined : `key > ${quote(after)}`;
    return this.#images({ where: both(behind, predicateOf(filter)), orderBy: 'key', limit });
  }

  async *scan({ filter, signal }: { filter?: Filter; signal?: AbortSignal } = {}) {
    const columns = [factsColumn, 'vector'];
    for await (const batch of this.#table.select({ columns, where: predicateOf(filter) })) {
      signal?.throwIfAborted();
      yield { images: decodeImages(batch), vectors: decodeVectors(batch, this.record.model.dimension) };
    }
  }

  async *scanVectors(signal?: AbortSignal) {
    for await (const batch of this.#table.select({ columns: ['key', 'vector'] })) {
      signal?.throwIfAborted();
      const key = columnOf(batch, 'key');
      const keys = Array.from({ length: batch.numRows }, (_, row) => String(key(row)));
      yield { keys, vectors: decodeVectors(batch, this.record.model.dimension) };
    }
  }

  async count(filter?: Filter): Promise<number> {
    return this.#count(predicateOf(filter));
  }

  async countLabels(filter?: Filter): Promise<{ label: number; count: number }[]> {
    const counts = new Map<number, number>();
    for await (const value of this.#table.values('label', predicateOf(filter))) {
      const label = Number(value);
      if (label >= 0) counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    return Array.from(counts, ([label, count]) => ({ label, count })).toSorted(
      (a, b) => b.count - a.count || a.label - b.label,
    );
  }

  async close(): Promise<void> {
    this.#table.close();
  }

  async #count(where: string | undefined): Promise<number> {
    if (where === undefined) return this.record.images;
    const known = this.#counts.get(where);
    if (known !== undefined) return known;
    const count = await this.#table.count(where);
    this.#counts.set(where, count);
    return count;
  }

  /**
   * How far to look. The parameters are those for 10 hits among all images: for fewer as many images are compared, for more hits
   * more. What a filter passes may lie anywhere, and far away codes tell less; so all partitions are looked into then, and as
   * many images compared as for 80 hits. Where few pass, all of those are compared.
   */
  async #breadthOf(k: number, where: string | undefined): Promise<Omit<Nearest, 'vector' | 'k' | 'where'>> {
    const { kind, parameters, model } = this.record;
    if (kind === 'exact') return { exact: true };
    const passing = await this.#count(where);
    if (passing <= fewImages(model.dimension)) return { exact: true };
    const { partitions = 1, nprobes = partitions, refineFactor = 1 } = parameters;
    const isFiltered = where !== undefined;
    const least = isFiltered ? 8 * measuredK : measuredK;
    const wanted = isFiltered ? partitions : Math.ceil(nprobes * Math.max(1, k / measuredK));
    return {
      exact: false,
      nprobes: Math.min(partitions, wanted),
      refineFactor: Math.ceil(refineFactor * Math.max(1, least / k)),
    };
  }

  async #images(selection: Omit<Selection, 'columns'>): Promise<IndexedImage[]> {
    const images: IndexedImage[] = [];
    for await (const batch of this.#table.select({ columns: [factsColumn], ...selection }))
      images.push(...decodeImages(batch));
    return images;
  }

  /** The mean of what is searched for, each with length 1. */
  #directionOf(vectors: readonly Float32Array[]): Float32Array {
    const { dimension, ref } = this.record.model;
    const sum = new Float32Array(dimension);
    for (const vector of vectors) {
      if (vector.length !== dimension) {
        throw new ConfigError(
          'wrong-dimension',
          `an embedding of ${vector.length} numbers was given, those of ${ref} have ${dimension}`,
        );
      }
      const unit = vector.slice();
      if (!toUnit(unit)) throw noDirection();
      for (let i = 0; i < dimension; i++) sum[i] = (sum[i] as number) + (unit[i] as number);
    }
    if (!toUnit(sum)) throw noDirection();
    return sum;
  }
}

function noDirection(): ConfigError {
  return new ConfigError(
    'no-direction',
    'what is searched for has no direction: embeddings that are zero, not finite, or opposite to each other',
  );
}

function clamp(cosine: number): number {
  return Math.max(-1, Math.min(1, cosine));
}
