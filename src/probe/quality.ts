/** How good predictions are, and whether their probabilities can be believed. Pure measuring. */
import { type Share, shareOf } from '../certify.ts';

export interface Quality {
  /** Examples. */
  examples: number;
  accuracy: Share;
  /** Of whoever always says the class that was met most often in training: what accuracy is to be held against. */
  baseline: { label: number } & Share;
  /** By class. */
  classes: ClassQuality[];
  /** [true class][predicted class] */
  confusion: number[][];
}

export interface ClassQuality {
  examples: number;
  /** Of those that were said to be of the class, the part that is; null where none was. */
  precision: number | null;
  /** Of those of the class, the part that was said to be. */
  recall: number;
}

/** How far probabilities keep what they say. */
export interface Calibration {
  /** Mean −log of the probability of the true class. */
  loss: number;
  /** Expected calibration error: over the bins, by their examples, the mean gap between confidence and accuracy. */
  error: number;
  /** By the probability of the class that was said, ten of a width; those with no example are left out. */
  bins: { from: number; to: number; examples: number; confidence: number; accuracy: number }[];
}

/** `probabilities`: [examples × classes]; `common`: the most frequent class in training. */
export function measureQuality(
  probabilities: Float32Array,
  labels: Int32Array,
  { classes, common }: { classes: number; common: number },
): Quality {
  const confusion = Array.from({ length: classes }, () => new Array<number>(classes).fill(0));
  for (const [row, label] of labels.entries()) {
    const counts = confusion[label] as number[]; // a row a class
    const said = bestOf(probabilities.subarray(row * classes, (row + 1) * classes));
    counts[said] = (counts[said] ?? 0) + 1;
  }
  const countOf = (label: number): number => sumOf(confusion[label] ?? []);
  const right = sumOf(confusion.map((counts, label) => counts[label] ?? 0));
  return {
    examples: labels.length,
    accuracy: shareOf(right, labels.length),
    baseline: { label: common, ...shareOf(countOf(common), labels.length) },
    classes: confusion.map((counts, label) => {
      const said = sumOf(confusion.map((row) => row[label] ?? 0));
      const hits = counts[label] ?? 0;
      return {
        examples: countOf(label),
        precision: said === 0 ? null : hits / said,
        recall: hits / countOf(label),
      };
    }),
    confusion,
  };
}

const binCount = 10;

export function measureCalibration(
  probabilities: Float32Array,
  labels: Int32Array,
  classes: number,
): Calibration {
  const bins = Array.from({ length: binCount }, () => ({ examples: 0, confidence: 0, right: 0 }));
  let loss = 0;
  for (const [row, label] of labels.entries()) {
    const ofRow = probabilities.subarray(row * classes, (row + 1) * classes);
    const said = bestOf(ofRow);
    const confidence = ofRow[said] ?? 0;
    // A float32 that has become 0 is not infinitely wrong.
    loss -= Math.log(Math.max(ofRow[label] ?? 0, 2 ** -126));
    const bin = bins[Math.min(binCount - 1, Math.floor(confidence * binCount))];
    if (!bin) throw new Error(`a probability of ${confidence}: this is a bug`);
    bin.examples += 1;
    bin.confidence += confidence;
    if (said === label) bin.right += 1;
  }
  const gaps = bins.map(({ confidence, right }) => Math.abs(confidence - right));
  return {
    loss: loss / labels.length,
    error: sumOf(gaps) / labels.length,
    bins: bins.flatMap(({ examples, confidence, right }, at) =>
      examples === 0
        ? []
        : [
            {
              from: at / binCount,
              to: (at + 1) / binCount,
              examples,
              confidence: confidence / examples,
              accuracy: right / examples,
            },
          ],
    ),
  };
}

/** The index of the largest value; of equal ones the first. */
function bestOf(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
