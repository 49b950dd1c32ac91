/** Slots, lanes and inference threads, joined: what turns a shard's items into rows on one device. */
import { availableParallelism } from 'node:os';
import { type Batcher, openBatcher } from '../src/batch.ts';
import { describeDecoder } from '../src/decode.ts';
import { type Device, requirePrecision } from '../src/devices/device.ts';
import { requireRealDevice } from '../src/devices/sleep.ts';
import { rowShape } from '../src/parts/row-extras.ts';
import { openReuse, type Reuse } from '../src/reuse.ts';
import type { Run } from '../src/runs/run.ts';
import type { Settings } from '../src/settings/table.ts';
import type { Store } from '../src/stores/store.ts';
import type { Measures } from '../src/telemetry/measures.ts';
import { type ChosenArrangement, chooseArrangement } from '../src/tuning.ts';
import { obtainRowModel } from '../src/weights.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import { countLanes, openLanes } from './lanes.ts';
import { makeSlot, slotsPerSession } from './slot.ts';
import { openThreads } from './thread.ts';

/** What a user says of the device and of the way to it; 0 for `batch`, `lanes`, `sessions` or `threads`: what suits the device. */
export type EngineSettings = Pick<
  Settings,
  | 'batch'
  | 'lanes'
  | 'sessions'
  | 'threads'
  | 'reads'
  | 'decoder'
  | 'readTimeoutMs'
  | 'allowFiles'
  | 'allowHosts'
  | 'webPerHost'
  | 'webPerSecond'
  | 's3Endpoint'
  | 's3Region'
  | 'cacheDir'
>;

export interface EngineOptions {
  device: Device;
  settings: EngineSettings;
  /** For so long after the start every image is decoded in a sandbox, and not only the suspect ones. */
  cautiousMs: number;
  /** That it may count on; all, where it is left out. */
  cores?: number;
  /** Something that the operator should know, once. */
  onNotice(notice: string): void;
}

/** Each as `Measures` has it, in ms with fractions. */
export type EngineMeasures = Pick<
  Measures,
  'readMs' | 'decodeMs' | 'lanesMs' | 'deviceMs' | 'batchImages' | 'batchRoom'
>;

export interface Engine {
  readonly batcher: Batcher;
  /** Images per run of the model; less than asked for once the device ran out of memory. */
  readonly batch: number;
  /** Rejects when a thread is lost, as by a decoder that hangs: the process must end then. */
  readonly lost: Promise<never>;
  readonly lanes: number;
  /** As it was opened. */
  readonly arrangement: ChosenArrangement;
  /** What decodes JPEGs, as in `Provenance`. */
  readonly decoder: string;
  /** Must be called with a run before its first shard; calling it again is cheap. */
  announceRun(run: Run): Promise<void>;
  /** A part of a run was committed here; see `Reuse`. */
  addPart(run: string, key: string, places: Int32Array): void;
  /** Since the start. */
  measures(): EngineMeasures;
  /** Lets the batches under way end. Safe to call twice. */
  close(): Promise<void>;
}

/** A lane decodes into one and begins to fetch for another. */
const slotsPerLane = 2;

