/**
 * The door to LanceDB: the table of one index, on `file://` or `s3://`. A table is opened at one version and stays there for
 * readers; a builder's goes on with its own commits. Rows are Arrow batches (arrow.ts); predicates are SQL (filter.ts).
 */
import type { Connection, Table } from '@lancedb/lancedb';
import { indexPrefix, indexTable } from '../layout.ts';
import type { S3Options } from '../s3/client.ts';
import { pathOfUri, schemeOf } from '../uri.ts';
import { type Batch, columnOf, encodeImages, type ImageRows } from './arrow.ts';
import { explainLanceError, isMissing } from './lance-errors.ts';
import { s3Access } from './s3-access.ts';

/** Where a table lies, and how to get there. */
export interface TablePlace {
  /** URI of an output. */
  output: string;
  fingerprint: string;
  s3: S3Options;
}

export interface Nearest {
  /** [dimension] */
  vector: Float32Array;
  k: number;
  where?: string | undefined;
  /** All rows are compared, whatever index there is. */
  exact: boolean;
  /** Of an index: partitions looked into, and how many times k candidates are compared by their stored embeddings. */
  nprobes?: number | undefined;
  refineFactor?: number | undefined;
}

export interface Selection {
  columns: readonly string[];
  where?: string | undefined;
  limit?: number | undefined;
  orderBy?: string | undefined;
}

/** Credentials that end sooner than this are asked for anew, and the table is opened with them. */
const renewBeforeMs = 300_000;

const column = 'vector';
const vectorIndex = 'vector_idx';

/** Of k-means, as much as it takes: with 256 a partition and 50 rounds it takes 3 times as long, and recall is the same. */
const training = { sampleRate: 64, maxIterations: 20 };

export class ImageTable {
  readonly #place: TablePlace;
  #opened: Opened | undefined;
  /** A reader's. */
  readonly #version: number | undefined;

  private constructor(place: TablePlace, opened: Opened, version?: number) {
    this.#place = place;
    this.#opened = opened;
    this.#version = version;
  }

  /** At one version, for reading; `undefined` where there is no such version: cleaned up since its record was read. */
  static async openVersion(place: TablePlace, version: number): Promise<ImageTable | undefined> {
    const opened = await openLance(place);
    try {
      await opened.table?.checkout(version);
    } catch (error) {
      closeLance(opened);
      if (isMissing(error)) return undefined;
      throw error;
    }
    return opened.table && new ImageTable(place, opened, version);
  }

  /** For its one builder; `undefined` where there is none yet. */
  static async openLatest(place: TablePlace): Promise<ImageTable | undefined> {
    const opened = await openLance(place);
    return opened.table && new ImageTable(place, opened);
  }

  /** Takes the place of a table that is there; its versions stay. */
  static async create(place: TablePlace, rows: ImageRows, dimension: number): Promise<ImageTable> {
    const opened = await openLance(place);
    opened.table?.close();
    try {
      const images = encodeImages(rows, dimension);
      const table = await opened.connection.createTable(indexTable, images, { mode: 'overwrite' });
      return new ImageTable(place, { ...opened, table });
    } catch (error) {
      closeLance(opened);
      throw explainLanceError(error, place.output);
    }
  }

  async version(): Promise<number> {
    return this.#act((table) => table.version());
  }

