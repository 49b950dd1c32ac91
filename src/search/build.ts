/**
 * The step "index": the rows that count of all finished runs of one fingerprint become a table that can be searched.
 *
 * The life of a build: (1) take the lease; (2) find what the newest generation does not hold; (3) put its table's newest
 * version back to the one that this generation names, as a build that was killed may have left others behind it; (4) put the
 * rows in; (5) check that nobody else wrote; (6) create the next generation: now it is visible; (7) release the lease. A build
 * that ends before (6) was not.
 */
import { ConfigError } from '../errors.ts';
import { type RunRequest, readSuccess } from '../runs/run.ts';
import type { S3Options } from '../s3/client.ts';
import type { Store } from '../stores/store.ts';
import type { ModelIdentity } from '../types.ts';
import { version as lensmill } from '../version.ts';
import { fitIndex } from './fit.ts';
import type { ImageTable } from './lance.ts';
import { type IndexLease, type LeaseOptions, takeLease } from './lease.ts';
import { createRecord, findRecord, finishedRuns, otherLayout } from './record.ts';
import { chainsOf, type RowBatch, rowBatches } from './rows.ts';
import { type IndexRecord, tableLayout } from './search-index.ts';
import { TableWriter } from './writer.ts';

export interface BuildOptions {
  fingerprint: string;
  s3: S3Options;
  /** From the parts of all runs, whatever index there is. */
  rebuild?: boolean;
  lease?: LeaseOptions;
  onProgress?: (progress: BuildProgress) => void;
  /** The index is built, and files that it no longer needs stay: why, and what to do about it. */
  onUntidied?: ((notice: string) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface BuildProgress {
  /** 'images': whose rows are put in; 'comparisons': images that some were compared with, to know what the index should find. */
  what: 'images' | 'comparisons';
  done: number;
  total: number;
}

export interface Build {
  /** The newest generation now. */
  record: IndexRecord;
  /** False where it held every finished run already. */
  changed: boolean;
  /** 'rebuilt': the runs that were in it are not the first of those that now count, its layout is an old one, or it was asked for. */
  how: 'built' | 'extended' | 'rebuilt' | 'unchanged';
}

/** What a reader has open stays for this long after it was replaced, at least. */
const keptMs = 86_400_000;

/**
 * Brings the index of a fingerprint up to date. The store must be probed.
 * Throws ConfigError: 'no-run', 'index-busy', 'other-version'; Error where another process wrote to the table, or a part is damaged.
 */
export async function buildIndex(store: Store, options: BuildOptions): Promise<Build> {
  const { fingerprint } = options;
  const before = await planBuild(store, options);
  if (before.how === 'unchanged') return { record: before.record, changed: false, how: before.how };

  const lease = await takeLease(store, fingerprint, options.lease);
  try {
    // Who had the lease until now may have done it.
    const plan = await planBuild(store, options);
    if (plan.how === 'unchanged') return { record: plan.record, changed: false, how: plan.how };
    const signal = AbortSignal.any([lease.lost, ...(options.signal ? [options.signal] : [])]);
    const base = plan.how === 'extended' ? plan.record : undefined;
    const record = await writeGeneration(store, lease, {
      ...plan,
      ...options,
      base,
      signal,
      total: await countItems(store, plan.runs),
      batches: rowBatches(store, plan.runs, chainsOf(plan.allRuns), signal),
    });
    return { record, changed: true, how: plan.how };
  } finally {
    await lease.release();
  }
}

export interface Writing extends Pick<BuildOptions, 's3' | 'onProgress' | 'onUntidied' | 'signal'> {
  model: ModelIdentity;
  how: Exclude<Build['how'], 'unchanged'>;
  /** The newest generation, if there is one. */
  record: IndexRecord | undefined;
  /** That, where rows are added to it. */
  base: IndexRecord | undefined;
  /** All whose rows are in it then. */
  allRuns: readonly Pick<RunRequest, 'run'>[];
  batches: AsyncIterable<RowBatch>;
  /** Rows that the batches are made of. */
  total: number;
}

/** Puts rows into a table, gives it the index that pays, and makes that visible. */
export async function writeGeneration(
  store: Store,
  lease: IndexLease,
  writing: Writing,
): Promise<IndexRecord> {
  const { model, how, record, base, allRuns, batches, total, s3, onProgress, onUntidied, signal } = writing;
  const place = { output: store.uri, fingerprint: model.fingerprint, s3 };
  const writer = await TableWriter.open(place, base, lease, model.dimension);
  try {
    let done = 0;
    const leftOut = { ...base?.leftOut };
    onProgress?.({ what: 'images', done, total });
    for await (const batch of batches) {
      await writer.put(batch);
      done += batch.taken;
      Object.assign(leftOut, batch.leftOut);
      onProgress?.({ what: 'images', done, total });
    }
    const draft = {
      v: tableLayout,
      generation: (record?.generation ?? 0) + 1,
      model,
      images: writer.rows,
      leftOut,
      runs: allRuns.map(({ run }) => run),
      version: await writer.finish(),
      builtAt: new Date().toISOString(),
      lensmill,
    };
    const { isTidied, ...shape } = await fitIndex(writer, draft, base, {
      tidy: how === 'rebuilt',
      onProgress: (done, total) => onProgress?.({ what: 'comparisons', done, total }),
      signal,
    });
    const next: IndexRecord = { ...draft, ...shape, version: await writer.finish() };
    signal?.throwIfAborted();
    lease.check();
    if (!(await createRecord(store, next)))
      throw new Error(`the index of ${store.uri} was built by another process meanwhile: build it again`);
    if (isTidied) await tidyUp(writer.table, { oldest: new Date(Date.now() - keptMs), onUntidied });
    return next;
  } finally {
    writer.close();
  }
}

/** Who builds an index need not be allowed to delete: then what was replaced stays. */
export async function tidyUp(
  table: ImageTable,
  { oldest, onUntidied }: Pick<BuildOptions, 'onUntidied'> & { oldest: Date },
): Promise<void> {
  try {
    await table.optimize(oldest);
  } catch (error) {
    if (!(error instanceof ConfigError && error.code === 'may-not-delete')) throw error;
    onUntidied?.(error.message);
  }
}

type Plan = { model: ModelIdentity; allRuns: RunRequest[] } & (
  | { how: 'unchanged'; record: IndexRecord }
  | {
      how: Exclude<Build['how'], 'unchanged'>;
      record: IndexRecord | undefined;
      /** What is to be put in, in order. */
      runs: RunRequest[];
    }
);

/**
 * A run that was finished late counts before others that are in the index already: these are put in once more behind it, which
 * comes to the same as if all had come in their order, for the last that speaks of an image decides.
 */
async function planBuild(store: Store, { fingerprint, rebuild = false }: BuildOptions): Promise<Plan> {
  const allRuns = await finishedRuns(store, fingerprint);
  const [first] = allRuns;
  if (!first) {
    throw new ConfigError(
      'no-run',
      `no finished run of the model ${fingerprint.slice(0, 16)} in ${store.uri}: \`lensmill status --output ${store.uri}\` lists its runs`,
    );
  }
  const { model } = first;
  const record = await findRecord(store, fingerprint);
  if (!record) return { model, allRuns, record, how: 'built', runs: allRuns };
  const at = allRuns.findIndex(({ run }, place) => run !== record.runs[place]);
  const isWhole = record.runs.every((held) => allRuns.some(({ run }) => run === held));
  if (record.v > tableLayout && !rebuild) throw otherLayout(store, record);
  if (rebuild || record.v !== tableLayout || at === 0 || !isWhole)
    return { model, allRuns, record, how: 'rebuilt', runs: allRuns };
  if (at < 0) return { model, allRuns, record, how: 'unchanged' };
  return { model, allRuns, record, how: 'extended', runs: allRuns.slice(at) };
}

async function countItems(store: Store, runs: readonly RunRequest[]): Promise<number> {
  let items = 0;
  for (const { run } of runs) items += (await readSuccess(store, run)).items;
  return items;
}
