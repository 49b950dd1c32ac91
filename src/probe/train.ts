/**
 * Examples → a linear classifier over the raw embedding, and how good it is:
 *
 *   1. A share of each class is held out; it is looked at once, at the end. The rest is parted into folds.
 *   2. Every number of the embeddings is brought to mean 0 and deviation 1, as it is spread in the rest.
 *   3. For each strength of l2 from strong to weak, each fold is predicted by what was fitted on the others; the strength that
 *      predicts best (by −log of the true class) is taken.
 *   4. Of the same predictions comes one temperature, by which all logits are divided so that the probabilities keep what they
 *      say (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
 *   5. With both, the classifier is fitted on all folds. Scaling and temperature are folded into its weights.
 */
import { ConfigError } from '../errors.ts';
import { type Examples, fitSoftmax, logitsOf, softmaxLoss } from './fit.ts';
import type { Products } from './products.ts';
import { type Calibration, measureCalibration, measureQuality, type Quality } from './quality.ts';
import { folds, heldOut, leastPictures, type SplitExample, splitExamples } from './split.ts';

export interface TrainOptions {
  products: Products;
  /** Names by class. */
  classes: readonly string[];
  /** Part of each class that is held out. */
  heldOut: number;
  /** 'auto': chosen by how well folds are predicted. */
  l2: number | 'auto';
  seed: number;
  signal?: AbortSignal | undefined;
  onProgress?: (progress: { done: number; total: number }) => void;
}

export interface Trained {
  /** [classes × dimension], over the embedding as it is stored. */
  weights: Float32Array;
  /** [classes] */
  biases: Float32Array;
  report: TrainReport;
}

export interface TrainReport {
  /** Learned from, and by class. */
  training: { examples: number; classes: number[] };
  l2: number;
  /** What was tried, strongest first: mean −log of the true class, of examples that were not learned from. */
  tried: { l2: number; loss: number }[];
  temperature: number;
  /** Steps of the last fit. */
  steps: number;
  /** Of what was held out. */
  heldOut: Quality & { calibration: { before: Calibration; after: Calibration } };
}

/** From where hardly anything is learned to where hardly anything is held down. */
const strengths = [10, 1, 0.1, 0.01, 1e-3, 1e-4];
/** As in `FitOptions`. */
const enoughToChoose = 1e-3;
const enoughToKeep = 1e-5;
/** Weaker ones are not tried once so many in turn were worse. */
const patience = 2;

/**
 * Changes the numbers of `examples`. Throws ConfigError 'one-class' and 'too-few-examples', which names the classes that have
 * less than `leastPictures` pictures.
 */
