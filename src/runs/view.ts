/**
 * A run as its readers see it: its own rows, and in place of those that failed the rows of its retries. A retry is a finished
 * run of its own that names this one (`retryOf`); it did again what still failed when it was planned, so of several the
 * latest row counts, and no row is lost or doubled.
 *
 * Run and retries are ordered alike, by id, so they are joined as they stream: in memory are the ids of a few parts, and of a
 * part only its text is read, and only where rows of it failed.
 */
import { pMapIterable } from 'p-map';
import type { FailureCode } from '../errors.ts';
import { retryNumber } from '../layout.ts';
import { shardBehind } from '../page.ts';
import { openPart, type PartFooter, type PartOutcomes } from '../parts/footer.ts';
import type { Store } from '../stores/store.ts';
import { compareBytewise } from '../uri.ts';
import {
  findRequest,
  findRun,
  findSuccess,
  listRuns,
  type Run,
  readRun,
  readSuccess,
  type Success,
} from './run.ts';

/** A run that is whole. */
export interface FinishedRun {
  run: Run;
  success: Success;
}

export interface View extends FinishedRun {
  /** Finished ones, oldest first. */
  retries: FinishedRun[];
  /** Retries that are claimed and not finished: no row of theirs is in the view. */
  unfinished: string[];
  /** Rows of the view: items = ok + failed. */
  ok: number;
  failed: number;
}

export type NamedPart = Success['parts'][number];

/** A row of a retry. */
export interface RetriedRow {
  retry: FinishedRun;
  part: NamedPart;
  row: number;
  /** Null where it is ok now. */
  error: FailureCode | null;
}

/** A row that failed in the run itself. */
export interface FailedRow {
  row: number;
  id: string;
  /** As it failed in the run. */
  error: FailureCode;
  /** The latest row that a retry made of it. */
  retried: RetriedRow | undefined;
}

/** Parts read ahead: a store answers in some tens of milliseconds, and of each part two reads are needed. */
const readAhead = 16;

/**
 * A run with its retries; with `until`, only with those before that one. Throws ConfigError 'no-run', 'not-planned' or
 * 'not-finished'.
 */
export async function openView(store: Store, id: string, until = Number.POSITIVE_INFINITY): Promise<View> {
  const success = await readSuccess(store, id);
  const view: View = {
    run: await readRun(store, id),
    success,
    retries: [],
    unfinished: [],
    ok: success.ok,
    failed: success.failed,
  };
  for (const retryId of await listRetries(store, id)) {
    if ((retryNumber(id, retryId) ?? 0) >= until) continue;
    const run = await findRun(store, retryId);
    const retried = run && (await findSuccess(store, retryId));
    if (!run || !retried) {
      view.unfinished.push(retryId);
      continue;
    }
    view.retries.push({ run, success: retried });
    view.ok += retried.ok;
    view.failed -= retried.ok;
  }
  return view;
}

/** A run's retries, finished or not, oldest first. */
export async function listRetries(store: Store, id: string): Promise<string[]> {
  const retries: { retry: string; n: number }[] = [];
  for (const retry of await listRuns(store, `${id}.retry-`)) {
    const n = retryNumber(id, retry);
    if (n !== undefined && (await findRequest(store, retry))?.retryOf === id) retries.push({ retry, n });
  }
  return retries.toSorted((a, b) => a.n - b.n).map(({ retry }) => retry);
}

export interface FailedRowsOptions {
  /** Only rows behind this id; some parts before it may come too. */
  after?: string | undefined;
  /** Parts whose footer says no are left out, and not read. */
  isWanted?: ((footer: PartFooter) => boolean) | undefined;
}

/** The parts that have failed rows, in order, with those rows and what became of them. */
export async function* failedRows(
  store: Store,
  view: View,
  { after, isWanted }: FailedRowsOptions = {},
): AsyncGenerator<{ part: NamedPart; rows: FailedRow[] }> {
  const seekers = await Promise.all(
    view.retries.map(async (retry) => seekerOf(store, retry, await partsBehind(store, retry, after))),
  );
  const parts = (await partsBehind(store, view, after)).filter(({ failed }) => failed > 0);
  for await (const { part, outcomes } of readOutcomes(store, parts, isWanted)) {
    const rows: FailedRow[] = [];
    for (const [row, id] of outcomes.ids.entries()) {
      const error = outcomes.errors[row];
      if (!error) continue;
      let retried: RetriedRow | undefined;
      for (const seek of seekers) retried = (await seek(id)) ?? retried;
      rows.push({ row, id, error, retried });
    }
    yield { part, rows };
  }
}

/** A part of the view. */
export interface ViewPart extends Pick<NamedPart, 'key' | 'shard' | 'rows' | 'bytes' | 'gone'> {
  replaced: ReplacedRow[];
  /** Rows that are no longer what counts: their image is gone, or a later run has done it again. */
  dropped: number[];
}

export interface ReplacedRow {
  row: number;
  id: string;
  by: RetriedRow;
}

/** Every part in order, with the rows that others replace; nothing is read where the run was never retried. */
export async function* viewParts(store: Store, view: View): AsyncGenerator<ViewPart> {
  const isRetried = view.retries.length > 0;
  const failed = failedRows(store, view);
  for (const { key, shard, rows, bytes, gone, failed: failedCount } of view.success.parts) {
    const next = isRetried && failedCount > 0 ? await failed.next() : undefined;
    const failedHere = next?.done === false ? next.value.rows : [];
    const replaced = failedHere.flatMap(({ row, id, retried }) =>
      retried ? [{ row, id, by: retried }] : [],
    );
    yield { key, shard, rows, bytes, gone, replaced, dropped: [] };
  }
}

/** Finds a retry's rows for ids that are asked in order; each part is read once. */
function seekerOf(
  store: Store,
  retry: FinishedRun,
  parts: readonly NamedPart[],
): (id: string) => Promise<RetriedRow | undefined> {
  const ahead = readOutcomes(store, parts)[Symbol.asyncIterator]();
  let current: { part: NamedPart; outcomes: PartOutcomes } | undefined;
  let row = 0;
  return async (id) => {
    for (;;) {
      if (!current) {
        const next = await ahead.next();
        if (next.done) return undefined;
        [current, row] = [next.value, 0];
      }
      const { ids, errors } = current.outcomes;
      while (row < ids.length && compareBytewise(ids[row] as string, id) < 0) row++;
      if (row < ids.length) {
        return ids[row] === id ? { retry, part: current.part, row, error: errors[row] ?? null } : undefined;
      }
      current = undefined;
    }
  };
}

/** The parts that may hold ids behind `after`. */
export async function partsBehind(
  store: Store,
  { run, success }: FinishedRun,
  after: string | undefined,
): Promise<readonly NamedPart[]> {
  return after === undefined ? success.parts : success.parts.slice(await shardBehind(store, run, after));
}

async function* readOutcomes(
  store: Store,
  parts: readonly NamedPart[],
  isWanted: (footer: PartFooter) => boolean = () => true,
): AsyncGenerator<{ part: NamedPart; outcomes: PartOutcomes }> {
  const read = async (part: NamedPart) => {
    const opened = await openPart(store, part.key, part.bytes);
    return isWanted(opened.footer) ? { part, outcomes: await opened.readOutcomes() } : undefined;
  };
  for await (const opened of pMapIterable(parts, read, { concurrency: readAhead })) if (opened) yield opened;
}
