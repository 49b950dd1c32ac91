/**
 * Shards → batches → shards.
 *
 * The device sees batches that run across shard borders, so that the tail of one shard does not starve it:
 *   1. `embed` puts a shard's items at the end of one line.
 *   2. Whenever a slot (the pixels of one batch, in shared memory) is free, the next `batch` items of the line go to a
 *      lane, which fills the slot.
 *   3. The full slot goes to the device, its results go to the rows of the shards that its items came from, and the
 *      slot is free again.
 * Fewer than a whole batch is sent only when nothing else is under way: then the device would stand still.
 * Memory is bounded by the number of slots.
 *
 * An item whose bytes were met before is not decoded. Its row waits until what came of them is known; where that is lost
 * (the shard that had them was aborted), one such row is done anew and the others wait for it.
 */
import { RunBlocked } from './errors.ts';
import { openRowSpaces } from './row-space.ts';
import type { BatchResult, Item, KnownRow, Outcome, ShardRows } from './types.ts';

/** An item that a lane shall fetch and decode into its row of a slot. */
export interface SlotEntry {
  run: string;
  item: Item;
  /** It may be the one that killed a worker: to be decoded where it can do no harm. */
  suspect: boolean;
  /** Its bytes are known, but what they came to is not to be had: they are done anew. */
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
  /** One per entry, in order; an entry that is not ok leaves its row of the slot as it was. */
  outcomes: (Outcome | Refusal | Repeat)[];
  /** Where each entry's bytes are in the table of bytes met (seen.ts); -1 where they are not. */
  places: Int32Array;
  fetchMs: number;
  decodeMs: number;
}

export interface BatchStages {
  /**
   * Fetches and decodes each entry into its row of the slot. `signal` aborts when nobody wants the slot any more. Rejects
   * then, and when the lane itself is lost.
   */
  fill(slot: number, entries: readonly SlotEntry[], signal: AbortSignal): Promise<FilledSlot>;
  infer(slot: number): Promise<BatchResult & { inferMs: number }>;
  /** What became of bytes that were met before; absent where none are looked up. */
  memory?: BatchMemory;
}

/** As `Reuse`, by run. */
export interface BatchMemory {
  recall(run: string, place: number, sha256: string): Promise<KnownRow | undefined>;
  /** Copies what it keeps. */
  remember(run: string, place: number, row: Omit<KnownRow, 'device'>): void;
}

export interface StageTimes {
  /** Summed over images, of which a lane does several at once. */
  fetchMs: number;
  decodeMs: number;
  /** This shard's share of the device's time. */
  inferMs: number;
}

/** Of one shard. */
export interface EmbeddedShard extends ShardRows, StageTimes {
  /** Of each ok row as in `FilledSlot`; -1 in the others. */
  places: Int32Array;
  /** Rows whose bytes were met before. */
  reused: number;
  /** What made those. */
  devices: Set<string>;
  /** Gives the rows' memory to later shards: once, when nobody reads them any more. */
  free(): void;
}

export interface Batcher {
  /** One shard's rows. Rejects when aborted, when a stage did, or with RunBlocked when its source refused it. */
  embed(
    run: string,
    items: readonly Item[],
    options: { signal: AbortSignal; suspect: boolean },
  ): Promise<EmbeddedShard>;
}

interface ShardState {
  run: string;
  suspect: boolean;
  rows: EmbeddedShard & { outcomes: Outcome[] };
  remaining: number;
  ended: boolean;
  /** Called when it ends before its rows are whole. */
  onFailed: Set<() => void>;
  resolve(rows: EmbeddedShard): void;
  reject(error: unknown): void;
}

interface Place {
  shard: ShardState;
  row: number;
  /** Of an item that is done anew: to be called when it has a result, or its shard has ended without. */
  onEnd?: () => void;
}

interface RepeatedRow {
  shard: ShardState;
  row: number;
  place: number;
  sha256: string;
}

const nothing = new Float32Array(0);
const noLabels = new Int32Array(0);

/** The same bytes end alike, unless time or luck had a part in it. */
function isOfContent(outcome: Outcome): boolean {
  return (
    outcome.status === 'ok' ||
    (outcome.status === 'failed' && !['timeout', 'crashed-worker'].includes(outcome.error))
  );
}

