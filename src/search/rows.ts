/**
 * The rows of finished runs as an index takes them, in batches: what is put in, and what it takes the place of.
 *
 * An image is known by its uri and id. A run that continues another (an increment, a retry) speaks of that run's images by
 * their ids alone, as the output's table does (runs/table.ts), whatever their uris are by now.
 */
import { createHash } from 'node:crypto';
import { pMapIterable } from 'p-map';
import { toHalf } from '../models/half.ts';
import { type PartTable, readStoredPart } from '../parts/part.ts';
import { type RunRequest, readSuccess } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';
import { toUnit } from '../vectors.ts';
import type { ImageRows } from './arrow.ts';
import { isOneOf } from './filter.ts';
import { rowsPerFile } from './kind.ts';
import type { IndexedImage } from './search-index.ts';

/** What one batch does to a table: first rows go, then rows come. */
export interface RowBatch {
  /** Keys of the rows that go, wherever there are any. */
  keys: string[];
  /** Ids of rows that go too, of these runs alone. */
  ids: { runs: readonly string[]; ids: string[] }[];
  rows: ImageRows;
  /** Rows of parts that this batch is made of. */
  taken: number;
  /** By run: how many of its rows, in all batches so far, are ok and without a direction. */
  leftOut: Record<string, number>;
}

/** Parts read ahead of the table: a part is 8 MB, and a store answers in some tens of milliseconds. */
const readAhead = 4;

const maxBatchBytes = 128 * 2 ** 20;

/** 32 hex digits. */
export function imageKey(uri: string, id: string): string {
  return createHash('sha256').update(`${uri}\n${id}`).digest('hex').slice(0, 32);
}

/** The predicate of the rows that go; `undefined` where none can. */
export function goingOf({ keys, ids }: Pick<RowBatch, 'keys' | 'ids'>): string | undefined {
  const parts = [
    ...(keys.length > 0 ? [isOneOf('key', keys)] : []),
    ...ids.map((chain) => `(${isOneOf('id', chain.ids)} AND ${isOneOf('run', chain.runs)})`),
  ];
  return parts.length === 0 ? undefined : parts.join(' OR ');
}

/** `runs` in the order in which they count; a batch may hold the end of one run and the beginning of the next. */
export async function* rowBatches(
  store: Store,
  runs: readonly RunRequest[],
  chains: ReadonlyMap<string, readonly string[]>,
  signal: AbortSignal | undefined,
): AsyncGenerator<RowBatch> {
  const leftOut = new Map<string, number>();
  const close = (dimension: number): RowBatch => ({
    ...batch.close(dimension),
    leftOut: Object.fromEntries(leftOut),
  });
  let batch = new OpenBatch();
  for (const run of runs) {
    const { parts } = await readSuccess(store, run.run);
    const read = async ({ key }: (typeof parts)[number]): Promise<PartTable> => {
      signal?.throwIfAborted();
      return readStoredPart(store, key);
    };
    for await (const part of pMapIterable(parts, read, { concurrency: readAhead })) {
      signal?.throwIfAborted();
      for (let row = 0; row < part.ids.length; row++) {
        const isLeftOut = !batch.take(part, row, run, chains.get(run.run) ?? []);
        if (isLeftOut) leftOut.set(run.run, (leftOut.get(run.run) ?? 0) + 1);
        if (!batch.isFull) continue;
        yield close(run.model.dimension);
        batch = new OpenBatch();
      }
    }
  }
  const [last] = runs;
  if (last && !batch.isEmpty) yield close(last.model.dimension);
}

/** Each run's chain: the run that has no other before it, all that continue it, and their retries. */
export function chainsOf(runs: readonly RunRequest[]): Map<string, readonly string[]> {
  const before = new Map(runs.map(({ run, since, retryOf }) => [run, since ?? retryOf]));
  const rootOf = (run: string): string => {
    const earlier = before.get(run);
    return earlier ? rootOf(earlier) : run;
  };
  const chains = Map.groupBy(
    runs.map(({ run }) => run),
    rootOf,
  );
  return new Map(runs.map(({ run }) => [run, chains.get(rootOf(run)) ?? [run]]));
}

class OpenBatch {
  readonly #rows = new Map<string, { image: IndexedImage; halves: Uint16Array }>();
  readonly #keys = new Set<string>();
  /** By chain: the ids that a run which continues it has rows of. */
  readonly #ids = new Map<readonly string[], Set<string>>();
  /** Keys of this batch's rows by chain and id. */
  readonly #keysById = new Map<readonly string[], Map<string, string>>();
  #taken = 0;
  #bytes = 0;

  get isEmpty(): boolean {
    return this.#taken === 0;
  }

  get isFull(): boolean {
    return this.#taken >= rowsPerFile || this.#bytes >= maxBatchBytes;
  }

  /** False where the row is ok and has no direction. */
  take(
    part: PartTable,
    row: number,
    { run, createdAt, since, retryOf }: RunRequest,
    chain: readonly string[],
  ): boolean {
    // The columns are of one length.
    const [id, uri] = [part.ids[row] as string, part.uris[row] as string];
    const key = imageKey(uri, id);
    this.#taken += 1;
    this.#keys.add(key);
    this.#rows.delete(key);
    if (since !== null || retryOf !== null) {
      valueIn(this.#ids, chain, () => new Set()).add(id);
      const pending = this.#keysById.get(chain)?.get(id);
      if (pending !== undefined && chain.includes(this.#rows.get(pending)?.image.run ?? ''))
        this.#rows.delete(pending);
    }
    if (part.statuses[row] !== 'ok') return true;

    const { dimension } = part.footer.model;
    const vector = part.embeddings.subarray(row * dimension, (row + 1) * dimension);
    if (!toUnit(vector)) return false;
    const { topK } = part.footer;
    const image: IndexedImage = {
      key,
      id,
      uri,
      etag: part.etags[row] as string,
      run,
      runAt: createdAt,
      // Ok rows have all of these.
      sha256: part.sha256s[row] as string,
      bytes: part.bytes[row] as number,
      width: part.widths[row] as number,
      height: part.heights[row] as number,
      format: part.formats[row] as string,
      labels: [...part.labels.subarray(row * topK, (row + 1) * topK)],
      scores: [...part.scores.subarray(row * topK, (row + 1) * topK)],
    };
    this.#rows.set(key, { image, halves: toHalf(vector) });
    valueIn(this.#keysById, chain, () => new Map()).set(id, key);
    this.#bytes += 2 * dimension + 1000;
    return true;
  }

  close(dimension: number): Omit<RowBatch, 'leftOut'> {
    const halves = new Uint16Array(this.#rows.size * dimension);
    const images: IndexedImage[] = [];
    for (const row of this.#rows.values()) {
      halves.set(row.halves, images.length * dimension);
      images.push(row.image);
    }
    return {
      keys: [...this.#keys],
      ids: Array.from(this.#ids, ([runs, ids]) => ({ runs, ids: [...ids] })),
      rows: { images, halves },
      taken: this.#taken,
    };
  }
}

function valueIn<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  const found = map.get(key) ?? make();
  map.set(key, found);
  return found;
}
