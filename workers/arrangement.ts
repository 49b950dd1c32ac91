/** A model on a device, arranged as a worker would have it and fed without a pause: how fast that is. */
import type { Device } from '../src/devices/device.ts';
import type { Arrangement } from '../src/tune.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import { makeSlot, slotsPerSession } from './slot.ts';
import { openThreads } from './thread.ts';

export interface ArrangedModel extends Arrangement {
  modelPath: string;
  device: Device;
  crop: number;
  dimension: number;
  /** Of the graph. */
  topK: number;
  /** On a CPU, of all sessions together. */
  threads: number;
}

export interface Pace {
  imagesPerSecond: number;
  /** From the end of a session's batch to the beginning of its next one, on average. */
  betweenMs: number;
}

export interface RunningArrangement {
  /** As many whole batches as begin in `forMs`. */
  measure(forMs: number): Promise<Pace>;
  /** Safe to call twice. */
  close(): Promise<void>;
}

/** Loaded and warm; undefined where memory is too short for it. Throws ConfigError 'device-failed'. */
export async function openArrangement(model: ArrangedModel): Promise<RunningArrangement | undefined> {
  const { modelPath, device, batch, sessions: count, crop, dimension, topK } = model;
  const slots = Array.from({ length: count * slotsPerSession }, () =>
    makeSlot({ batch, crop, dimension, topK }),
  );
  for (const { pixels } of slots) paint(new Uint8Array(pixels));
  const threads = Math.max(1, Math.floor(model.threads / count));
  const options: InferenceOptions = { slots, modelPath, device, batch, crop, threads };
  const sessions = openThreads<InferenceRequest, InferenceReply>('inference', count, options);
  const infer = async (slot: number): Promise<NonNullable<InferenceReply>> => {
    const done = await Promise.race([sessions.callOne({ kind: 'infer', slot }), sessions.lost]);
    if (!done) throw new Error('a model gave nothing: this is a bug');
    return done;
  };

  try {
    await Promise.race([sessions.callAll({ kind: 'open' }), sessions.lost]);
    const first = await Promise.all(slots.map((_, slot) => infer(slot)));
    // A session that is short of memory goes on with a smaller batch, and that is another arrangement.
    if (first.some((done) => done.batch < batch)) {
      await sessions.close();
      return undefined;
    }
  } catch (error) {
    await sessions.close();
    throw error;
  }

  return {
    async measure(forMs) {
      const started = performance.now();
      let [batches, inferMs] = [0, 0];
      const feed = async (slot: number): Promise<void> => {
        while (performance.now() - started < forMs) {
          const done = await infer(slot);
          inferMs += done.inferMs;
          batches += 1;
        }
      };
      await Promise.all(slots.map((_, slot) => feed(slot)));
      const wholeMs = performance.now() - started;
      return {
        imagesPerSecond: (batches * batch * 1_000) / wholeMs,
        betweenMs: (wholeMs * count - inferMs) / batches,
      };
    },
    close: () => sessions.close(),
  };
}

/** Noise, for a model may be quicker over pixels that are all alike. */
function paint(pixels: Uint8Array): void {
  const mostAtOnce = 65_536; // of getRandomValues
  const noise = crypto.getRandomValues(new Uint8Array(Math.min(mostAtOnce, pixels.length)));
  for (let first = 0; first < pixels.length; first += noise.length)
    pixels.set(noise.subarray(0, pixels.length - first), first);
}
