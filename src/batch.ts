/**
 * Shards → batches → shards.
 *
 * The device sees batches that run across shard borders, so that the tail of one shard does not starve it:
 *   1. `embed` puts a shard's rows at the end of one line.
 *   2. Whenever a slot (the pixels of one batch, in shared memory) is free, the next `batch` rows of the line go to a
 *      lane, which fills the slot and has it embedded; what came of the rows is then in their shards' sheets (sheet.ts).
 *   3. Only of rows that came to no embedding is anything told here, and the slot is free again.
 * Fewer than a whole batch is sent only when nothing else is under way: then the device would stand still.
 * Memory is bounded by the number of slots.
 *
 * An image whose bytes were met before is not decoded. Its row waits until what came of them is known; where that is lost
 * (the shard that had them was aborted), one such row is done anew and the others wait for it.
 */
import { RunBlocked } from './errors.ts';
import { type FailedOutcome, openSheets, type RowShape, type Sheet, type SheetMemory } from './sheet.ts';
import type { KnownRow, Outcome } from './types.ts';

/** Rows of a shard that a lane shall fetch and decode into the next rows of a slot. */
export interface RowRange {
  run: string;
  sheet: SheetMemory;
  first: number;
  count: number;
  /** One of them may be what killed a worker: to be decoded where it can do no harm. */
  suspect: boolean;
  /** Their bytes are known, but what they came to is not to be had: they are done anew. */
  anew: boolean;
}

/** The item's bytes were met before: nothing is in the slot. */
export interface Repeat {
  status: 'repeat';
  sha256: string;
}

/** The item's source refuses everything: its shard cannot be done, and nothing is said of the item. */
export interface Refusal {
  status: 'refused';
  message: string;
}

export interface FilledSlot {
  /**
   * The entries whose pixels are not in the slot, by their place in it, in order. Of all others the sheets have the facts; of those
   * and of these they have where their bytes are in the table of bytes met.
   */
  exceptions: { at: number; outcome: FailedOutcome | { status: 'gone' } | Refusal | Repeat }[];
  fetchMs: number;
  decodeMs: number;
  /** What was fetched for each range. */
  bytesRead: readonly number[];
}

export interface BatchStages {
  /**
   * Fetches and decodes each row into the slot, and has what is in it embedded. `signal` aborts when nobody wants the rows
   * any more: then nothing goes to the device. Rejects then, and when a thread is lost.
   */
  embed(
    slot: number,
    ranges: readonly RowRange[],
    signal: AbortSignal,
  ): Promise<FilledSlot & { inferMs: number }>;
  /** What became of bytes that were met before; absent where none are looked up. */
  memory?: BatchMemory;
}

/** A row of a sheet, as long as that is not over. */
export interface SheetRow {
  sheet: Sheet;
  row: number;
  /** How it ended where it is not ok. */
  failure?: FailedOutcome;
  /** What made it; absent where we did. */
  device?: string;
}

/** As `Reuse`, by run. */
export interface BatchMemory {
  recall(run: string, place: number, sha256: string): Promise<KnownRow | undefined>;
  remember(run: string, place: number, row: SheetRow): void;
}

export interface StageTimes {
  /** Summed over images, of which a lane does several at once. */
  fetchMs: number;
  decodeMs: number;
  /** This shard's share of the device's time. */
  inferMs: number;
}

/** Of one shard. */
export interface EmbeddedShard extends StageTimes {
  /** All of its rows have ended; of each ok one, `places` is as in `FilledSlot`, and -1 in the others. */
  sheet: Sheet;
  failures: ReadonlyMap<number, FailedOutcome>;
  /** Rows of items that their source no longer has. */
  gone: number;
  /** Rows whose bytes were met before. */
  reused: number;
  /** What was fetched for it, again where that was needed. */
  bytesRead: number;
  /** What made those. */
  devices: Set<string>;
  /** Gives the sheet to later shards: once, when nobody reads it any more. */
  free(): void;
}

export interface Batcher {
  /**
   * One shard's rows; `lines` are its items as the plan has them. Rejects when aborted, when a stage did, or with RunBlocked when
   * its source refused it.
   */
  embed(
    run: string,
    lines: Uint8Array,
    options: { signal: AbortSignal; suspect: boolean },
  ): Promise<EmbeddedShard>;
}

interface ShardState {
  run: string;
  suspect: boolean;
  result: EmbeddedShard & { failures: Map<number, FailedOutcome> };
  remaining: number;
  ended: boolean;
  /** Called when it ends before its rows are whole. */
  onFailed: Set<() => void>;
  resolve(result: EmbeddedShard): void;
  reject(error: unknown): void;
}