/** A run's model on a device; resolves when it is loaded and warm. Throws ConfigError 'device-failed', 'no-native-decoder', and those of the model. */
export async function openEngine(store: Store, run: Run, options: EngineOptions): Promise<Engine> {
  const { device, settings, cores = availableParallelism() } = options;
  const { dimension, topK } = rowShape(run);
  const { crop } = run.model.preprocessing;
  const { reads, decoder } = settings;
  requirePrecision(device, run.model.precision);
  requireRealDevice(device, run.model.ref);
  const decoding = await describeDecoder(decoder, run.model.resizeMode);
  decoding.notices.forEach(options.onNotice);
  const modelPath = await obtainRowModel(store, run, settings);
  const laneCount = countLanes(device, settings, cores);
  // ONNX Runtime's own choice is a thread per physical core, and it takes two virtual cores for one: 8.6 against 16.7
  // images/s with ResNet-152.
  const threads = settings.threads || cores;
  const arrangement = await chooseArrangement(device, run.model, { settings, threads });
  const { batch, sessions: sessionCount } = arrangement;
  const slots = Array.from({ length: laneCount * slotsPerLane + sessionCount * slotsPerSession }, () =>
    makeSlot({ batch, crop, dimension, topK }),
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
  const lanes = openLanes(laneCount, slots, settings, sessions);
  const announced = new Map<string, Promise<unknown>>();
  const memoryOf = new Map<string, Promise<Reuse>>();
  /** By run, once it is announced. */
  const memories = new Map<string, Reuse>();
  const measures = { readMs: 0, decodeMs: 0, deviceMs: 0, batchImages: 0, batchRoom: 0 };
  /** Images that the lanes can have in hand at once. */
  const places = Math.min(laneCount * reads, slots.length * batch);
  let smallestBatch = batch;
  const cautiousUntil = performance.now() + options.cautiousMs;

  const close = async (): Promise<void> => {
    await lanes.close();
    await sessions.close();
  };
  try {
    await sessions.callAll({ kind: 'open' });
  } catch (error) {
    await close();
    throw error;
  }

  const batcher = openBatcher(
    {
      async embed(slot, ranges, signal) {
        const isCautious = performance.now() < cautiousUntil;
        const wanted = isCautious ? ranges.map((range) => ({ ...range, suspect: true })) : ranges;
        const abort = { signal, abandon: { kind: 'abandon', slot } as const };
        const done = await lanes.callOne({ kind: 'embed', slot, ranges: wanted }, abort);
        if (!done) throw new Error('a lane gave nothing: this is a bug');
        measures.readMs += done.fetchMs / places;
        measures.decodeMs += done.decodeMs / Math.min(places, cores);
        const { exceptions, inferred } = done;
        if (!inferred) return { ...done, inferMs: 0 };
        // What was made before a session became smaller has the larger batch; a part tells the smallest.
        smallestBatch = Math.min(smallestBatch, inferred.batch);
        if (inferred.notice !== undefined) options.onNotice(inferred.notice);
        measures.deviceMs += inferred.inferMs / sessionCount;
        measures.batchImages += ranges.reduce((sum, { count }) => sum + count, -exceptions.length);
        measures.batchRoom += batch;
        return { ...done, inferMs: inferred.inferMs };
      },
      memory: {
        async recall(id, place, sha256) {
          return memories.get(id)?.recall(place, sha256);
        },
        remember(id, place, row) {
          memories.get(id)?.remember(place, { device: device.kind, ...row });
        },
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
    arrangement,
    decoder: decoding.decoder,
    async announceRun(run) {
      const key = `${run.run} ${run.createdAt}`;
      let ready = announced.get(key);
      if (!ready) {
        ready = announce(run);
        announced.set(key, ready);
        // The next shard tries again.
        ready.catch(() => announced.delete(key));
      }
      await ready;
    },
    addPart(id, key, places) {
      memories.get(id)?.addPart(key, places);
    },
    measures: () => ({ ...measures, lanesMs: lanes.activeMs() }),
    close,
  };

  async function announce(run: Run): Promise<void> {
    const memory = run.reuse ? await memoryFor(run) : undefined;
    if (memory) memories.set(run.run, memory);
    await lanes.callAll({ kind: 'run', run, seen: memory?.seen });
  }

  /** One memory serves the runs whose rows are alike: their model is the same, as they are done here. */
  async function memoryFor(run: Run): Promise<Reuse> {
    const kind = `${run.embedding} ${run.maxPixels}`;
    const standing = memoryOf.get(kind);
    if (standing && (await standing).room >= run.items) return standing;
    const memory = openReuse(store, run, options);
    memoryOf.set(kind, memory);
    memory.catch(() => memoryOf.delete(kind));
    return memory;
  }
}
