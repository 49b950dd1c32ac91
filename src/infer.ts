/**
 * Pixels → embeddings and predictions: ONNX Runtime's one door.
 *
 * `run` BLOCKS its thread for as long as the model takes, so this file is used from the inference thread
 * (workers/inference.ts), and by nobody who must answer meanwhile. Ending a process or a thread in the middle of a run
 * aborts the process: release first, then end.
 */
import { InferenceSession, Tensor } from 'onnxruntime-node';
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
  const { modelPath, device, batch, crop, threads } = options;
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
          ...(device.kind !== 'cpu' && { disable_cpu_ep_fallback: '1' }),
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
    async run(pixels) {
      const images = new Tensor('uint8', pixels, [batch, crop, crop, 3]);
      const outputs = await session.run({ images }).catch((error: unknown) => {
        throw isOutOfMemory(error) ? new OutOfMemory(error) : error;
      });
      return {
        embeddings: outputs.embedding?.data as Float32Array, // the graph's own output types
        scores: outputs.scores?.data as Float32Array,
        labels: outputs.labels?.data as Int32Array,
      };
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
