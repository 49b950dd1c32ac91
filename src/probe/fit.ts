/**
 * Softmax regression (multinomial logistic), fitted by L-BFGS: the weights W and biases b that make
 *
 *   mean over the examples of −log softmax(W·x + b)[its class]  +  l2/2 · |W|²
 *
 * least. Biases are not held down. The matrix products are float32 and made a block of rows at a time (products.ts), sums and
 * steps are float64. L-BFGS as in Nocedal & Wright, "Numerical Optimization", algorithms 7.4 and 7.5.
 */
import { setImmediate } from 'node:timers/promises';
import type { Products } from './products.ts';

/** Rows of numbers, in blocks of `blockRows`, the last one shorter. */
export interface Examples {
  rows: number;
  dimension: number;
  /** [rows of the block × dimension] each. */
  blocks: Float32Array[];
  /** By row: its class. */
  labels: Int32Array;
  classes: number;
}

/** 32 MB of 2048 numbers: long enough for a product to be quick, short enough to answer in between. */
export const blockRows = 4096;

export interface Weights {
  /** [classes × dimension], and behind them a bias a class. */
  values: Float64Array;
  /** Steps that it took. */
  steps: number;
}

export interface FitOptions {
  products: Products;
  /** By row: whether it is learned from. */
  isUsed: (row: number) => boolean;
  l2: number;
  /**
   * It ends when `lookBack` steps have gained less than this part of the loss. Embeddings have a few directions in which all of
   * them are alike, so that the last thousandth of the loss may take hundreds of steps.
   */
  enough: number;
  /** Where to begin; default: zeros. */
  start?: Float64Array;
  signal?: AbortSignal | undefined;
}

/** Steps that L-BFGS remembers. */
const memory = 10;
const maxSteps = 300;
const lookBack = 10;
/** The largest slope that is taken for none; a product of float32 numbers has some 1e-7 of noise. */
const flat = 1e-5;
/** A step must bring this part of what the slope promises (Armijo). */
const leastGain = 1e-4;

export async function fitSoftmax(examples: Examples, options: FitOptions): Promise<Weights> {
  const { classes, dimension } = examples;
  let at: Float64Array = options.start?.slice() ?? new Float64Array(classes * (dimension + 1));
  let here = await evaluate(examples, at, options);
  const past: Step[] = [];
  const losses: number[] = [];
  for (let steps = 0; ; steps++) {
    const before = losses[steps - lookBack] ?? Number.POSITIVE_INFINITY;
    losses.push(here.loss);
    const isDone = largest(here.slope) <= flat || before - here.loss < options.enough * here.loss;
    if (isDone || steps === maxSteps) return { values: at, steps };
    const way = wayDown(here.slope, past);
    const promised = product(way, here.slope);
    let length = past.length === 0 ? Math.min(1, 1 / largest(here.slope)) : 1;
    let next = plus(at, way, length);
    let there = await evaluate(examples, next, options);
    while (!(there.loss <= here.loss + leastGain * length * promised)) {
      length /= 2;
      // As far down as the noise of float32 lets it see.
      if (length < 1e-6) return { values: at, steps };
      next = plus(at, way, length);
      there = await evaluate(examples, next, options);
    }
    const moved = plus(next, at, -1);
    const bent = plus(there.slope, here.slope, -1);
    const curvature = product(moved, bent);
    if (curvature > 0) past.push({ moved, bent, curvature });
    if (past.length > memory) past.shift();
    [at, here] = [next, there];
  }
}

interface Step {
  moved: Float64Array;
  /** How the slope changed. */
  bent: Float64Array;
  curvature: number;
}