  /** Makes `version` the newest again. */
  async restore(version: number): Promise<void> {
    await this.#act(async (table) => {
      await table.checkout(version);
      await table.restore();
      await table.checkoutLatest();
    });
  }

  /** Gives the version that it made. */
  async append(rows: ImageRows, dimension: number): Promise<number> {
    const { version } = await this.#act((table) => table.add(encodeImages(rows, dimension)));
    return version;
  }

  async remove(where: string): Promise<{ version: number; rows: number }> {
    const { version, numDeletedRows } = await this.#act((table) => table.delete(where));
    return { version, rows: numDeletedRows };
  }

  async count(where?: string): Promise<number> {
    return this.#act((table) => table.countRows(where));
  }

  /**
   * Makes an index of the vectors, in place of one that is there: partitions by k-means, and in them codes of `bits` a number.
   * CPU seconds for 50,000 vectors of 2048: 6 with 1 bit, 14 with 4.
   */
  async indexVectors({ partitions, bits }: { partitions: number; bits: number }): Promise<void> {
    const { Index } = await import('@lancedb/lancedb');
    const shape = { numPartitions: partitions, numBits: bits, distanceType: 'cosine' as const };
    const config = Index.ivfRq({ ...shape, ...training });
    await this.#act((table) => table.createIndex(column, { config, name: vectorIndex, replace: true }));
  }

  async dropVectorIndex(): Promise<void> {
    await this.#act(async (table) => {
      const indexes = await table.listIndices();
      if (indexes.some(({ name }) => name === vectorIndex)) await table.dropIndex(vectorIndex);
    });
  }

  /** Of what rows are looked up and filtered by. */
  async indexColumns(): Promise<void> {
    const { Index } = await import('@lancedb/lancedb');
    await this.#act(async (table) => {
      for (const name of ['key', 'id', 'uri', 'bytes', 'side', 'run_at'])
        await table.createIndex(name, { config: Index.btree(), replace: true });
      await table.createIndex('run', { config: Index.bitmap(), replace: true });
      await table.createIndex('labels', { config: Index.labelList(), replace: true });
    });
  }

  /** Rows that the vectors' index does not hold, so that each is compared in every search; files that rows lie in. */
  async facts(): Promise<{ loose: number; files: number }> {
    const [index, { fragmentStats }] = await this.#act((table) =>
      Promise.all([table.indexStats(vectorIndex), table.stats()]),
    );
    return { loose: index?.numUnindexedRows ?? 0, files: fragmentStats.numFragments };
  }

  /** Joins small files and brings all indexes up to date. Versions made before `oldest` go, but never the newest. */
  async optimize(oldest: Date): Promise<void> {
    await this.#act((table) => table.optimize({ cleanupOlderThan: oldest }));
  }

  /** Rows whose vectors are closest, with `_distance`: 1 - cosine. */
  async *nearest(request: Nearest, columns: readonly string[]): AsyncGenerator<Batch> {
    const { vector, k, where, exact, nprobes, refineFactor } = request;
    const table = await this.#act(async (opened) => opened);
    let query = table.query().nearestTo(vector).column(column).distanceType('cosine');
    query = query.limit(k).select([...columns, '_distance']);
    if (where !== undefined) query = query.where(where);
    if (exact) query = query.bypassVectorIndex();
    if (nprobes !== undefined) query = query.nprobes(nprobes);
    if (refineFactor !== undefined) query = query.refineFactor(refineFactor);
    yield* this.#batches(query);
  }

  /** Some columns of the rows that fit. */
  async *select({ columns, where, limit, orderBy }: Selection): AsyncGenerator<Batch> {
    const table = await this.#act(async (opened) => opened);
    // Lance cannot order by a column that it does not give.
    let query = table.query().select([...new Set([...columns, ...(orderBy === undefined ? [] : [orderBy])])]);
    if (where !== undefined) query = query.where(where);
    if (orderBy !== undefined) query = query.orderBy({ columnName: orderBy });
    if (limit !== undefined) query = query.limit(limit);
    yield* this.#batches(query);
  }

  /** One column's value in every row that fits. */
  async *values(name: string, where?: string): AsyncGenerator<unknown> {
    for await (const batch of this.select({ columns: [name], where })) {
      const value = columnOf(batch, name);
      for (let row = 0; row < batch.numRows; row++) yield value(row);
    }
  }

  /** Safe to call twice. */
  close(): void {
    if (this.#opened) closeLance(this.#opened);
    this.#opened = undefined;
  }

  async #act<T>(act: (table: Table) => Promise<T>): Promise<T> {
    try {
      return await act(await this.#table());
    } catch (error) {
      throw explainLanceError(error, this.#place.output);
    }
  }

  async *#batches(query: AsyncIterable<Batch>): AsyncGenerator<Batch> {
    try {
      yield* query;
    } catch (error) {
      throw explainLanceError(error, this.#place.output);
    }
  }

  async #table(): Promise<Table> {
    if (!this.#opened) throw new Error('the index is closed; this is a bug');
    if (this.#opened.renewAt !== undefined && Date.now() > this.#opened.renewAt) {
      const opened = await openLance(this.#place);
      if (this.#version !== undefined) await opened.table?.checkout(this.#version);
      // Queries that run hold the table that they began with.
      this.#opened = opened;
    }
    if (!this.#opened.table) throw new Error(`${this.#place.output}: the index's table is gone`);
    return this.#opened.table;
  }
}

interface Opened {
  connection: Connection;
  table: Table | undefined;
  /** As `Date.now()`. */
  renewAt: number | undefined;
}

async function openLance({ output, fingerprint, s3 }: TablePlace): Promise<Opened> {
  // At the level below, it warns of each table that it is about to make.
  process.env.LANCEDB_LOG ??= 'error';
  const { connect } = await import('@lancedb/lancedb');
  const isS3 = schemeOf(output) === 's3';
  const folder = indexPrefix(fingerprint).replace(/\/$/, '');
  const { storageOptions, expiresAt } = isS3 ? await s3Access(output, s3) : {};
  // A path is taken as it is, a URI is parsed: '#' and '%' of a prefix would be more than characters.
  const uri = `${isS3 ? encodeURI(output).replace(/[?#]/g, encodeURIComponent) : pathOfUri(output)}/${folder}`;
  const renewAt = expiresAt && expiresAt - renewBeforeMs;
  try {
    const connection = await connect(uri, { ...(storageOptions && { storageOptions }) });
    try {
      return { connection, table: await connection.openTable(indexTable), renewAt };
    } catch (error) {
      if (isMissing(error)) return { connection, table: undefined, renewAt };
      connection.close();
      throw error;
    }
  } catch (error) {
    throw explainLanceError(error, output);
  }
}

function closeLance({ connection, table }: Opened): void {
  table?.close();
  connection.close();
}
