/**
 * Weights made of a seed, for tests and for machines without a network: `random:SEED`. The network they make costs what
 * a trained one costs, shows every mistake in its numbers, and knows nothing.
 *
 * The numbers are the same on every machine and under every V8: integers, + − × ÷ and √ are exact or correctly rounded
 * (IEEE 754), while Math.log and Math.cos, of which normal deviates are usually made, may change in their last bit from
 * one version to the next. So a weight is the sum of four uniforms: nearly a normal's shape, only without its tails.
 */
import { createHash } from 'node:crypto';
import { type Architecture, listTensors, sizeOf, type Tensor, type Tensors } from './spec.ts';

/** Part of every random model's fingerprint: raise it whenever the numbers change. */
export const recipeVersion = 1;

/** Every tensor of the architecture. Each has its own stream, so they may be read in any order: 1.6 s for ResNet-152. */
export function randomTensors(seed: string, architecture: Architecture): Tensors {
  const tensors = new Map<string, Tensor>();
  for (const [name, shape] of listTensors(architecture)) {
    const read = () =>
      fill(name, shape, startRandom(`lensmill ${recipeVersion} ${seed} ${name}`), architecture);
    tensors.set(name, { shape, read });
  }
  return tensors;
}

/** A source of 32 random bits. */
type Random = () => number;

function fill(
  name: string,
  shape: readonly number[],
  random: Random,
  architecture: Architecture,
): Float32Array {
  const size = sizeOf(shape);
  // He's variance, 2/fan-in (https://arxiv.org/abs/1502.01852), times 4 where the first layer reads normalised pixels:
  // the picture, not the norms' offsets, is to dominate what follows.
  if (name === 'conv1.weight') return bells(random, size, Math.sqrt(8 / sizeOf(shape.slice(1))));
  // Filters that sum to zero see what differs and not what all activations share; without this, deep random ReLU networks
  // map every picture to one direction (cosines of 0.996 between photographs; so 0.84–0.97). They miss the square of a
  // rectified normal's mean, 1/π of its power; 3/fan-in makes up for it.
  if (shape.length === 4)
    return centreRows(bells(random, size, Math.sqrt(3 / sizeOf(shape.slice(1)))), shape);
  if (name === 'fc.weight') return centreRows(bells(random, size, 0.05), shape);
  // Norms that are far from the identity in all four of their parts, so that a mistake in folding shows.
  if (name.endsWith('.running_var')) return uniforms(random, size, 0.5, 1.5);
  if (name.endsWith('.weight')) {
    const gain = normGain(name, architecture);
    return uniforms(random, size, 0.7 * gain, 1.3 * gain);
  }
  return uniforms(random, size, -0.2, 0.2);
}

/**
 * Every block adds to the power of what flows through its stage. With branches this weak, a stage of any depth adds the
 * same, a shortcut takes it back, and activations stay below 50 in ResNet-152: far inside float16's 65504.
 */
function normGain(norm: string, { depths }: Architecture): number {
  if (norm.includes('.downsample.')) return 0.8;
  const lastOfBlock = /^layer([1-4])\.\d+\.bn3\./.exec(norm);
  return lastOfBlock ? 0.4 / Math.sqrt(depths[Number(lastOfBlock[1]) - 1] as number) : 1; // stages are 1 to 4
}

/** Mean 0 and the given deviation; within ±3.5 deviations. */
function bells(random: Random, size: number, deviation: number): Float32Array {
  const values = new Float32Array(size);
  // A sum of four integers, each uniform over 0–65535: mean 2·65535, variance 4·(65536² − 1)/12.
  const scale = deviation / Math.sqrt((65536 ** 2 - 1) / 3);
  for (let i = 0; i < size; i++) {
    const a = random();
    const b = random();
    values[i] = ((a >>> 16) + (a & 0xffff) + (b >>> 16) + (b & 0xffff) - 2 * 65535) * scale;
  }
  return values;
}

function uniforms(random: Random, size: number, low: number, high: number): Float32Array {
  return Float32Array.from({ length: size }, () => low + (random() / 2 ** 32) * (high - low));
}

/** Takes each row's mean off it, in place. A row is what belongs to one output. */
function centreRows(values: Float32Array, [rows = 1]: readonly number[]): Float32Array {
  const length = values.length / rows;
  for (let start = 0; start < values.length; start += length) {
    const row = values.subarray(start, start + length);
    let sum = 0;
    for (const value of row) sum += value;
    const mean = sum / length;
    for (let i = 0; i < length; i++) row[i] = (row[i] as number) - mean;
  }
  return values;
}

/** sfc32 (Chris Doty-Humphrey, PractRand), its state the key's SHA-256. */
function startRandom(key: string): Random {
  const digest = createHash('sha256').update(key).digest();
  let [a, b, c, counter] = [0, 4, 8, 12].map((at) => digest.readInt32LE(at)) as [
    number,
    number,
    number,
    number,
  ];
  return () => {
    const result = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + result;
    c |= 0;
    return result >>> 0;
  };
}
