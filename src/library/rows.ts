/** Rows one by one, as a program reads them. */
import { pMapIterable } from 'p-map';
import type { FailureCode } from '../errors.ts';
import { labelsOf } from '../models/labels.ts';
import { type PartTable, readStoredPart } from '../parts/part.ts';
import { openRetriedParts } from '../parts/splice.ts';
import { openItemFinder } from '../runs/find-item.ts';
import { openTable, type Table, tableParts } from '../runs/table.ts';
import type { ViewPart } from '../runs/view.ts';
import type { Store } from '../stores/store.ts';
import { namedLabels } from '../web/replies.ts';
import type { Label, OkRow, Row } from './types.ts';

/** Parts: 4 MB each, of 512 rows. */
const readAhead = 2;

/** The rows that count of a table, each a copy that holds no part in memory. */
export async function* readRows(store: Store, table: Table, signal?: AbortSignal): AsyncGenerator<Row> {
  const retriedPart = openRetriedParts(store);
  const read = async (part: ViewPart) => ({ part, rows: await readStoredPart(store, part.key) });
  for await (const { part, rows } of pMapIterable(tableParts(store, table), read, {
    concurrency: readAhead,
  })) {
    signal?.throwIfAborted();
    const dropped = new Set(part.dropped);
    const replaced = new Map(part.replaced.map(({ row, by }) => [row, by]));
    for (const row of rows.ids.keys()) {
      if (dropped.has(row)) continue;
      const by = replaced.get(row);
      yield by ? rowOf(await retriedPart(by), by.row) : rowOf(rows, row);
    }
  }
}

/** The row that counts of one image; `undefined` where there is none, or its source no longer has it. */
export async function readRow(store: Store, run: string, id: string): Promise<Row | undefined> {
  const { views } = await openTable(store, run);
  const finder = openItemFinder(store);
  // Whoever did it last is asked first.
  for (const { run, success } of views.flatMap((view) => [view, ...view.retries]).toReversed()) {
    const found = await finder.findIn(run, id);
    const part = found && success.parts[found.shard];
    if (!part) continue;
    const rows = await readStoredPart(store, part.key);
    const row = rows.ids.indexOf(id);
    if (row < 0) throw new Error(`${part.key} has no row of ${id}: lensmill verify ${run.run} says more`);
    return rows.statuses[row] === 'gone' ? undefined : rowOf(rows, row);
  }
  return undefined;
}

function rowOf(part: PartTable, row: number): Row {
  const { footer, extras } = part;
  const at = <T>(column: readonly T[]): T => column[row] as T; // columns are of one length
  const extra = extras[row];
  const facts = {
    id: at(part.ids),
    uri: at(part.uris),
    etag: at(part.etags),
    bytes: at(part.bytes),
    run: footer.run,
    extra: extra ? JSON.parse(extra) : null,
  };
  if (at(part.statuses) === 'failed') {
    // Failed rows have both.
    return {
      ...facts,
      status: 'failed',
      error: at(part.errors) as FailureCode,
      message: at(part.messages) ?? '',
    };
  }
  const { topK, model, head, features = [] } = footer;
  const listOf = <T extends Float32Array | Int32Array>(values: T, length: number): T =>
    values.slice(row * length, (row + 1) * length) as T; // slice keeps the kind of array
  const ranked = (labels: Int32Array, scores: Float32Array, k: number, names: readonly string[]): Label[] =>
    namedLabels({ labels: [...listOf(labels, k)], scores: [...listOf(scores, k)] }, names);
  return {
    ...facts,
    status: 'ok',
    // Null in failed rows only.
    sha256: at(part.sha256s) ?? '',
    width: at(part.widths) ?? 0,
    height: at(part.heights) ?? 0,
    format: at(part.formats) ?? '',
    labels: ranked(part.labels, part.scores, topK, labelsOf(model.classes)),
    embedding: listOf(part.embeddings, model.dimension),
    headLabels: head ? ranked(part.headLabels, part.headScores, head.topK, head.classes) : [],
    features: Object.fromEntries(
      features.map(({ layer, length }, at) => [layer, listOf(part.features[at] as Float32Array, length)]),
    ) satisfies OkRow['features'],
  };
}