export async function trainProbe(
  examples: Examples,
  pictures: readonly SplitExample[],
  options: TrainOptions,
): Promise<Trained> {
  const { products, signal, classes } = options;
  throwIfTooFew(pictures, classes);
  const parts = splitExamples(pictures, { share: options.heldOut, seed: options.seed });
  const isTraining = (row: number): boolean => parts[row] !== heldOut;
  const spread = standardise(examples, isTraining);

  const wanted = options.l2 === 'auto' ? strengths : [options.l2];
  let done = 0;
  const tell = (): void => options.onProgress?.({ done: done++, total: wanted.length * folds + 1 });
  const tried: TrainReport['tried'] = [];
  const starts: (Float64Array | undefined)[] = new Array(folds).fill(undefined);
  let best: { l2: number; loss: number; logits: Float32Array; start: Float64Array | undefined } | undefined;
  for (const l2 of wanted) {
    const logits = new Float32Array(examples.rows * examples.classes);
    for (let fold = 0; fold < folds; fold++) {
      tell();
      const isUsed = (row: number): boolean => isTraining(row) && parts[row] !== fold;
      const start = starts[fold];
      const fitted = await fitSoftmax(examples, {
        products,
        isUsed,
        l2,
        enough: enoughToChoose,
        signal,
        ...(start && { start }),
      });
      starts[fold] = fitted.values;
      copyRows(await logitsOf(examples, fitted, products), logits, examples, (row) => parts[row] === fold);
    }
    const loss = meanLoss(logits, examples, isTraining, 1);
    tried.push({ l2, loss });
    if (!best || loss < best.loss) best = { l2, loss, logits, start: starts[0] };
    if (tried.length - tried.findIndex((one) => one.l2 === best?.l2) > patience) break;
  }
  if (!best) throw new Error('no strength was tried: this is a bug');
  const { l2, start } = best;
  const temperature = findTemperature(best.logits, examples, isTraining);
  tell();
  const fitted = await fitSoftmax(examples, {
    products,
    isUsed: isTraining,
    l2,
    enough: enoughToKeep,
    signal,
    ...(start && { start }),
  });

  const logits = await logitsOf(examples, fitted, products);
  const held = parts.reduce((count, part) => count + (part === heldOut ? 1 : 0), 0);
  const labels = examples.labels.filter((_, row) => !isTraining(row));
  const training = { examples: examples.rows - held, classes: countLabels(examples, isTraining) };
  const common = training.classes.indexOf(Math.max(...training.classes));
  const [before, after] = [1, temperature].map((by) => probabilitiesOf(logits, examples, isTraining, by));
  if (!before || !after) throw new Error('two temperatures gave less than two: this is a bug');
  const calibrationOf = (probabilities: Float32Array): Calibration =>
    measureCalibration(probabilities, labels, classes.length);
  return {
    ...foldIn(fitted.values, examples, spread, temperature),
    report: {
      training,
      l2,
      tried,
      temperature,
      steps: fitted.steps,
      heldOut: {
        ...measureQuality(after, labels, { classes: classes.length, common }),
        calibration: { before: calibrationOf(before), after: calibrationOf(after) },
      },
    },
  };
}

function throwIfTooFew(pictures: readonly SplitExample[], classes: readonly string[]): void {
  if (classes.length < 2) {
    const only = classes.length === 1 ? `all have the label '${classes[0]}'` : 'none has a label';
    throw new ConfigError(
      'one-class',
      `a probe tells at least two classes apart, and ${only}: label others too`,
    );
  }
  // As splitExamples has it: of copies the first one's label.
  const distinct = new Map(pictures.toReversed().map(({ sha256, label }) => [sha256, label]));
  const counts = new Array<number>(classes.length).fill(0);
  for (const label of distinct.values()) counts[label] = (counts[label] ?? 0) + 1;
  const few = classes.flatMap((name, label) =>
    (counts[label] ?? 0) < leastPictures ? [`${name} (${counts[label]})`] : [],
  );
  if (few.length === 0) return;
  const shown =
    few.length <= 10 ? few.join(', ') : `${few.slice(0, 10).join(', ')} and ${few.length - 10} more`;
  throw new ConfigError(
    'too-few-examples',
    `a class needs ${leastPictures} different pictures with an embedding; these have less: ${shown}. Label more of them, or leave them out`,
  );
}

/** By number of the embedding. */
interface Spread {
  means: Float64Array;
  /** 1 over the deviation; 0 where all are alike, so that the number counts for nothing. */
  factors: Float64Array;
}

function standardise({ dimension, blocks }: Examples, isUsed: (row: number) => boolean): Spread {
  const means = new Float64Array(dimension);
  const squares = new Float64Array(dimension);
  let used = 0;
  forEachRow({ dimension, blocks }, (values, row) => {
    if (!isUsed(row)) return;
    used += 1;
    // Welford's way: no difference of large sums.
    for (let i = 0; i < dimension; i++) {
      const value = values[i] as number;
      const off = value - (means[i] as number);
      const mean = (means[i] as number) + off / used;
      means[i] = mean;
      squares[i] = (squares[i] as number) + off * (value - mean);
    }
  });
  const factors = squares.map((square) => (square > 0 ? 1 / Math.sqrt(square / used) : 0));
  forEachRow({ dimension, blocks }, (values) => {
    for (let i = 0; i < dimension; i++)
      values[i] = ((values[i] as number) - (means[i] as number)) * (factors[i] as number);
  });
  return { means, factors };
}

