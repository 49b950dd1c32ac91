/** Whether an image that is done again gives what its row says. */
import type { FailureCode } from '../errors.ts';
import { featureStarts, type RowMaking, type RowNumbers } from '../parts/row-extras.ts';
import type { Run } from '../runs/run.ts';
import type { Outcome } from '../types.ts';
import type { SampledRow } from './sample.ts';

/** The same image, done again. */
export interface RedoneRow {
  outcome: Outcome;
  labels: Int32Array;
  scores: Float32Array;
  embedding: Float32Array;
}

/** 'differs': the row is not what its image gives. 'unknown': the image cannot be had as it was, which proves nothing. */
export type Verdict = { verdict: 'same'; distance: number } | { verdict: 'differs' | 'unknown'; why: string };

/** How far two embeddings of one picture may be apart: their largest difference over the largest value. */
export interface Tolerance {
  distance: number;
  reason: string;
}

/**
 * fp32 on CPUs: the order of additions differs from kernel to kernel, 1e-5; on one machine batch size and threads change
 * nothing. A GPU since Ampere multiplies fp32 as TF32, which has the 10 bits of fp16, and all of ResNet-152 in fp16 is 1e-3
 * away from fp32. A stored float16 is rounded by up to 2^-11 of its value. int8 is the same to the last bit on one machine; where
 * another kernel rounds one sum the other way, all later steps may: 5e-2 between ONNX Runtime's bytes and its floats.
 */
export function toleranceOf(
  { model, embedding }: Pick<Run, 'model' | 'embedding'>,
  devices: readonly string[],
): Tolerance {
  const { precision } = model;
  const isExact = precision === 'fp32' && devices.every((device) => device === 'cpu');
  const isOnCpus = isExact || precision === 'int8';
  const stored = embedding === 'float16' ? 1e-3 : 0;
  const reason = `${precision}${isOnCpus ? ' on CPUs' : ' on a GPU or in half precision'}${stored ? ', stored as float16' : ''}`;
  return { distance: (precision === 'int8' ? 1e-1 : isExact ? 1e-4 : 5e-3) + stored, reason };
}

/** A difference of logits becomes that part of a score, and logits are some ten times as large as embeddings. */
const scoreFactor = 10;

/** With what lies behind the row's numbers, in `redone` as in `row.whole`: the run says what that is. */
export function compareRow(
  row: Pick<SampledRow, 'error' | 'sha256' | 'whole'>,
  redone: RedoneRow,
  tolerance: Tolerance,
  run: RowMaking,
): Verdict {
  const { outcome } = redone;
  const now = outcome.status === 'failed' ? outcome.error : null;
  if (row.error !== now) {
    const isUnknown = [row.error, now].some((code) => code !== null && comesAndGoes.has(code));
    const why = `was ${row.error ?? 'ok'}, is ${now ?? 'ok'} now${outcome.status === 'failed' ? `: ${outcome.message}` : ''}`;
    return { verdict: isUnknown ? 'unknown' : 'differs', why };
  }
  if (row.sha256 !== null && outcome.sha256 !== undefined && row.sha256 !== outcome.sha256) {
    const why = `its bytes have SHA-256 ${outcome.sha256}, not ${row.sha256}: the image was changed and its etag was not`;
    return { verdict: 'differs', why };
  }
  if (outcome.status !== 'ok') return { verdict: 'same', distance: 0 };
  const { topK, model, features = [] } = run;
  const starts = featureStarts(run);
  const vectors = [
    { name: 'its embedding is', start: 0, length: model.dimension },
    ...features.map(({ layer, length }, at) => ({
      name: `its features of ${layer} are`,
      start: starts[at] ?? 0,
      length,
    })),
  ];
  let furthest = 0;
  for (const { name, start, length } of vectors) {
    const [ours, theirs] = [redone, row.whole].map(({ embedding }) =>
      embedding.subarray(start, start + length),
    ) as [Float32Array, Float32Array];
    const distance = relativeDistance(ours, theirs);
    if (!(distance <= tolerance.distance))
      return { verdict: 'differs', why: `${name} ${distance.toExponential(1)} away` };
    furthest = Math.max(furthest, distance);
  }
  const own = otherRank(take(redone, 0, topK), take(row.whole, 0, topK), tolerance);
  if (own) return { verdict: 'differs', why: `label ${own}` };
  const ofHead = otherRank(take(redone, topK), take(row.whole, topK), tolerance);
  if (ofHead) return { verdict: 'differs', why: `its head's label ${ofHead}` };
  return { verdict: 'same', distance: furthest };
}

type Ranked = Pick<RowNumbers, 'labels' | 'scores'>;

function take({ labels, scores }: Ranked, first: number, end?: number): Ranked {
  return { labels: labels.subarray(first, end), scores: scores.subarray(first, end) };
}

/** The first rank at which two lists say something else, in words. */
function otherRank(now: Ranked, was: Ranked, tolerance: Tolerance): string | undefined {
  const rank = was.labels.findIndex((label, at) => {
    // Of two labels with nearly the same score, either may come first.
    return !isNear(now.scores[at], was.scores[at]) || (label !== now.labels[at] && !isTie(at));
  });
  if (rank === -1) return undefined;
  return `${rank} is ${now.labels[rank]} with ${now.scores[rank]}, not ${was.labels[rank]} with ${was.scores[rank]}`;

  function isTie(at: number): boolean {
    const other = was.labels.indexOf(now.labels[at] ?? -1);
    // A label from below the last one has at most the last one's score.
    return isNear(was.scores.at(other), was.scores[at]);
  }

  function isNear(score = 0, other = 0): boolean {
    return Math.abs(score - other) <= scoreFactor * tolerance.distance * Math.max(score, other);
  }
}

/** What depends on the moment and not on the image alone. */
const comesAndGoes: ReadonlySet<FailureCode> = new Set([
  'not-found',
  'changed',
  'access-denied',
  'read-failed',
  'timeout',
  'crashed-worker',
]);

function relativeDistance(found: Float32Array, expected: Float32Array): number {
  let [distance, scale] = [0, 0];
  for (const [at, value] of expected.entries()) {
    distance = Math.max(distance, Math.abs((found[at] ?? 0) - value));
    scale = Math.max(scale, Math.abs(value));
  }
  return distance / scale;
}
