/** Slots, lanes and the inference thread, joined: what turns a shard's items into rows on one device. */
import { availableParallelism } from 'node:os';
import { type Batcher, openBatcher } from '../src/batch.ts';
import type { Device } from '../src/devices/device.ts';
import type { Run } from '../src/run.ts';
import type { S3Options } from '../src/s3.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import type { LaneOptions, LaneReply, LaneRequest } from './lane.ts';
import { openThread } from './thread.ts';

export interface EngineOptions {
  modelPath: string;
  crop: number;
  dimension: number;
  topK: number;
  device: Device;
  /** 0 for any of these: what suits the device. */
  batch: number;
  lanes: number;
  threads: number;
  reads: number;
  readTimeoutMs: number;
  s3: S3Options;
}

export interface Engine {
  readonly batcher: Batcher;
  readonly batch: number;
  readonly lanes: number;
  /** Must be called with a run before its first shard; calling it again is cheap. */
  announceRun(run: Run): Promise<void>;
  /** Since the start: what the device did and how long it stood still, ms. */
  deviceTimes(): { inferMs: number; waitedMs: number };
  /** Lets the batches under way end. Safe to call twice. */
  close(): Promise<void>;
}

/** Slots beyond those that the lanes fill: one on the device, one ready for it. */
const readySlots = 2;
const slotsPerLane = 2;

/** Resolves when the model is loaded and warm. Throws ConfigError 'device-failed'. */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { device, crop, dimension, topK, threads, reads, readTimeoutMs, s3, modelPath } = options;
  const batch = options.batch || device.batch;
  const laneCount = options.lanes || Math.max(1, Math.floor(availableParallelism() * device.lanesPerCore));
  const slots = Array.from(
    { length: laneCount * slotsPerLane + readySlots },
    () => new SharedArrayBuffer(batch * crop * crop * 3),
  );

  const inferenceOptions: InferenceOptions = { slots, modelPath, device, batch, crop, threads };
  const inference = openThread<InferenceRequest, InferenceReply>('inference', inferenceOptions);
  const laneOptions: LaneOptions = { slots, reads, readTimeoutMs, s3 };
  const lanes = Array.from({ length: laneCount }, () => ({
    thread: openThread<LaneRequest, LaneReply>('lane', laneOptions),
    filling: 0,
  }));
  const announced = new Map<string, Promise<unknown>>();
  const times = { inferMs: 0, waitedMs: 0 };

  const close = async (): Promise<void> => {
    await Promise.all([inference.close(), ...lanes.map((lane) => lane.thread.close())]);
  };
  try {
    await inference.call({ kind: 'open' });
  } catch (error) {
    await close();
    throw error;
  }

  const batcher = openBatcher(
    {
      async fill(slot, entries) {
        const lane = lanes.reduce((least, other) => (other.filling < least.filling ? other : least));
        lane.filling += 1;
        try {
          return (await lane.thread.call({ kind: 'fill', slot, entries })) as NonNullable<LaneReply>;
        } finally {
          lane.filling -= 1;
        }
      },
      async infer(slot) {
        const result = (await inference.call({ kind: 'infer', slot })) as NonNullable<InferenceReply>;
        times.inferMs += result.inferMs;
        times.waitedMs += result.waitedMs;
        return result;
      },
    },
    { batch, slots: slots.length, dimension, topK },
  );

  return {
    batcher,
    batch,
    lanes: laneCount,
    async announceRun(run) {
      let ready = announced.get(run.run);
      if (!ready) {
        ready = Promise.all(lanes.map((lane) => lane.thread.call({ kind: 'run', run })));
        announced.set(run.run, ready);
      }
      await ready;
    },
    deviceTimes: () => ({ ...times }),
    close,
  };
}