function forEachRow(
  { dimension, blocks }: Pick<Examples, 'dimension' | 'blocks'>,
  visit: (values: Float32Array, row: number) => void,
): void {
  let row = 0;
  for (const block of blocks)
    for (let first = 0; first < block.length; first += dimension)
      visit(block.subarray(first, first + dimension), row++);
}

function copyRows(
  from: Float32Array,
  to: Float32Array,
  { rows, classes }: Examples,
  isWanted: (row: number) => boolean,
): void {
  for (let row = 0; row < rows; row++) {
    if (isWanted(row)) to.set(from.subarray(row * classes, (row + 1) * classes), row * classes);
  }
}

function meanLoss(
  logits: Float32Array,
  { rows, classes, labels }: Examples,
  isUsed: (row: number) => boolean,
  temperature: number,
): number {
  let [loss, used] = [0, 0];
  for (let row = 0; row < rows; row++) {
    if (!isUsed(row)) continue;
    const scores = logits.subarray(row * classes, (row + 1) * classes).map((logit) => logit / temperature);
    loss += softmaxLoss(scores, labels[row] as number);
    used += 1;
  }
  return loss / used;
}

/** The temperature of least loss, by golden section over its logarithm: the loss has one minimum there. */
function findTemperature(logits: Float32Array, examples: Examples, isUsed: (row: number) => boolean): number {
  const golden = (Math.sqrt(5) - 1) / 2;
  const lossAt = (log: number): number => meanLoss(logits, examples, isUsed, Math.exp(log));
  let [low, high] = [Math.log(0.05), Math.log(20)];
  let [left, right] = [high - golden * (high - low), low + golden * (high - low)];
  let [atLeft, atRight] = [lossAt(left), lossAt(right)];
  while (high - low > 1e-3) {
    if (atLeft < atRight) {
      [high, right, atRight] = [right, left, atLeft];
      left = high - golden * (high - low);
      atLeft = lossAt(left);
    } else {
      [low, left, atLeft] = [left, right, atRight];
      right = low + golden * (high - low);
      atRight = lossAt(right);
    }
  }
  return Math.exp((low + high) / 2);
}

/** Of the rows that were not learned from. */
function probabilitiesOf(
  logits: Float32Array,
  { rows, classes, labels }: Examples,
  isTraining: (row: number) => boolean,
  temperature: number,
): Float32Array {
  const kept: number[] = [];
  for (let row = 0; row < rows; row++) if (!isTraining(row)) kept.push(row);
  const probabilities = new Float32Array(kept.length * classes);
  for (const [at, row] of kept.entries()) {
    const scores = probabilities.subarray(at * classes, (at + 1) * classes);
    scores.set(logits.subarray(row * classes, (row + 1) * classes).map((logit) => logit / temperature));
    softmaxLoss(scores, labels[row] as number);
  }
  return probabilities;
}

function countLabels({ labels, classes }: Examples, isUsed: (row: number) => boolean): number[] {
  const counts = new Array<number>(classes).fill(0);
  for (const [row, label] of labels.entries()) if (isUsed(row)) counts[label] = (counts[label] ?? 0) + 1;
  return counts;
}

/** Weights over standardised numbers, as weights over the numbers themselves. */
function foldIn(
  values: Float64Array,
  { classes, dimension }: Examples,
  { means, factors }: Spread,
  temperature: number,
): Pick<Trained, 'weights' | 'biases'> {
  const weights = new Float32Array(classes * dimension);
  const biases = new Float32Array(classes);
  for (let label = 0; label < classes; label++) {
    let bias = values[classes * dimension + label] as number;
    for (let i = 0; i < dimension; i++) {
      const weight = (values[label * dimension + i] as number) * (factors[i] as number);
      weights[label * dimension + i] = weight / temperature;
      bias -= weight * (means[i] as number);
    }
    biases[label] = bias / temperature;
  }
  return { weights, biases };
}
