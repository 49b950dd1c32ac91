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
import type { BatchResult, Item, Outcome, ShardRows } from './types.ts';

/** Items of one run that a lane shall fetch and decode; `row` is where in the slot. */
export interface SlotEntry {
  run: string;
  item: Item;
}

export interface FilledSlot {
  /** One per entry, in order; a failed entry leaves its row of the slot as it was. */
  outcomes: Outcome[];
  fetchMs: number;
  decodeMs: number;
}

export interface BatchStages {
  /** Fetches and decodes each entry into its row of the slot. Rejects only when the lane itself is lost. */
  fill(slot: number, entries: readonly SlotEntry[]): Promise<FilledSlot>;
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
  /** One shard's rows. Rejects when aborted, or when a stage did. */
  embed(run: string, items: readonly Item[], signal: AbortSignal): Promise<ShardRows & StageTimes>;
}

interface ShardState {
  run: string;
  rows: ShardRows & StageTimes & { outcomes: Outcome[] };
  remaining: number;
  ended: boolean;
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
    embed(run, items, signal) {
      const { promise, resolve, reject } = Promise.withResolvers<ShardRows & StageTimes>();
      const shard: ShardState = {
        run,
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
    try {
      const entries = places.map(({ shard, row }) => ({
        run: shard.run,
        item: shard.rows.items[row] as Item,
      }));
      const filled = await stages.fill(slot, entries);
      const anyPixels = filled.outcomes.some((outcome) => outcome.status === 'ok');
      const result = anyPixels ? await stages.infer(slot) : undefined;
      for (const [at, place] of places.entries()) settle(place, at, places.length, filled, result);
    } catch (error) {
      for (const { shard } of places) fail(shard, error);
    } finally {
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
    rows.outcomes[row] = filled.outcomes[at] as Outcome;
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
  }

  /** Items of a shard that was aborted are not worth a slot. */
  function dropEnded(): void {
    if (!line.some(({ shard }) => shard.ended)) return;
    const alive = line.filter(({ shard }) => !shard.ended);
    line.splice(0, line.length, ...alive);
  }
}
