/**
 * A shard's sheet: the plan's lines of its items and the rows that become of them, in memory that threads share. A lane reads lines
 * and writes what it learns of their images, an inference thread writes what the model makes of them, the writer thread
 * reads it all; from one to the other goes which rows of which sheet, and no row.
 *
 * What failed has no place here: failures are few, and text. They travel as messages.
 */

import type { Failure } from './errors.ts';
import { decodeItems } from './page.ts';
import type { PictureFormat } from './pixels/container.ts';
import type { BatchResult, ByteFacts, ImageFacts, Item, Outcome, ShardRows } from './types.ts';

/** Length of an embedding, and of the lists of scores and labels. */
export interface RowShape {
  dimension: number;
  topK: number;
}

/** A sheet as it is handed to another thread. */
export interface SheetMemory extends RowShape {
  memory: SharedArrayBuffer;
  rows: number;
}

export type FailedOutcome = { status: 'failed' } & Failure & Partial<ByteFacts> & Partial<ImageFacts>;

/** All columns are [rows × so many]; of a row that has not ended, and of one that is not ok, most hold anything. */
export interface Sheet {
  memory: SheetMemory;
  /** Its memory has gone to another sheet, and what stands there is that one's. */
  isOver: boolean;
  rows: number;
  embeddings: Float32Array;
  scores: Float32Array;
  labels: Int32Array;
  /** Where the row's bytes are in the table of bytes met (seen.ts); -1 where they are not. */
  places: Int32Array;
  /** The lines `[first, first + count)` of the plan. Throws where one is no item. */
  items(first: number, count: number): Item[];
  putOk(row: number, facts: ByteFacts & ImageFacts): void;
  putGone(row: number): void;
  /** `undefined` where the row is neither ok nor gone. */
  outcomeAt(row: number): Outcome | undefined;
}

/** In a byte a row; 0 where it has not ended, or failed. */
const [isOk, isGone] = [1, 2];
const formats: readonly string[] = ['jpeg', 'png', 'webp', 'gif', 'tiff', 'avif'] satisfies PictureFormat[];
const hashBytes = 32;

/** Opens a sheet that `Sheets` made, in any thread. */
export function openSheet(sheet: SheetMemory): Sheet {
  const columns = columnsOf(sheet);
  const { embeddings, scores, labels, places, sizes, widths, heights, statuses, kinds, hashes } = columns;
  return {
    memory: sheet,
    isOver: false,
    rows: sheet.rows,
    embeddings,
    scores,
    labels,
    places,
    items(first, count) {
      const start = columns.lineEnds[first - 1] ?? 0;
      const end = columns.lineEnds[first + count - 1] ?? 0;
      return decodeItems(columns.text.subarray(start, end), 'a line of the plan');
    },
    putOk(row, { sha256, bytes, width, height, format }) {
      const kind = formats.indexOf(format);
      if (kind < 0) throw new Error(`'${format}' is no format of ours: this is a bug`);
      hashes.write(sha256, row * hashBytes, hashBytes, 'hex');
      sizes[row] = bytes;
      widths[row] = width;
      heights[row] = height;
      kinds[row] = kind;
      statuses[row] = isOk;
    },
    putGone(row) {
      statuses[row] = isGone;
    },
    outcomeAt(row) {
      if (statuses[row] === isGone) return { status: 'gone' };
      if (statuses[row] !== isOk) return undefined;
      return {
        status: 'ok',
        sha256: hashes.toString('hex', row * hashBytes, (row + 1) * hashBytes),
        bytes: sizes[row] ?? 0,
        width: widths[row] ?? 0,
        height: heights[row] ?? 0,
        format: formats[kinds[row] ?? -1] ?? '',
      };
    },
  };
}

/** In the order of their alignment; behind them lie the lines. */
function columnsOf({ memory, rows, dimension, topK }: SheetMemory) {
  let at = 0;
  const next = (bytes: number): number => {
    at += bytes;
    return at - bytes;
  };
  return {
    sizes: new Float64Array(memory, next(8 * rows), rows),
    embeddings: new Float32Array(memory, next(4 * rows * dimension), rows * dimension),
    scores: new Float32Array(memory, next(4 * rows * topK), rows * topK),
    labels: new Int32Array(memory, next(4 * rows * topK), rows * topK),
    places: new Int32Array(memory, next(4 * rows), rows),
    widths: new Int32Array(memory, next(4 * rows), rows),
    heights: new Int32Array(memory, next(4 * rows), rows),
    /** Where each line ends in the text. */
    lineEnds: new Int32Array(memory, next(4 * rows), rows),
    statuses: new Uint8Array(memory, next(rows), rows),
    kinds: new Uint8Array(memory, next(rows), rows),
    hashes: Buffer.from(memory, next(hashBytes * rows), hashBytes * rows),
    text: new Uint8Array(memory, at),
  };
}

