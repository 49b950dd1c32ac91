/** A slot: one batch's pixels and what the model makes of them, in memory that the threads share. */
import type { BatchResult } from '../src/types.ts';

export interface Slot {
  /** [batch × crop × crop × 3], uint8: a lane writes it. */
  pixels: SharedArrayBuffer;
  /** An inference thread writes it. */
  result: BatchResult;
}

/** One on the device and one that waits in the session's thread: between two runs lies no call from another. */
export const slotsPerSession = 2;

export interface SlotShape {
  batch: number;
  /** Side of the crop in pixels. */
  crop: number;
  dimension: number;
  topK: number;
}

export function makeSlot({ batch, crop, dimension, topK }: SlotShape): Slot {
  return {
    pixels: new SharedArrayBuffer(batch * crop * crop * 3),
    result: {
      embeddings: new Float32Array(new SharedArrayBuffer(batch * dimension * 4)),
      scores: new Float32Array(new SharedArrayBuffer(batch * topK * 4)),
      labels: new Int32Array(new SharedArrayBuffer(batch * topK * 4)),
    },
  };
}
