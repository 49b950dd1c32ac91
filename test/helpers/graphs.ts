/** Runs ONNX graphs for tests of the model family, which is not to know `infer.ts`. */
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { encodeOnnx, type OnnxModel } from '../../src/models/onnx.ts';

export type Outputs = Record<string, Float32Array | Int32Array>;

/** All outputs of a graph for `pixels`, uint8 [count × side × side × 3]. */
export async function runGraph(
  graph: OnnxModel | string,
  pixels: Uint8Array,
  side: number,
): Promise<Outputs> {
  const images = new Tensor('uint8', pixels, [pixels.length / (3 * side * side), side, side, 3]);
  return runOnnx(typeof graph === 'string' ? graph : Buffer.concat([...encodeOnnx(graph)]), { images });
}

export async function runOnnx(model: string | Buffer, feeds: Record<string, Tensor>): Promise<Outputs> {
  // create() is overloaded, not generic over its kinds of source.
  const session = await (typeof model === 'string'
    ? InferenceSession.create(model)
    : InferenceSession.create(model));
  try {
    const outputs = Object.entries(await session.run(feeds));
    return Object.fromEntries(outputs.map(([name, { data }]) => [name, data as Float32Array | Int32Array])); // our types
  } finally {
    await session.release();
  }
}

/** Pixels that look like pictures to a network: smooth gradients, a few discs, some noise; another picture per seed. */
export function paintPixels(count: number, side: number, seed = 1): Uint8Array {
  const pixels = new Uint8Array(count * side * side * 3);
  let state = seed;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let image = 0; image < count; image++) {
    const discs = Array.from(
      { length: 6 },
      () => Array.from({ length: 6 }, random) as [number, number, number, number, number, number],
    );
    const tilt = [random(), random(), random()];
    for (let y = 0, at = image * side * side * 3; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const disc = discs.find(
          ([cx, cy, r]) => (x / side - cx) ** 2 + (y / side - cy) ** 2 < (0.3 * r) ** 2,
        );
        for (let channel = 0; channel < 3; channel++, at++) {
          const base = disc
            ? (disc[3 + channel] as number)
            : ((tilt[channel] as number) * x + (1 - (tilt[channel] as number)) * y) / side;
          pixels[at] = Math.min(255, 240 * base + 15 * random());
        }
      }
    }
  }
  return pixels;
}

export function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [dot, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    dot += (a[i] as number) * (b[i] as number);
    aa += (a[i] as number) ** 2;
    bb += (b[i] as number) ** 2;
  }
  return dot / Math.sqrt(aa * bb);
}

/** The largest difference, relative to the largest number expected. */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [error, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error = Math.max(error, Math.abs((found[i] as number) - (expected[i] as number)));
    scale = Math.max(scale, Math.abs(expected[i] as number));
  }
  return found.length === expected.length ? error / scale : Number.POSITIVE_INFINITY;
}