const rowBytes = ({ dimension, topK }: RowShape): number =>
  8 + 4 * (dimension + 2 * topK + 4) + 2 + hashBytes;

/** Writes what a model made of a batch to where its rows are, one range after the other. */
export function putRows(
  made: BatchResult,
  ranges: readonly { sheet: SheetMemory; first: number; count: number }[],
): void {
  let at = 0;
  for (const { sheet, first, count } of ranges) {
    const { dimension, topK } = sheet;
    const { embeddings, scores, labels } = columnsOf(sheet);
    embeddings.set(made.embeddings.subarray(at * dimension, (at + count) * dimension), first * dimension);
    scores.set(made.scores.subarray(at * topK, (at + count) * topK), first * topK);
    labels.set(made.labels.subarray(at * topK, (at + count) * topK), first * topK);
    at += count;
  }
}

/** Rows that have all ended, as they are handed to another thread; `failures` by row. */
export interface EndedRows {
  sheet: SheetMemory;
  failures: ReadonlyMap<number, FailedOutcome>;
}

/** Their numbers are the sheet's own, not copies. */
export function readSheet({ sheet: memory, failures }: EndedRows): ShardRows {
  const sheet = openSheet(memory);
  const { embeddings, scores, labels } = sheet;
  const items = sheet.items(0, sheet.rows);
  const outcomes = items.map((_, row): Outcome => {
    const outcome = failures.get(row) ?? sheet.outcomeAt(row);
    if (!outcome) throw new Error(`row ${row} has no outcome: this is a bug`);
    return outcome;
  });
  return { items, outcomes, embeddings, scores, labels };
}

export interface Sheets {
  /** A sheet over lines of a plan, none of whose rows has ended. */
  take(lines: Uint8Array): Sheet;
  /** Nobody writes it any more. It stays readable until 4,096 rows were given back after it, and then its memory is used again. */
  giveBack(sheet: Sheet): void;
}

/** 32 MB of embeddings: what came of the latest images need not be read from their parts (reuse.ts). */
const rowsKept = 4096;
/** Memory comes in pieces of so many bytes, so that a shard with somewhat longer lines fits where another was. */
const step = 2 ** 16;
const newline = 0x0a;

/**
 * Memory is used again from shard to shard: fresh memory costs a page fault for each half of an embedding, which is more than
 * copying all of it.
 */
export function openSheets(shape: RowShape): Sheets {
  /** In the order in which they were given back. */
  const free: Sheet[] = [];
  /** Rows of those. */
  let rowsFree = 0;

  /** The oldest that may go. */
  function takeOldest(): SharedArrayBuffer | undefined {
    const oldest = free[0];
    if (!oldest || rowsFree - oldest.rows < rowsKept) return undefined;
    free.shift();
    rowsFree -= oldest.rows;
    oldest.isOver = true;
    return oldest.memory.memory;
  }

  return {
    take(lines) {
      const ends = endsOf(lines);
      const bytes = ends.length * rowBytes(shape) + lines.length;
      let memory = takeOldest();
      // Smaller ones are of a run with smaller shards.
      while (memory && memory.byteLength < bytes) memory = takeOldest();
      memory ??= new SharedArrayBuffer(Math.ceil(bytes / step) * step);
      const sheet = { memory, rows: ends.length, ...shape };
      const columns = columnsOf(sheet);
      columns.statuses.fill(0);
      columns.lineEnds.set(ends);
      columns.text.set(lines);
      return openSheet(sheet);
    },
    giveBack(sheet) {
      free.push(sheet);
      rowsFree += sheet.rows;
    },
  };
}

function endsOf(lines: Uint8Array): number[] {
  const ends: number[] = [];
  for (let end = lines.indexOf(newline) + 1; end > 0; end = lines.indexOf(newline, end) + 1) ends.push(end);
  return ends;
}
