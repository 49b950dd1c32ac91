/**
 * What a run's rows hold beside what every row does: features from within the network, and what a head of the user's own says.
 *
 * On its way from the graph to the part such a row is no other than any row, only longer: behind its embedding lie the features,
 * behind its scores and labels those of the head. Only the graph (models/widen.ts), which joins them, and the part, which keeps each
 * in a column of its own, know where one ends.
 */
import { z } from 'zod';

/** Stages of a ResNet whose features can be kept; those of the fourth are the embedding. */
export const layers = ['layer1', 'layer2', 'layer3'] as const;
export type Layer = (typeof layers)[number];

/** Features of a stage: the mean of each channel over the picture. */
export interface Features {
  layer: Layer;
  /** Channels. */
  length: number;
}

/** A head that is computed with the embedding. */
export interface RunHead {
  /** Of its file. */
  sha256: string;
  /** Names by class. */
  classes: string[];
  /** Classes that a row names. */
  topK: number;
}

export interface RowExtras {
  head?: RunHead | undefined;
  /** In the order of `layers`. */
  features?: Features[] | undefined;
}

export const runHead = z.object({
  sha256: z.string(),
  classes: z.array(z.string()).min(2),
  topK: z.int().positive(),
});
export const features = z.array(z.object({ layer: z.enum(layers), length: z.int().positive() })).min(1);

/** What of a run, or of a part's provenance, says how long its rows are. */
export interface RowMaking extends RowExtras {
  topK: number;
  model: { dimension: number };
}

/** Length of a row's embedding with its features, and of its lists of scores and labels with those of its head. */
export function rowShape({ topK, model, head, features = [] }: RowMaking): {
  dimension: number;
  topK: number;
} {
  return {
    dimension: features.reduce((sum, { length }) => sum + length, model.dimension),
    topK: topK + (head?.topK ?? 0),
  };
}

/** Equal for runs whose rows hold the same extras; '' where there are none. */
export function extrasName({ head, features = [] }: RowExtras): string {
  return [
    ...(head ? [`head ${head.sha256} top ${head.topK}`] : []),
    ...features.map(({ layer }) => layer),
  ].join(', ');
}

/** A row's numbers as they go through a worker: with what lies behind them. */
export interface RowNumbers {
  embedding: Float32Array;
  scores: Float32Array;
  labels: Int32Array;
}

/** A part's lists, [rows × length] each. */
export interface RowColumns {
  labels: Int32Array;
  scores: Float32Array;
  embeddings: Float32Array;
  /** Of its head; empty where it has none, as are `headScores`. */
  headLabels: Int32Array;
  headScores: Float32Array;
  /** As in `RowExtras.features`. */
  features: Float32Array[];
}

/** A row of a part as it went through a worker; a view of the part where it has no extras. */
export function numbersAt(columns: RowColumns & { footer: RowMaking }, row: number): RowNumbers {
  const { topK, model, head, features = [] } = columns.footer;
  const rowOf = <T extends Float32Array | Int32Array>(values: T, length: number): T =>
    values.subarray(row * length, (row + 1) * length) as T; // subarray keeps the kind of array
  const [embedding, scores, labels] = [
    rowOf(columns.embeddings, model.dimension),
    rowOf(columns.scores, topK),
    rowOf(columns.labels, topK),
  ];
  const behind = features.map(({ length }, at) => rowOf(columns.features[at] as Float32Array, length));
  return {
    embedding: behind.length === 0 ? embedding : joined([embedding, ...behind]),
    scores: head ? Float32Array.of(...scores, ...rowOf(columns.headScores, head.topK)) : scores,
    labels: head ? Int32Array.of(...labels, ...rowOf(columns.headLabels, head.topK)) : labels,
  };
}

/** Columns `[first, first + length)` of [rows × width]; the numbers themselves where these are all. */
export function takeColumns<T extends Float32Array | Int32Array>(
  values: T,
  width: number,
  { first, length }: { first: number; length: number },
): T {
  if (length === width) return values;
  const rows = values.length / width;
  const taken = values.slice(0, rows * length) as T; // slice keeps the kind of array, as subarray does
  for (let row = 0; row < rows; row++)
    taken.set(values.subarray(row * width + first, row * width + first + length), row * length);
  return taken;
}

/** Where each stage's features begin in a row's embedding. */
export function featureStarts({ model, features = [] }: RowMaking): number[] {
  let end = model.dimension;
  return features.map(({ length }) => {
    end += length;
    return end - length;
  });
}

function joined(pieces: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
