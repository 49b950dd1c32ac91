/**
 * The step "index": the rows that count of all finished runs of one fingerprint become a table that can be searched.
 *
 * The life of a build: (1) take the lease; (2) find what the newest generation does not hold; (3) put its table's newest
 * version back to the one that this generation names, as a build that was killed may have left others behind it; (4) put the
 * rows in; (5) check that nobody else wrote; (6) create the next generation: now it is visible; (7) release the lease. A build
 * that ends before (6) was not.
 */
import { ConfigError } from '../errors.ts';
import { type RunRequest, readSuccess } from '../run.ts';
import type { S3Options } from '../s3-client.ts';
import type { Store } from '../stores/store.ts';
import { version as lensmill } from '../version.ts';
import { ImageTable, type TablePlace } from './lance.ts';
import { type IndexLease, type LeaseOptions, takeLease } from './lease.ts';
import { createRecord, findRecord, finishedRuns } from './record.ts';
import { chainsOf, goingOf, type RowBatch, rowBatches } from './rows.ts';
import type { IndexRecord } from './search-index.ts';

export interface BuildOptions {
  fingerprint: string;
  s3: S3Options;
  /** From the parts of all runs, whatever index there is. */
  rebuild?: boolean;
  lease?: LeaseOptions;
  onProgress?: (progress: BuildProgress) => void;
  signal?: AbortSignal | undefined;
}

export interface BuildProgress {
  phase: 'rows' | 'index';
  /** Rows of parts. */
  done: number;
  total: number;
}

export interface Build {
  /** The newest generation now. */
  record: IndexRecord;
  /** False where it held every finished run already. */
  changed: boolean;
  /** 'rebuilt': the runs that were in it are not the first of those that now count, or it was asked for. */
  how: 'built' | 'extended' | 'rebuilt' | 'unchanged';
}

/**
 * Brings the index of a fingerprint up to date. The store must be probed.
 * Throws ConfigError: 'no-run', 'index-busy'; Error where another process wrote to the table, or a part is damaged.
 */
export async function buildIndex(store: Store, options: BuildOptions): Promise<Build> {
  const { fingerprint, signal } = options;
  const lease = await takeLease(store, fingerprint, options.lease);
  try {
    const runs = await finishedRuns(store, fingerprint);
    const [{ model } = noRuns(store, fingerprint)] = runs;
    const record = await findRecord(store, fingerprint);
    const plan = planBuild(record, runs, options.rebuild ?? false);
    if (record && plan.how === 'unchanged') return { record, changed: false, how: 'unchanged' };

    const place = { output: store.uri, fingerprint, s3: options.s3 };
    const base = plan.how === 'extended' ? record : undefined;
    const writer = await TableWriter.open(place, base, lease, model.dimension);
    try {
      const leftOut = await putRows(store, runs, plan.runs, writer, options);
      const next: IndexRecord = {
        v: 1,
        generation: (record?.generation ?? 0) + 1,
        model,
        images: writer.rows,
        leftOut: (base?.leftOut ?? 0) + leftOut,
        runs: runs.map(({ run }) => run),
        kind: 'exact',
        parameters: {},
        version: await writer.finish(),
        builtAt: new Date().toISOString(),
        lensmill,
      };
      signal?.throwIfAborted();
      lease.check();
      if (!(await createRecord(store, next)))
        throw new Error(`${store.uri}: another process built the index meanwhile`);
      return { record: next, changed: true, how: plan.how };
    } finally {
      writer.close();
    }
  } finally {
    await lease.release();
  }
}

function noRuns(store: Store, fingerprint: string): never {
  throw new ConfigError(
    'no-run',
    `no finished run of the model ${fingerprint.slice(0, 16)} in ${store.uri}: \`lensmill status --output ${store.uri}\` lists its runs`,
  );
}

interface Plan {
  how: Build['how'];
  /** What is to be put in, in order. */
  runs: readonly RunRequest[];
}

/**
 * A run that was finished late counts before others that are in the index already: these are put in once more behind it, which
 * comes to the same as if all had come in their order, for the last that speaks of an image decides.
 */
function planBuild(record: IndexRecord | undefined, runs: readonly RunRequest[], rebuild: boolean): Plan {
  if (!record) return { how: 'built', runs };
  const first = runs.findIndex(({ run }, at) => run !== record.runs[at]);
  const isWhole = record.runs.every((held) => runs.some(({ run }) => run === held));
  if (rebuild || first === 0 || !isWhole) return { how: 'rebuilt', runs };
  return first < 0 ? { how: 'unchanged', runs: [] } : { how: 'extended', runs: runs.slice(first) };
}

/** Gives how many rows had an embedding without a direction. */
async function putRows(
  store: Store,
  runs: readonly RunRequest[],
  wanted: readonly RunRequest[],
  writer: TableWriter,
  { onProgress, signal }: BuildOptions,
): Promise<number> {
  let total = 0;
  for (const { run } of wanted) total += (await readSuccess(store, run)).items;
  let done = 0;
  let leftOut = 0;
  onProgress?.({ phase: 'rows', done, total });
  for await (const batch of rowBatches(store, wanted, chainsOf(runs), signal)) {
    await writer.put(batch);
    done += batch.taken;
    leftOut += batch.leftOut;
    onProgress?.({ phase: 'rows', done, total });
  }
  return leftOut;
}

/** The only writer of a table, which watches that it stays so. */
class TableWriter {
  readonly #table: ImageTable;
  readonly #lease: IndexLease;
  readonly #dimension: number;
  #version: number;
  /** Rows as reckoned. */
  rows: number;

  private constructor(
    table: ImageTable,
    lease: IndexLease,
    dimension: number,
    version: number,
    rows: number,
  ) {
    this.#table = table;
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
      const { version, rows } = await this.#table.remove(going);
      this.#advance(version, rows === 0 ? [0, 1] : [1]);
      this.rows -= rows;
    }
    if (batch.rows.images.length === 0) return;
    this.#lease.check();
    this.#advance(await this.#table.append(batch.rows, this.#dimension), [1]);
    this.rows += batch.rows.images.length;
  }

  /** The version that holds all. */
  async finish(): Promise<number> {
    const [version, rows] = [await this.#table.version(), await this.#table.count()];
    this.#advance(version, [0]);
    if (rows !== this.rows)
      throw new Error(`the index's table has ${rows} rows, not ${this.rows}; this is a bug`);
    return version;
  }

  close(): void {
    this.#table.close();
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
