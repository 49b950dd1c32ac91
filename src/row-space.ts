/**
 * Room for shards' rows in memory that threads share, and used again from shard to shard: fresh memory costs a page fault
 * for each half of an embedding, which is more than copying all of it.
 */
import type { ShardRows } from './types.ts';

export type RowSpace = Pick<ShardRows, 'embeddings' | 'scores' | 'labels'>;

export interface RowSpaces {
  /** Room for so many rows; what stands in it is anything. */
  take(rows: number): RowSpace;
  /** To be used again, once nobody reads or writes it. What is never given back is garbage as any other. */
  giveBack(space: RowSpace): void;
}

/** A worker has three shards at once, and one more for its next. */
const kept = 4;

export function openRowSpaces({ dimension, topK }: { dimension: number; topK: number }): RowSpaces {
  const free: SharedArrayBuffer[] = [];
  return {
    take(rows) {
      const bytes = rows * (dimension + 2 * topK) * Float32Array.BYTES_PER_ELEMENT;
      const at = free.findIndex(({ byteLength }) => byteLength >= bytes);
      const memory = free.splice(at, at < 0 ? 0 : 1)[0] ?? new SharedArrayBuffer(bytes);
      const scoresAt = rows * dimension * Float32Array.BYTES_PER_ELEMENT;
      const labelsAt = scoresAt + rows * topK * Float32Array.BYTES_PER_ELEMENT;
      return {
        embeddings: new Float32Array(memory, 0, rows * dimension),
        scores: new Float32Array(memory, scoresAt, rows * topK),
        labels: new Int32Array(memory, labelsAt, rows * topK),
      };
    },
    giveBack({ embeddings }) {
      free.push(embeddings.buffer as SharedArrayBuffer); // take made it
      free.sort((a, b) => a.byteLength - b.byteLength);
      if (free.length > kept) free.shift();
    },
  };
}