export function openBatcher(
  stages: BatchStages,
  shape: { batch: number; slots: number; dimension: number; topK: number },
): Batcher {
  const { batch, slots, dimension, topK } = shape;
  const spaces = openRowSpaces(shape);
  const line: Place[] = [];
  /** Since the line was last cleared of them. */
  let anyEnded = false;
  const freeSlots = Array.from({ length: slots }, (_, slot) => slot);
  /** Batches whose results are still to come. */
  const underWay = new Set<Promise<void>>();
  /** By hash, what is in the line or under way to be done anew; rows of the same bytes wait for it. */
  const redoing = new Map<string, Promise<void>>();

  return {
    embed(run, items, { signal, suspect }) {
      const { promise, resolve, reject } = Promise.withResolvers<EmbeddedShard>();
      const space = spaces.take(items.length);
      const shard: ShardState = {
        run,
        suspect,
        rows: {
          items,
          outcomes: new Array(items.length),
          ...space,
          fetchMs: 0,
          decodeMs: 0,
          inferMs: 0,
          places: new Int32Array(items.length).fill(-1),
          reused: 0,
          devices: new Set(),
          free: () => spaces.giveBack(space),
        },
        remaining: 0,
        ended: false,
        onFailed: new Set(),
        resolve,
        reject,
      };
      const abort = (): void => fail(shard, signal.reason);
      if (signal.aborted) abort();
      else signal.addEventListener('abort', abort, { once: true });
      for (const [row, item] of items.entries()) {
        if (item.gone) {
          shard.rows.outcomes[row] = { status: 'gone' };
          continue;
        }
        shard.remaining += 1;
        line.push({ shard, row });
      }
      endIfWhole(shard);
      pump();
      return promise.finally(() => signal.removeEventListener('abort', abort));
    },
  };

  function pump(): void {
    while (freeSlots.length > 0) {
      dropEnded();
      const isIdle = freeSlots.length === slots;
      if (line.length === 0 || (line.length < batch && !isIdle)) return;
      const slot = freeSlots.pop() as number; // its length was checked
      const running = runBatch(slot, line.splice(0, batch)).then((repeats) => {
        underWay.delete(running);
        freeSlots.push(slot);
        // Before others start: who claimed the bytes first is under way by now, or has ended.
        if (repeats.length > 0) void settleRepeats(repeats);
        pump();
      });
      underWay.add(running);
    }
  }

  /** Resolves, with the rows whose bytes were met before, when the slot is no longer needed. */
  async function runBatch(slot: number, places: readonly Place[]): Promise<RepeatedRow[]> {
    const shards = new Set(places.map(({ shard }) => shard));
    const unwanted = new AbortController();
    const onFailed = (): void => {
      if ([...shards].every((shard) => shard.ended)) unwanted.abort();
    };
    for (const shard of shards) shard.onFailed.add(onFailed);
    try {
      const entries = places.map(({ shard, row, onEnd }) => ({
        run: shard.run,
        item: shard.rows.items[row] as Item,
        suspect: shard.suspect,
        anew: onEnd !== undefined,
      }));
      const filled = await stages.fill(slot, entries, unwanted.signal);
      if (unwanted.signal.aborted) return [];
      const anyPixels = filled.outcomes.some((outcome) => outcome.status === 'ok');
      const result = anyPixels ? await stages.infer(slot) : undefined;
      return places.flatMap((place, at) => settle(place, at, places.length, filled, result));
    } catch (error) {
      for (const shard of shards) fail(shard, error);
      return [];
    } finally {
      for (const shard of shards) shard.onFailed.delete(onFailed);
      for (const { onEnd } of places) onEnd?.();
    }
  }

  function settle(
    { shard, row }: Place,
    at: number,
    count: number,
    filled: FilledSlot,
    result: (BatchResult & { inferMs: number }) | undefined,
  ): RepeatedRow[] {
    const { rows } = shard;
    const outcome = filled.outcomes[at] as FilledSlot['outcomes'][number];
    const place = filled.places[at] ?? -1;
    rows.fetchMs += filled.fetchMs / count;
    rows.decodeMs += filled.decodeMs / count;
    rows.inferMs += (result?.inferMs ?? 0) / count;
    if (outcome.status === 'refused') {
      fail(shard, new RunBlocked(outcome.message));
      return [];
    }
    if (outcome.status === 'repeat') return [{ shard, row, place, sha256: outcome.sha256 }];
    const known = {
      outcome,
      embedding: result?.embeddings.subarray(at * dimension, (at + 1) * dimension) ?? nothing,
      scores: result?.scores.subarray(at * topK, (at + 1) * topK) ?? nothing,
      labels: result?.labels.subarray(at * topK, (at + 1) * topK) ?? noLabels,
    };
    if (place >= 0 && isOfContent(outcome)) stages.memory?.remember(shard.run, place, known);
    putRow(shard, row, place, known);
    return [];
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
  async function settleRepeat({ shard, row, place, sha256 }: RepeatedRow): Promise<boolean> {
    if (shard.ended) return true;
    if (redoing.has(sha256)) return false;
    try {
      const known = await stages.memory?.recall(shard.run, place, sha256);
      if (known) {
        shard.rows.reused += 1;
        for (const device of known.device.split('+')) shard.rows.devices.add(device);
        putRow(shard, row, place, known);
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
    line.push({ shard, row, onEnd });
    return true;
  }

  function putRow(shard: ShardState, row: number, place: number, known: Omit<KnownRow, 'device'>): void {
    const { rows } = shard;
    if (known.outcome.status === 'ok') rows.places[row] = place;
    rows.outcomes[row] = known.outcome;
    rows.embeddings.set(known.embedding, row * dimension);
    rows.scores.set(known.scores, row * topK);
    rows.labels.set(known.labels, row * topK);
    shard.remaining -= 1;
    endIfWhole(shard);
  }

  function endIfWhole(shard: ShardState): void {
    if (shard.remaining > 0 || shard.ended) return;
    shard.ended = true;
    shard.resolve(shard.rows);
  }

  function fail(shard: ShardState, error: unknown): void {
    if (shard.ended) return;
    shard.ended = true;
    anyEnded = true;
    shard.reject(error);
    for (const onFailed of shard.onFailed) onFailed();
  }

  /** Items of a shard that was aborted are not worth a slot. */
  function dropEnded(): void {
    if (!anyEnded) return;
    anyEnded = false;
    for (const place of line.splice(0, line.length)) {
      if (place.shard.ended) place.onEnd?.();
      else line.push(place);
    }
  }
}
