/**
 * An output's rows as one table over runs. A run that was planned `since` another holds rows only for what was new, changed
 * or gone; the rest of its images have their rows in the runs before. For each id the latest row counts, and a gone one counts
 * as none.
 *
 * All runs are ordered alike, by id, so they are joined as they stream; in memory are the ids of a few parts of each.
 */
import { pMapIterable } from 'p-map';
import { ConfigError, type FailureCode } from '../errors.ts';
import { openPart, type PartItems } from '../parts/footer.ts';
import type { Store } from '../stores/store.ts';
import { compareBytewise } from '../uri.ts';
import { findSuccess, listRuns, type RunRequest, readRequest } from './run.ts';
import {
  type FinishedRun,
  type NamedPart,
  openView,
  partsBehind,
  type View,
  type ViewPart,
  viewParts,
} from './view.ts';

/** A run and those before it, oldest first, each with its retries. */
export interface Table {
  views: View[];
  /** Rows that count. */
  rows: number;
}

/** A row that counts. */
export interface TableRow {
  id: string;
  uri: string;
  etag: string;
  /** As `PartTable.bytes`. */
  size: number;
  /** Null in ok rows. */
  error: FailureCode | null;
  /** The run that made it. */
  run: RunRequest;
}

/** Parts of one run that are read ahead. */
const readAhead = 8;

/** The run that is asked for, else the only one, or the last of the only chain of increments. Throws ConfigError 'no-run' or 'which-run'. */
export async function runOf(store: Store, asked?: unknown): Promise<string> {
  if (typeof asked === 'string') return asked;
  const requests = await Promise.all((await listRuns(store)).map((run) => readRequest(store, run)));
  const finished = await Promise.all(requests.map(({ run }) => findSuccess(store, run)));
  const continued = new Set(requests.filter((_, at) => finished[at]).map(({ since }) => since));
  // The rows of a retry are in the view of the run that it mends, those of a run in the table of the one that goes on from it.
  const runs = requests.flatMap(({ run, retryOf }) => (retryOf === null && !continued.has(run) ? [run] : []));
  const [only] = runs;
  if (only === undefined) throw new ConfigError('no-run', `no runs in ${store.uri}`);
  if (runs.length > 1)
    throw new ConfigError(
      'which-run',
      `${store.uri} holds ${runs.length} runs: choose with --run ${runs.join(' | ')}`,
    );
  return only;
}

/** Throws ConfigError 'no-run', 'not-planned' or 'not-finished' where the run, or one before it, is not whole. */
export async function openTable(store: Store, id: string): Promise<Table> {
  const views: View[] = [];
  for (let next: string | null = id; next !== null; ) {
    const view: View = await openView(store, next);
    views.unshift(view);
    next = view.run.since;
  }
  const { kept = 0, items = 0, gone = 0 } = views.at(-1)?.run ?? {};
  return { views, rows: kept + items - gone };
}

/** Every part that has a row that counts, run by run, with what retries replaced in it and what counts no longer. */
export async function* tableParts(store: Store, { views }: Table): AsyncGenerator<ViewPart> {
  for (const [at, view] of views.entries()) {
    const later = views.slice(at + 1).map((run) => openIds(store, run));
    for await (const part of viewParts(store, view)) {
      const dropped = later.length === 0 && part.gone === 0 ? [] : await droppedOf(store, part, later);
      if (dropped.length < part.rows) yield { ...part, dropped };
    }
  }
}

async function droppedOf(store: Store, { key, bytes }: ViewPart, later: readonly Ids[]): Promise<number[]> {
  const { ids, statuses } = await (await openPart(store, key, bytes)).readOutcomes();
  const dropped: number[] = [];
  for (const [row, id] of ids.entries()) {
    let isDropped = statuses[row] === 'gone';
    for (const run of later) isDropped = (await run.has(id)) || isDropped;
    if (isDropped) dropped.push(row);
  }
  return dropped;
}

/** The rows that count, in the order of their ids, behind `after`. */
export async function* tableRows(store: Store, { views }: Table, after?: string): AsyncGenerator<TableRow> {
  const runs = views.flatMap((view) => [view, ...view.retries]);
  const layers = runs.map((run) => ({
    run: run.run,
    rows: readRows(store, run, after),
    row: undefined as LayerRow,
  }));
  for (const layer of layers) layer.row = await nextOf(layer.rows);
  for (;;) {
    let latest: (typeof layers)[number] | undefined;
    for (const layer of layers) {
      if (layer.row && (!latest?.row || compareBytewise(layer.row.id, latest.row.id) <= 0)) latest = layer;
    }
    const row = latest?.row;
    if (!latest || !row) return;
    for (const layer of layers) if (layer.row?.id === row.id) layer.row = await nextOf(layer.rows);
    const { isGone, ...facts } = row;
    if (!isGone) yield { ...facts, run: latest.run };
  }
}

type LayerRow = (Omit<TableRow, 'run'> & { isGone: boolean }) | undefined;

async function nextOf(rows: AsyncGenerator<NonNullable<LayerRow>>): Promise<LayerRow> {
  const next = await rows.next();
  return next.done ? undefined : next.value;
}

async function* readRows(
  store: Store,
  run: FinishedRun,
  after: string | undefined,
): AsyncGenerator<NonNullable<LayerRow>> {
  const parts = await partsBehind(store, run, after);
  const read = async (part: NamedPart): Promise<PartItems> =>
    (await openPart(store, part.key, part.bytes)).readItems();
  for await (const { ids, uris, etags, bytes, statuses, errors } of pMapIterable(parts, read, {
    concurrency: readAhead,
  })) {
    for (const [row, id] of ids.entries()) {
      if (after !== undefined && compareBytewise(id, after) <= 0) continue;
      // The columns are of one length.
      const [uri, etag, size] = [uris[row] as string, etags[row] as string, bytes[row] as number];
      yield { id, uri, etag, size, error: errors[row] ?? null, isGone: statuses[row] === 'gone' };
    }
  }
}

interface Ids {
  /** Whether a run has a row of an id; to be asked in order. */
  has(id: string): Promise<boolean>;
}

function openIds(store: Store, run: FinishedRun): Ids {
  const rows = readRows(store, run, undefined);
  let row: LayerRow;
  let isOpen = false;
  return {
    async has(id) {
      if (!isOpen) row = await nextOf(rows);
      isOpen = true;
      while (row && compareBytewise(row.id, id) < 0) row = await nextOf(rows);
      return row?.id === id;
    },
  };
}
