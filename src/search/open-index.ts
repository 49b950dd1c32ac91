/** An index that is open for reading: the contract of search-index.ts over its Lance table. */
import { ConfigError } from '../errors.ts';
import { readRequest } from '../run.ts';
import type { S3Options } from '../s3-client.ts';
import type { Store } from '../stores/store.ts';
import { columnOf, decodeImages, decodeVectors, imageColumns, toUnit } from './arrow.ts';
import { both, isOneOf, predicateOf, quote } from './filter.ts';
import { ImageTable, type Selection } from './lance.ts';
import { findRecord, listIndexes } from './record.ts';
import type { Filter, Hit, IndexedImage, IndexRecord, SearchIndex, SearchRequest } from './search-index.ts';

export interface OpenIndexOptions {
  s3: S3Options;
  /** The index that holds, or is to hold, the rows of this run. */
  run?: string;
  /** How the fingerprint starts. */
  fingerprint?: string;
}

/** Tries to open the newest generation: one that was read may be cleaned up a day later, when there are newer ones. */
const attempts = 3;

/**
 * The newest generation of an output's index. Throws ConfigError 'no-index', which names the command that builds it;
 * 'which-index' where there are several and nothing chooses one; 'no-run'.
 */
export async function openIndex(store: Store, options: OpenIndexOptions): Promise<SearchIndex> {
  const fingerprint = await chooseIndex(store, options);
  for (let attempt = 1; attempt <= attempts; attempt++) {
    const record = await findRecord(store, fingerprint);
    const place = { output: store.uri, fingerprint, s3: options.s3 };
    const table = record && (await ImageTable.openVersion(place, record.version));
    if (table) return new LanceIndex(record, table);
  }
  throw new ConfigError(
    'no-index',
    `the table of the index ${fingerprint.slice(0, 16)} in ${store.uri} is gone: \`lensmill build-index ${store.uri} --rebuild\``,
  );
}

async function chooseIndex(store: Store, { run, fingerprint = '' }: OpenIndexOptions): Promise<string> {
  const asked = run === undefined ? fingerprint : (await readRequest(store, run)).model.fingerprint;
  const records = await listIndexes(store);
  const [only, ...others] = records.filter(({ model }) => model.fingerprint.startsWith(asked));
  if (!only) {
    const what = asked === '' ? 'no index' : `no index of the model ${asked.slice(0, 16)}`;
    throw new ConfigError('no-index', `${what} in ${store.uri}: \`lensmill build-index ${store.uri}\``);
  }
  if (others.length === 0) return only.model.fingerprint;
  const choices = [only, ...others].map(
    ({ model, images }) =>
      `${model.fingerprint.slice(0, 8)} (${model.ref}, ${model.precision}, ${images} images)`,
  );
  throw new ConfigError(
    'which-index',
    `${store.uri} has indexes of ${choices.length} models: choose with --fingerprint ${choices.join(' | ')}, or with --run`,
  );
}

class LanceIndex implements SearchIndex {
  readonly record: IndexRecord;
  readonly #table: ImageTable;

  constructor(record: IndexRecord, table: ImageTable) {
    this.record = record;
    this.#table = table;
  }

  async search(request: SearchRequest): Promise<Hit[]> {
    const { vectors, k, filter, minScore = -1, without = [], exact = false, signal } = request;
    const { kind, parameters, images } = this.record;
    const vector = this.#directionOf(vectors);
    signal?.throwIfAborted();
    if (images === 0) return [];
    const nearest = this.#table.nearest(
      {
        vector,
        // Those that shall not be found are dropped from the hits: cheaper than a predicate that every row is held against.
        k: k + without.length,
        where: predicateOf(filter),
        exact: exact || kind === 'exact',
        nprobes: parameters.nprobes,
        refineFactor: parameters.refineFactor,
      },
      imageColumns,
    );
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
      .slice(0, k);
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
    const columns = [...imageColumns, 'vector'];
    for await (const batch of this.#table.select({ columns, where: predicateOf(filter) })) {
      signal?.throwIfAborted();
      yield { images: decodeImages(batch), vectors: decodeVectors(batch, this.record.model.dimension) };
    }
  }

  async count(filter?: Filter): Promise<number> {
    return this.#table.count(predicateOf(filter));
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

  async #images(selection: Omit<Selection, 'columns'>): Promise<IndexedImage[]> {
    const images: IndexedImage[] = [];
    for await (const batch of this.#table.select({ columns: imageColumns, ...selection }))
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
