/** A part in which rows of other parts stand in the place of some of its own, and others are left out. */

import type { RetriedRow, ViewPart } from '../runs/view.ts';
import type { Store } from '../stores/store.ts';
import type { Item, Outcome, ShardRows } from '../types.ts';
import { encodePart, type PartTable, readStoredPart } from './part.ts';
import { extrasName, numbersAt, rowShape } from './row-extras.ts';

/** Reads the parts of retries, each once: they are asked for in order. */
export function openRetriedParts(store: Pick<Store, 'read'>): (row: RetriedRow) => Promise<PartTable> {
  const current = new Map<string, { key: string; table: Promise<PartTable> }>();
  return ({ retry, part }) => {
    const known = current.get(retry.run.run);
    if (known?.key === part.key) return known.table;
    const table = readStoredPart(store, part.key);
    current.set(retry.run.run, { key: part.key, table });
    return table;
  };
}

export function openSplicer(
  store: Pick<Store, 'read'>,
): (part: PartTable, changes: Pick<ViewPart, 'replaced' | 'dropped'>) => Promise<Splice> {
  const partOf = openRetriedParts(store);
  return async (part, { replaced, dropped }) => {
    const rows = shardRowsOf(part);
    const from = new Set<PartTable>();
    for (const { row, id, by } of replaced) {
      const table = await partOf(by);
      throwIfOther(part, table, by.part.key);
      if (table.ids[by.row] !== id || part.ids[row] !== id)
        throw new Error(`${by.part.key}: row ${by.row} is ${table.ids[by.row]}, expected ${id}`);
      copyRow(table, by.row, rows, row);
      from.add(table);
    }
    const { footer } = part;
    const options = { dimension: footer.model.dimension, topK: footer.topK, embeddingType: footer.embedding };
    return { bytes: encodePart(without(rows, dropped, rowShape(footer)), footer, options), from: [...from] };
  };
}

export interface Splice {
  /** A Parquet object with the provenance of the part that it began as, and counts of its own. */
  bytes: Uint8Array;
  /** The parts that gave it rows. */
  from: PartTable[];
}

/** Rows of different kinds are never mixed. */
function throwIfOther({ footer: ours }: PartTable, { footer: theirs }: PartTable, key: string): void {
  const isSame =
    theirs.fingerprint === ours.fingerprint &&
    theirs.topK === ours.topK &&
    theirs.embedding === ours.embedding &&
    extrasName(theirs) === extrasName(ours);
  if (isSame) return;
  throw new Error(`${key} is by model ${kindOf(theirs)}, not ${kindOf(ours)}`);
}

function kindOf(footer: PartTable['footer']): string {
  const { fingerprint, topK, embedding } = footer;
  return [fingerprint, `top ${topK}`, embedding, extrasName(footer)].filter(Boolean).join(', ');
}

type Rows = ShardRows & { items: Item[]; outcomes: Outcome[] };

function shardRowsOf(part: PartTable): Rows {
  const { dimension, topK } = rowShape(part.footer);
  const rows: Rows = {
    items: part.ids.map((_, row) => itemOf(part, row)),
    outcomes: part.ids.map((_, row) => outcomeOf(part, row)),
    embeddings: part.embeddings,
    scores: part.scores,
    labels: part.labels,
  };
  if (!extrasName(part.footer)) return rows;
  rows.embeddings = new Float32Array(part.ids.length * dimension);
  rows.scores = new Float32Array(part.ids.length * topK);
  rows.labels = new Int32Array(part.ids.length * topK);
  for (const row of part.ids.keys()) putNumbers(part, row, rows, row);
  return rows;
}

function copyRow(from: PartTable, at: number, to: Rows, row: number): void {
  to.items[row] = itemOf(from, at);
  to.outcomes[row] = outcomeOf(from, at);
  putNumbers(from, at, to, row);
}

function putNumbers(from: PartTable, at: number, to: Rows, row: number): void {
  const { embedding, scores, labels } = numbersAt(from, at);
  to.embeddings.set(embedding, row * embedding.length);
  to.scores.set(scores, row * scores.length);
  to.labels.set(labels, row * labels.length);
}

function without(
  rows: Rows,
  dropped: readonly number[],
  { dimension, topK }: { dimension: number; topK: number },
): ShardRows {
  if (dropped.length === 0) return rows;
  const out = new Set(dropped);
  const kept = rows.items.flatMap((_, row) => (out.has(row) ? [] : [row]));
  const rest: Rows = {
    items: kept.map((row) => rows.items[row] as Item),
    outcomes: kept.map((row) => rows.outcomes[row] as Outcome),
    embeddings: new Float32Array(kept.length * dimension),
    scores: new Float32Array(kept.length * topK),
    labels: new Int32Array(kept.length * topK),
  };
  for (const [at, row] of kept.entries()) {
    rest.embeddings.set(rows.embeddings.subarray(row * dimension, (row + 1) * dimension), at * dimension);
    rest.scores.set(rows.scores.subarray(row * topK, (row + 1) * topK), at * topK);
    rest.labels.set(rows.labels.subarray(row * topK, (row + 1) * topK), at * topK);
  }
  return rest;
}

/** The item of a part's row, as its plan had it, but for where it lies in an archive. */
function itemOf(part: PartTable, row: number): Item {
  const extra = part.extras[row];
  return {
    id: part.ids[row] as string,
    uri: part.uris[row] as string,
    etag: part.etags[row] as string,
    size: part.bytes[row] as number,
    ...(extra && { extra: JSON.parse(extra) }),
  };
}

function outcomeOf(part: PartTable, row: number): Outcome {
  if (part.statuses[row] === 'gone') return { status: 'gone' };
  const sha256 = part.sha256s[row];
  const [width, height, format] = [part.widths[row], part.heights[row], part.formats[row]];
  const bytes = sha256 ? { sha256, bytes: part.bytes[row] as number } : {};
  const facts = { ...(width && { width }), ...(height && { height }), ...(format && { format }) };
  const error = part.errors[row];
  if (error) return { status: 'failed', error, message: part.messages[row] ?? '', ...bytes, ...facts };
  return { status: 'ok', ...bytes, ...facts } as Outcome; // encodePart wrote an ok row with all of them
}
