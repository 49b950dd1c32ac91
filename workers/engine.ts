/** Slots, lanes and inference threads, joined: what turns a shard's items into rows on one device. */
import { availableParallelism } from 'node:os';
import { type Batcher, openBatcher } from '../src/batch.ts';
import type { Device } from '../src/devices/device.ts';
import type { Run } from '../src/run.ts';
import type { S3Options } from '../src/s3.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import type { LaneOptions, LaneReply, LaneRequest } from './lane.ts';
import { openThreads } from './thread.ts';

export interface EngineOptions {
  modelPath: string;
  crop: number;
  dimension: number;
  topK: number;
  device: Device;
  /** 0 for any of these: what suits the device. */
  batch: number;
  lanes: number;
  sessions: number;
  /** Of all sessions together, on a CPU. */
  threads: number;
  reads: number;
  readTimeoutMs: number;
  s3: S3Options;
  /** For so long after the start every image is decoded in a sandbox, and not only the suspect ones. */
  cautiousMs: number;
  /** Something that the operator should know, once. */
  onNotice(notice: string): void;
}

export interface Engine {
  readonly batcher: Batcher;
  /** Images per run of the model; less than asked for once the device ran out of memory. */
  readonly batch: number;
  /** Rejects when a thread is lost, as by a decoder that hangs: the process must end then. */
  readonly lost: Promise<never>;
  readonly lanes: number;
  /** Must be called with a run before its first shard; calling it again is cheap. */
  announceRun(run: Run): Promise<void>;
  /** Since the start: what the device did and how long it stood still, ms. */
  deviceTimes(): { inferMs: number; waitedMs: number };
  /** Lets the batches under way end. Safe to call twice. */
  close(): Promise<void>;
}

/** A session has one slot on the device and one ready for it; a lane decodes into one and begins to fetch for another. */
const slotsPerSession = 2;
const slotsPerLane = 2;
const leastLanes = 2;

/** Resolves when the model is loaded and warm. Throws ConfigError 'device-failed'. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { device, crop, dimension, topK, reads, readTimeoutMs, s3, modelPath } = options;
  const cores = availableParallelism();
  const batch = options.batch || device.batch;
  const laneCount = options.lanes || Math.max(leastLanes, Math.floor(cores * device.lanesPerCore));
  // ONNX Runtime's own choice is a thread per physical core, and it takes two virtual cores for one: 8.6 against 16.7
  // images/s with ResNet-152.
  const threads = options.threads || cores;
  const sessionCount = Math.min(options.sessions || device.sessions, threads);
  const slots = Array.from(
    { length: laneCount * slotsPerLane + sessionCount * slotsPerSession },
    () => new SharedArrayBuffer(batch * crop * crop * 3),
  );

  const sessionThreads = Math.floor(threads / sessionCount);
  const inferenceOptions: InferenceOptions = {
    slots,
    modelPath,
    device,
    batch,
    crop,
    threads: sessionThreads,
  };
  const sessions = openThreads<InferenceRequest, InferenceReply>('inference', sessionCount, inferenceOptions);
  const laneOptions: LaneOptions = { slots, reads, readTimeoutMs, s3 };
  const lanes = openThreads<LaneRequest, LaneReply>('lane', laneCount, laneOptions);
  const announced = new Map<string, Promise<unknown>>();
  const times = { inferMs: 0, waitedMs: 0 };
  let smallestBatch = batch;
  const cautiousUntil = performance.now() + options.cautiousMs;

  const close = async (): Promise<void> => {
    await Promise.all([sessions.close(), lanes.close()]);
  };
  try {
    await sessions.callAll({ kind: 'open' });
  } catch (error) {
    await close();
    throw error;
  }

  const batcher = openBatcher(
    {
      // Only 'open' and 'run' are answered with nothing.
      async fill(slot, entries, signal) {
        const isCautious = performance.now() < cautiousUntil;
        const wanted = isCautious ? entries.map((entry) => ({ ...entry, suspect: true })) : entries;
        const abort = { signal, abandon: { kind: 'abandon', slot } as const };
        return (await lanes.callOne(
          { kind: 'fill', slot, entries: wanted },
          abort,
        )) as NonNullable<LaneReply>;
      },
      async infer(slot) {
        const result = (await sessions.callOne({ kind: 'infer', slot })) as NonNullable<InferenceReply>;
        // What was made before a session became smaller has the larger batch; a part tells the smallest.
        smallestBatch = Math.min(smallestBatch, result.batch);
        if (result.notice !== undefined) options.onNotice(result.notice);
        times.inferMs += result.inferMs / sessionCount;
        times.waitedMs += result.waitedMs / sessionCount;
        return result;
      },
    },
    { batch, slots: slots.length, dimension, topK },
  );

  return {
    batcher,
    get batch() {
      return smallestBatch;
    },
    lost: Promise.race([sessions.lost, lanes.lost]),
    lanes: laneCount,
    async announceRun(run) {
      let ready = announced.get(run.run);
      if (!ready) {
        ready = lanes.callAll({ kind: 'run', run });
        announced.set(run.run, ready);
      }
      await ready;
    },
    deviceTimes: () => ({ ...times }),
    close,
  };
}
