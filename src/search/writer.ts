/** The only writer of an index's table, which watches that it stays so. */
import { ConfigError } from '../errors.ts';
import { ImageTable, type TablePlace } from './lance.ts';
import type { IndexLease } from './lease.ts';
import { goingOf, type RowBatch } from './rows.ts';
import type { IndexRecord } from './search-index.ts';

/** Every commit of it is its own, or it throws. */
export class TableWriter {
  readonly table: ImageTable;
  readonly #lease: IndexLease;
  readonly #dimension: number;
  #version: number;
  /** Rows as reckoned. */
  rows: number;
  /** Rows that were put in. */
  added = 0;

  private constructor(
    table: ImageTable,
    lease: IndexLease,
    dimension: number,
    version: number,
    rows: number,
  ) {
    this.table = table;
    this.#lease = lease;
    this.#dimension = dimension;
    this.#version = version;
    this.rows = rows;
  }

  /** Goes on from a generation, or begins with an empty table. */
  static async open(
    place: TablePlace,
    base: IndexRecord | undefined,
    lease: IndexLease,
    dimension: number,
  ): Promise<TableWriter> {
    lease.check();
    if (!base) {
      const none = { images: [], halves: new Uint16Array() };
      const table = await ImageTable.create(place, none, dimension);
      return new TableWriter(table, lease, dimension, await table.version(), 0);
    }
    const table = await ImageTable.openLatest(place);
    if (!table) throw tableIsGone(place);
    if ((await table.version()) !== base.version) await table.restore(base.version);
    return new TableWriter(table, lease, dimension, await table.version(), base.images);
  }

  async put(batch: RowBatch): Promise<void> {
    const going = this.rows === 0 ? undefined : goingOf(batch);
    if (going !== undefined) {
      this.#lease.check();
      const { version, rows } = await this.table.remove(going);
      this.#advance(version, rows === 0 ? [0, 1] : [1]);
      this.rows -= rows;
    }
    if (batch.rows.images.length === 0) return;
    this.#lease.check();
    this.#advance(await this.table.append(batch.rows, this.#dimension), [1]);
    this.rows += batch.rows.images.length;
    this.added += batch.rows.images.length;
  }

  /** Does what changes no row, in as many commits as it takes. */
  async arrange(act: (table: ImageTable) => Promise<void>): Promise<void> {
    this.#lease.check();
    this.#advance(await this.table.version(), [0]);
    await act(this.table);
    this.#lease.check();
    this.#version = await this.table.version();
  }

  /** The version that holds all. */
  async finish(): Promise<number> {
    const [version, rows] = [await this.table.version(), await this.table.count()];
    this.#advance(version, [0]);
    if (rows !== this.rows)
      throw new Error(`the index's table has ${rows} rows, not ${this.rows}; this is a bug`);
    return version;
  }

  close(): void {
    this.table.close();
  }

  #advance(version: number, steps: readonly number[]): void {
    const found = version - this.#version;
    this.#version = version;
    if (!steps.includes(found))
      throw new Error(
        `another process wrote to the index's table: build it again; its version went on by ${found}`,
      );
  }
}

function tableIsGone({ output, fingerprint }: TablePlace): ConfigError {
  return new ConfigError(
    'no-index',
    `the table of the index ${fingerprint.slice(0, 16)} in ${output} is gone: \`lensmill build-index ${output} --rebuild\``,
  );
}