/** Minus the slope times what the past steps tell of the inverse Hessian. */
function wayDown(slope: Float64Array, past: readonly Step[]): Float64Array {
  const way = slope.map((value) => -value);
  const factors: number[] = [];
  for (const { moved, bent, curvature } of past.toReversed()) {
    const factor = product(moved, way) / curvature;
    factors.push(factor);
    add(way, bent, -factor);
  }
  const last = past.at(-1);
  if (last) scale(way, last.curvature / product(last.bent, last.bent));
  for (const { moved, bent, curvature } of past) {
    const factor = factors.pop() ?? 0; // one a step
    add(way, moved, factor - product(bent, way) / curvature);
  }
  return way;
}

interface Point {
  loss: number;
  slope: Float64Array;
}

async function evaluate(
  examples: Examples,
  at: Float64Array,
  { products, isUsed, l2, signal }: FitOptions,
): Promise<Point> {
  const { classes, dimension, blocks, labels } = examples;
  const matrix = classes * dimension;
  const slope = new Float64Array(at.length);
  let [loss, used] = [0, 0];
  let row = 0;
  for (const [index, block] of blocks.entries()) {
    const residuals = await logitsOfBlock(examples, index, at, products);
    for (let first = 0; first < residuals.length; first += classes, row++) {
      const scores = residuals.subarray(first, first + classes);
      if (!isUsed(row)) {
        scores.fill(0);
        continue;
      }
      const label = labels[row] as number;
      loss += softmaxLoss(scores, label);
      scores[label] = (scores[label] as number) - 1;
      for (let one = 0; one < classes; one++)
        slope[matrix + one] = (slope[matrix + one] as number) + (scores[one] as number);
      used += 1;
    }
    add(slope, await products.transposed(residuals, block, [classes, dimension]), 1);
    await setImmediate();
    signal?.throwIfAborted();
  }
  scale(slope, 1 / used);
  let square = 0;
  for (let i = 0; i < matrix; i++) {
    const weight = at[i] as number;
    square += weight * weight;
    slope[i] = (slope[i] as number) + l2 * weight;
  }
  return { loss: loss / used + (l2 / 2) * square, slope };
}

/** [rows × classes] of every row, used or not. */
export async function logitsOf(
  examples: Examples,
  { values }: Pick<Weights, 'values'>,
  products: Products,
): Promise<Float32Array> {
  const logits = new Float32Array(examples.rows * examples.classes);
  for (const index of examples.blocks.keys())
    logits.set(await logitsOfBlock(examples, index, values, products), index * blockRows * examples.classes);
  return logits;
}

async function logitsOfBlock(
  { classes, dimension, blocks }: Examples,
  index: number,
  values: Float64Array,
  products: Products,
): Promise<Float32Array> {
  const block = blocks[index] as Float32Array; // callers count them
  const matrix = new Float32Array(values.subarray(0, classes * dimension));
  const logits = await products.rowsTimes(block, matrix, [classes, dimension]);
  const biases = values.subarray(classes * dimension);
  for (let i = 0; i < logits.length; i++) logits[i] = (logits[i] as number) + (biases[i % classes] as number);
  return logits;
}

/** Turns logits into probabilities in place, and returns −log of that of `label`. */
export function softmaxLoss(scores: Float32Array, label: number): number {
  const logit = scores[label] as number;
  let highest = Number.NEGATIVE_INFINITY;
  for (const score of scores) highest = Math.max(highest, score);
  let sum = 0;
  for (const score of scores) sum += Math.exp(score - highest);
  for (let i = 0; i < scores.length; i++) scores[i] = Math.exp((scores[i] as number) - highest) / sum;
  return Math.log(sum) + highest - logit;
}

function largest(values: Float64Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

function product(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

function plus(a: Float64Array, b: Float64Array, factor: number): Float64Array {
  const sum = a.slice();
  add(sum, b, factor);
  return sum;
}

/** Adds to the first so many numbers of `sum` as `values` has. */
function add(sum: Float64Array, values: Float64Array | Float32Array, factor: number): void {
  for (let i = 0; i < values.length; i++) sum[i] = (sum[i] as number) + factor * (values[i] as number);
}

function scale(values: Float64Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] = (values[i] as number) * factor;
}