/** Rows of a shard in the line, or in a batch. */
interface Stretch {
  shard: ShardState;
  first: number;
  count: number;
  /** Of an item that is done anew: to be called when it has a result, or its shard has ended without. */
  onEnd?: () => void;
}

interface RepeatedRow {
  shard: ShardState;
  row: number;
  sha256: string;
}

/** The same bytes fail alike, unless time or luck had a part in it. */
function isOfContent({ error }: FailedOutcome): boolean {
  return error !== 'timeout' && error !== 'crashed-worker';
}

export function openBatcher(
  stages: BatchStages,
  { batch, slots, dimension, topK }: RowShape & { batch: number; slots: number },
): Batcher {
  const sheets = openSheets({ dimension, topK });
  const line: Stretch[] = [];
  /** Rows in the line. */
  let inLine = 0;
  /** Since the line was last cleared of them. */
  let anyEnded = false;
  const freeSlots = Array.from({ length: slots }, (_, slot) => slot);
  /** Batches whose results are still to come. */
  const underWay = new Set<Promise<void>>();
  /** By hash, what is in the line or under way to be done anew; rows of the same bytes wait for it. */
  const redoing = new Map<string, Promise<void>>();

  return {
    embed(run, lines, { signal, suspect }) {
      const { promise, resolve, reject } = Promise.withResolvers<EmbeddedShard>();
      const sheet = sheets.take(lines);
      const shard: ShardState = {
        run,
        suspect,
        result: {
          sheet,
          failures: new Map(),
          gone: 0,
          fetchMs: 0,
          decodeMs: 0,
          inferMs: 0,
          reused: 0,
          bytesRead: 0,
          devices: new Set(),
          free: () => sheets.giveBack(sheet),
        },
        remaining: sheet.rows,
        ended: false,
        onFailed: new Set(),
        resolve,
        reject,
      };
      const abort = (): void => fail(shard, signal.reason);
      if (signal.aborted) abort();
      else signal.addEventListener('abort', abort, { once: true });
      endIfWhole(shard);
      if (!shard.ended) join({ shard, first: 0, count: sheet.rows });
      pump();
      return promise.finally(() => signal.removeEventListener('abort', abort));
    },
  };

  function join(stretch: Stretch): void {
    line.push(stretch);
    inLine += stretch.count;
  }

  function pump(): void {
    while (freeSlots.length > 0) {
      dropEnded();
      const isIdle = freeSlots.length === slots;
      if (inLine === 0 || (inLine < batch && !isIdle)) return;
      const slot = freeSlots.pop() as number; // its length was checked
      const running = runBatch(slot, takeBatch()).then((repeats) => {
        underWay.delete(running);
        freeSlots.push(slot);
        // Before others start: who claimed the bytes first is under way by now, or has ended.
        if (repeats.length > 0) void settleRepeats(repeats);
        pump();
      });
      underWay.add(running);
    }
  }

  /** The next rows of the line, as many as a slot has room for. */
  function takeBatch(): Stretch[] {
    const taken: Stretch[] = [];
    for (let room = batch; room > 0 && line.length > 0; ) {
      const next = line[0] as Stretch; // its length was checked
      const count = Math.min(next.count, room);
      taken.push({ ...next, count });
      if (count === next.count) line.shift();
      else line[0] = { ...next, first: next.first + count, count: next.count - count };
      room -= count;
      inLine -= count;
    }
    return taken;
  }

  /** Resolves, with the rows whose bytes were met before, when the slot is no longer needed. */
  async function runBatch(slot: number, stretches: readonly Stretch[]): Promise<RepeatedRow[]> {
    const shards = new Set(stretches.map(({ shard }) => shard));
    const unwanted = new AbortController();
    const onFailed = (): void => {
      if ([...shards].every((shard) => shard.ended)) unwanted.abort();
    };
    for (const shard of shards) shard.onFailed.add(onFailed);
    try {
      const ranges = stretches.map(({ shard, first, count, onEnd }) => ({
        run: shard.run,
        sheet: shard.result.sheet.memory,
        first,
        count,
        suspect: shard.suspect,
        anew: onEnd !== undefined,
      }));
      // Once it is done it is remembered, even where nobody wants it any more.
      return settle(stretches, await stages.embed(slot, ranges, unwanted.signal));
    } catch (error) {
      for (const shard of shards) fail(shard, error);
      return [];
    } finally {
      for (const shard of shards) shard.onFailed.delete(onFailed);
      for (const { onEnd } of stretches) onEnd?.();
    }
  }

  function settle(stretches: readonly Stretch[], done: FilledSlot & { inferMs: number }): RepeatedRow[] {
    const repeats: RepeatedRow[] = [];
    const total = stretches.reduce((sum, { count }) => sum + count, 0);
    const exceptions = done.exceptions.values();
    let exception = exceptions.next().value;
    let at = 0;
    for (const [range, { shard, first, count }] of stretches.entries()) {
      const { result } = shard;
      result.bytesRead += done.bytesRead[range] ?? 0;
      result.fetchMs += (done.fetchMs * count) / total;
      result.decodeMs += (done.decodeMs * count) / total;
      result.inferMs += (done.inferMs * count) / total;
      for (let row = first; row < first + count; row++, at++) {
        if (exception?.at !== at) {
          remember(shard, { sheet: result.sheet, row });
          continue;
        }
        const { outcome } = exception;
        exception = exceptions.next().value;
        if (outcome.status === 'refused') fail(shard, new RunBlocked(outcome.message));
        else if (outcome.status === 'repeat') repeats.push({ shard, row, sha256: outcome.sha256 });
        else putException(shard, row, outcome);
      }
      shard.remaining -= count;
    }
    for (const { shard } of repeats) shard.remaining += 1;
    for (const { shard } of stretches) endIfWhole(shard);
    return repeats;
  }

  /** Once what is under way has its results, what the same bytes came to is known, or lost. */
  async function settleRepeats(repeats: readonly RepeatedRow[]): Promise<void> {
    await Promise.all(underWay);
    for (let left = repeats; left.length > 0; ) {
      const waiting: RepeatedRow[] = [];
      for (const repeat of left) if (!(await settleRepeat(repeat))) waiting.push(repeat);
      pump();
      await Promise.all(waiting.map(({ sha256 }) => redoing.get(sha256)));
      left = waiting;
    }
  }

  /** False where another row of the same bytes is being done anew: to be asked again when it has ended. */
  async function settleRepeat({ shard, row, sha256 }: RepeatedRow): Promise<boolean> {
    if (shard.ended) return true;
    if (redoing.has(sha256)) return false;
    const { sheet } = shard.result;
    try {
      const known = await stages.memory?.recall(shard.run, sheet.places[row] ?? -1, sha256);
      if (known) {
        putKnown(shard, row, known);
        return true;
      }
    } catch (error) {
      fail(shard, error);
      return true;
    }
    if (redoing.has(sha256)) return false;
    const { promise, resolve } = Promise.withResolvers<void>();
    redoing.set(sha256, promise);
    const onEnd = (): void => {
      redoing.delete(sha256);
      resolve();
    };
    join({ shard, first: row, count: 1, onEnd });
    return true;
  }

  function putKnown(shard: ShardState, row: number, known: KnownRow): void {
    const { outcome } = known;
    const { sheet, devices } = shard.result;
    shard.result.reused += 1;
    for (const device of known.device.split('+')) devices.add(device);
    if (outcome.status === 'ok') {
      sheet.putOk(row, outcome);
      sheet.embeddings.set(known.embedding, row * dimension);
      sheet.scores.set(known.scores, row * topK);
      sheet.labels.set(known.labels, row * topK);
      // A picture that comes again and again stays.
      remember(shard, { sheet, row, device: known.device });
    } else putException(shard, row, outcome);
    shard.remaining -= 1;
    endIfWhole(shard);
  }

  function putException(shard: ShardState, row: number, outcome: Exclude<Outcome, { status: 'ok' }>): void {
    const { result } = shard;
    if (outcome.status === 'gone') result.gone += 1;
    else {
      remember(shard, { sheet: result.sheet, row, failure: outcome });
      result.failures.set(row, outcome);
    }
    result.sheet.places[row] = -1;
  }

  /** What a row's bytes came to, where they are in the table of bytes met. */
  function remember({ run }: ShardState, known: SheetRow): void {
    const place = known.sheet.places[known.row] ?? -1;
    if (place >= 0 && (!known.failure || isOfContent(known.failure)))
      stages.memory?.remember(run, place, known);
  }

  function endIfWhole(shard: ShardState): void {
    if (shard.remaining > 0 || shard.ended) return;
    shard.ended = true;
    shard.resolve(shard.result);
  }

  function fail(shard: ShardState, error: unknown): void {
    if (shard.ended) return;
    shard.ended = true;
    anyEnded = true;
    shard.reject(error);
    for (const onFailed of shard.onFailed) onFailed();
  }

  /** Rows of a shard that was aborted are not worth a slot. */
  function dropEnded(): void {
    if (!anyEnded) return;
    anyEnded = false;
    inLine = 0;
    for (const stretch of line.splice(0, line.length)) {
      if (stretch.shard.ended) stretch.onEnd?.();
      else join(stretch);
    }
  }
}
