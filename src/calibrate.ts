/**
 * Crops → the ranges that a network's activations are told apart in, in bytes. ONNX Runtime itself runs the network in floats,
 * with windows into it (models/activations.ts); what it shows goes into a histogram a tensor, and each gives a range.
 *
 * The same images give the same ranges on the same machine, in whatever order.
 */
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { cpu } from './devices/cpu.ts';
import { ConfigError, messageOf } from './errors.ts';
import { openProbeSession } from './infer.ts';
import { buildActivationGraph, ending } from './models/activations.ts';
import type { Calibration } from './models/calibration.ts';
import { writeWhole } from './models/files.ts';
import { chooseRange, type Histogram, startHistogram } from './models/histogram.ts';
import { type Model, requireNetwork } from './models/model.ts';
import { encodeOnnx } from './models/onnx.ts';

/** Fewer say too little of what a network meets. */
export const leastImages = 8;

/** What ONNX Runtime shows of a batch is held in memory: 4 MB an image of ResNet-152. */
const batch = 8;

export interface CalibrateOptions {
  threads: number;
  onProgress?: (images: number) => void;
  signal?: AbortSignal;
}

/**
 * `crops`: [crop × crop × 3] uint8 each, as lanes make them. Blocks its thread for a batch at a time. Throws ConfigError
 * 'few-images', 'bad-weights' where an activation is not finite, and that of `requireNetwork`.
 */
export async function calibrate(
  model: Model,
  crops: readonly Uint8Array[],
  { threads, onProgress, signal }: CalibrateOptions,
): Promise<Calibration> {
  const network = requireNetwork(model);
  const { identity, cacheDir } = model;
  if (crops.length < leastImages) {
    const what = `${crops.length} images are too few to calibrate on, ${leastImages} are needed`;
    throw new ConfigError('few-images', `${what}: name a source that has more, or give --calibration FILE`);
  }
  const { crop } = identity.preprocessing;
  const modelPath = join(cacheDir, 'graphs', `activations-${randomUUID()}.onnx`);
  const histograms = new Map<string, Histogram>();
  try {
    await writeWhole(modelPath, encodeOnnx(buildActivationGraph(network, identity.preprocessing)));
    const session = await openProbeSession({ modelPath, device: cpu, batch, crop, threads });
    try {
      const pixels = new Uint8Array(batch * crop * crop * 3);
      for (let first = 0; first < crops.length; first += batch) {
        signal?.throwIfAborted();
        const shown = crops.slice(first, first + batch);
        for (const [row, image] of shown.entries()) pixels.set(image, row * crop * crop * 3);
        const activations = await session.run(pixels);
        for (const [name, values] of Object.entries(activations)) {
          const tensor = name.slice(0, -ending.length);
          const histogram = histograms.get(tensor) ?? startHistogram();
          histograms.set(tensor, histogram);
          // The last batch may be padded.
          addFinite(histogram, values.subarray(0, (values.length / batch) * shown.length), tensor);
        }
        onProgress?.(first + shown.length);
        await setImmediate(); // signals are heard between batches
      }
    } finally {
      await session.release();
    }
  } finally {
    await rm(modelPath, { force: true });
  }
  const ranges = Object.fromEntries(
    [...histograms].map(([tensor, histogram]) => [tensor, chooseRange(histogram)]),
  );
  return { method: 'mse', weights: identity.weights, images: crops.length, ranges };
}

function addFinite(histogram: Histogram, values: Float32Array, tensor: string): void {
  try {
    histogram.add(values);
  } catch (error) {
    throw new ConfigError(
      'bad-weights',
      `in '${tensor}' ${messageOf(error)}: this model cannot be quantised`,
    );
  }
}
