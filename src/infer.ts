/**
 * Pixels → embeddings and predictions: ONNX Runtime's one door.
 *
 * `run` BLOCKS its thread for as long as the model takes, so this file is used from the inference thread
 * (workers/inference.ts), and by nobody who must answer meanwhile; of products, who must answer asks for few at once. Ending a process or a thread in the middle of a run
 * aborts the process: release first, then end.
 */
import './no-telemetry.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { mayBytesOverflow } from './devices/cpu.ts';
import type { Device } from './devices/device.ts';
import { ConfigError, messageOf } from './errors.ts';
import type { BatchResult } from './types.ts';

export interface SessionOptions {
  modelPath: string;
  device: Device;
  /** Images per run: fixed, so that a GPU searches its convolutions once and equal input gives equal bytes. */
  batch: number;
  /** Side of the crop in pixels. */
  crop: number;
  /** Threads of this session on a CPU device. */
  threads: number;
}

export interface Session {
  /**
   * `pixels`: [batch × crop × crop × 3] uint8, RGB. It may lie over shared memory and must not change meanwhile. Throws
   * OutOfMemory.
   */
  run(pixels: Uint8Array): Promise<BatchResult>;
  release(): Promise<void>;
}

/**
 * The memory of the device, or of the machine, is too small for a session of this batch. The session that threw it still
 * holds what it has, and is to be released.
 */
export class OutOfMemory extends Error {
  override name = 'OutOfMemory';

  constructor(cause: unknown) {
    super(outOfMemory.exec(String(cause))?.[0], { cause });
  }
}

/** Throws OutOfMemory, and ConfigError 'device-failed' where the device cannot run the model, all of it. */
export async function openSession(options: SessionOptions): Promise<Session> {
  const { leastRunMs = 0 } = options.device;
  const { run, release } = await openGraph(options);
  return {
    async run(pixels) {
      const started = performance.now();
      const outputs = await run(pixels);
      const restMs = leastRunMs - (performance.now() - started);
      if (restMs > 0) await sleep(Math.ceil(restMs));
      return {
        embeddings: outputs.embedding?.data as Float32Array, // the graph's own output types
        scores: outputs.scores?.data as Float32Array,
        labels: outputs.labels?.data as Int32Array,
      };
    },
    release,
  };
}

/** A session whose graph has other outputs than a model: floats, whatever their names. */
export interface ProbeSession {
  /** As `Session.run`; the outputs by name. */
  run(pixels: Uint8Array): Promise<Record<string, Float32Array>>;
  release(): Promise<void>;
}

/** As `openSession`. */
export async function openProbeSession(options: SessionOptions): Promise<ProbeSession> {
  const { run, release } = await openGraph(options);
  return {
    async run(pixels) {
      const outputs = Object.entries(await run(pixels));
      return Object.fromEntries(outputs.map(([name, { data }]) => [name, data as Float32Array])); // by contract
    },
    release,
  };
}

/** A small graph of float32 matrices, such as a head. */
export interface Matrices {
  /** Inputs and outputs by name. Blocks the thread, as a model does. */
  run(inputs: Readonly<Record<string, Matrix>>): Promise<Record<string, Float32Array>>;
  /** Safe to call twice. */
  release(): Promise<void>;
}

export interface Matrix {
  /** [rows × columns] */
  values: Float32Array;
  columns: number;
}

/** Opens an ONNX file's bytes on the CPU. Throws ConfigError 'device-failed' where ONNX Runtime cannot run it. */
export async function openMatrices(graph: Uint8Array, threads: number): Promise<Matrices> {
  let session: InferenceSession | undefined;
  try {
    session = await InferenceSession.create(graph, {
      executionProviders: ['cpu'],
      intraOpNumThreads: threads,
    });
  } catch (error) {
    throw new ConfigError('device-failed', `cpu cannot run the graph: ${messageOf(error)}`, { cause: error });
  }
  return {
    async run(inputs) {
      if (!session) throw new Error('the graph was released: this is a bug');
      const feeds = Object.entries(inputs).map(([name, { values, columns }]) => [
        name,
        new Tensor('float32', values, [values.length / columns, columns]),
      ]);
      const outputs = Object.entries(await session.run(Object.fromEntries(feeds)));
      return Object.fromEntries(outputs.map(([name, { data }]) => [name, data as Float32Array])); // by contract
    },
    async release() {
      const opened = session;
      session = undefined;
      await opened?.release();
    },
  };
}

async function openGraph({ modelPath, device, batch, crop, threads }: SessionOptions) {
  let session: InferenceSession;
  try {
    session = await InferenceSession.create(modelPath, {
      executionProviders: [device.provider as InferenceSession.ExecutionProviderConfig],
      graphOptimizationLevel: 'all',
      freeDimensionOverrides: { N: batch },
      intraOpNumThreads: threads,
      extra: {
        session: {
          // Idle threads of the pool would spin on cores that the lanes decode on.
          intra_op: { allow_spinning: '0' },
          // ONNX Runtime then takes other kernels for bytes: right ones, at half the speed.
          ...(mayBytesOverflow() && { x64quantprecision: '1' }),
          ...(device.provider.name !== 'cpu' && { disable_cpu_ep_fallback: '1' }),
        },
      },
    });
  } catch (error) {
    if (isOutOfMemory(error)) throw new OutOfMemory(error);
    throw new ConfigError('device-failed', `${device.name} cannot run ${modelPath}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  return {
    async run(pixels: Uint8Array): Promise<InferenceSession.OnnxValueMapType> {
      const images = new Tensor('uint8', pixels, [batch, crop, crop, 3]);
      return session.run({ images }).catch((error: unknown) => {
        throw isOutOfMemory(error) ? new OutOfMemory(error) : error;
      });
    },
    release: () => session.release(),
  };
}

/** Multiplies rows by rows on this machine's cores. */
export interface Products {
  /** [m × n]: each of the m rows `left` with each of the n rows `right`. */
  of(left: Float32Array, right: Float32Array): Promise<Float32Array>;
  release(): Promise<void>;
}

/** `graph`: that of `productsGraph(dimension)`. */
export async function openProducts(graph: Uint8Array, dimension: number): Promise<Products> {
  const session = await InferenceSession.create(graph, {
    extra: { session: { intra_op: { allow_spinning: '0' } } },
  });
  const tensorOf = (rows: Float32Array): Tensor =>
    new Tensor('float32', rows, [rows.length / dimension, dimension]);
  return {
    async of(left, right) {
      const { products } = await session.run({ left: tensorOf(left), right: tensorOf(right) });
      return products?.data as Float32Array; // the graph's own output type
    },
    release: () => session.release(),
  };
}

/**
 * ONNX Runtime has words for it, but no code (microsoft/onnxruntime#16307):
 *   its arenas             Failed to allocate memory for requested buffer of size 939524096
 *   CUDA                   CUDA failure 2: out of memory; CUDA_ERROR_OUT_OF_MEMORY
 *   cuBLAS, cuDNN          CUBLAS_STATUS_ALLOC_FAILED; CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
 *   C++, JavaScript        std::bad_alloc; bad allocation; Array buffer allocation failed
 */
const outOfMemory =
  /(failed to allocate memory|\S*out[ _]of[ _]memory|\S*alloc(ation)?[ _]failed|\S*bad[ _]alloc)[^;\n]*/i;

export function isOutOfMemory(error: unknown): boolean {
  return outOfMemory.test(String(error));
}
