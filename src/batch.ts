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
 */
import { RunBlocked } from './errors.ts';
import type { BatchResult, Item, Outcome, ShardRows } from './types.ts';

/** An item that a lane shall fetch and decode into its row of a slot. */
export interface SlotEntry {
  run: string;
  item: Item;
  /** It may be the one that killed a worker: to be decoded where it can do no harm. */
  suspect: boolean;
}

/** The item's source refuses everything: its shard cannot be done, and nothing is said of the item. */
export interface Refusal {
  status: 'refused';
  message: string;
}

export interface FilledSlot {
  /** One per entry, in order; an entry that is not ok leaves its row of the slot as it was. */
  outcomes: (Outcome | Refusal)[];
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
}

export interface StageTimes {
  /** Summed over images, of which a lane does several at once. */
  fetchMs: number;
  decodeMs: number;
  /** This shard's share of the device's time. */
  inferMs: number;
}

export interface Batcher {
  /** One shard's rows. Rejects when aborted, when a stage did, or with RunBlocked when its source refused it. */
  embed(
    run: string,
    items: readonly Item[],
    options: { signal: AbortSignal; suspect: boolean },
  ): Promise<ShardRows & StageTimes>;
}

interface ShardState {
  run: string;
  suspect: boolean;
  rows: ShardRows & StageTimes & { outcomes: Outcome[] };
  remaining: number;
  ended: boolean;
  /** Called when it ends before its rows are whole. */
  onFailed: Set<() => void>;
  resolve(rows: ShardRows & StageTimes): void;
  reject(error: unknown): void;
}

interface Place {
  shard: ShardState;
  row: number;
}

export function openBatcher(
  stages: BatchStages,
  shape: { batch: number; slots: number; dimension: number; topK: number },
): Batcher {
  const { batch, slots, dimension, topK } = shape;
  const line: Place[] = [];
  const freeSlots = Array.from({ length: slots }, (_, slot) => slot);

  return {
    embed(run, items, { signal, suspect }) {
      const { promise, resolve, reject } = Promise.withResolvers<ShardRows & StageTimes>();
      const shard: ShardState = {
        run,
        suspect,
        rows: {
          items,
          outcomes: new Array(items.length),
          embeddings: new Float32Array(items.length * dimension),
          scores: new Float32Array(items.length * topK),
          labels: new Int32Array(items.length * topK),
          fetchMs: 0,
          decodeMs: 0,
          inferMs: 0,
        },
        remaining: items.length,
        ended: false,
        onFailed: new Set(),
        resolve,
        reject,
      };
      const abort = (): void => fail(shard, signal.reason);
      if (signal.aborted) abort();
      else signal.addEventListener('abort', abort, { once: true });
      for (let row = 0; row < items.length; row++) line.push({ shard, row });
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
      void runBatch(slot, line.splice(0, batch));
    }
  }

  async function runBatch(slot: number, places: readonly Place[]): Promise<void> {
    const shards = new Set(places.map(({ shard }) => shard));
    const unwanted = new AbortController();
    const onFailed = (): void => {
      if ([...shards].every((shard) => shard.ended)) unwanted.abort();
    };
    for (const shard of shards) shard.onFailed.add(onFailed);
    try {
      const entries = places.map(({ shard, row }) => ({
        run: shard.run,
        item: shard.rows.items[row] as Item,
        suspect: shard.suspect,
      }));
      const filled = await stages.fill(slot, entries, unwanted.signal);
      if (unwanted.signal.aborted) return;
      const anyPixels = filled.outcomes.some((outcome) => outcome.status === 'ok');
      const result = anyPixels ? await stages.infer(slot) : undefined;
      for (const [at, place] of places.entries()) settle(place, at, places.length, filled, result);
    } catch (error) {
      for (const shard of shards) fail(shard, error);
    } finally {
      for (const shard of shards) shard.onFailed.delete(onFailed);
      freeSlots.push(slot);
      pump();
    }
  }

  function settle(
    { shard, row }: Place,
    at: number,
    count: number,
    filled: FilledSlot,
    result: (BatchResult & { inferMs: number }) | undefined,
  ): void {
    const { rows } = shard;
    const outcome = filled.outcomes[at] as Outcome | Refusal;
    if (outcome.status === 'refused') {
      fail(shard, new RunBlocked(outcome.message));
      return;
    }
    rows.outcomes[row] = outcome;
    if (result) {
      rows.embeddings.set(result.embeddings.subarray(at * dimension, (at + 1) * dimension), row * dimension);
      rows.scores.set(result.scores.subarray(at * topK, (at + 1) * topK), row * topK);
      rows.labels.set(result.labels.subarray(at * topK, (at + 1) * topK), row * topK);
    }
    rows.fetchMs += filled.fetchMs / count;
    rows.decodeMs += filled.decodeMs / count;
    rows.inferMs += (result?.inferMs ?? 0) / count;
    shard.remaining -= 1;
    if (shard.remaining === 0 && !shard.ended) {
      shard.ended = true;
      shard.resolve(rows);
    }
  }

  function fail(shard: ShardState, error: unknown): void {
    if (shard.ended) return;
    shard.ended = true;
    shard.reject(error);
    for (const onFailed of shard.onFailed) onFailed();
  }

  /** Items of a shard that was aborted are not worth a slot. */
  function dropEnded(): void {
    if (!line.some(({ shard }) => shard.ended)) return;
    const alive = line.filter(({ shard }) => !shard.ended);
    line.splice(0, line.length, ...alive);
  }
}
