/**
 * One NVIDIA GPU, through ONNX Runtime's TensorRT provider, which compiles the whole graph for that GPU.
 *
 * From Node.js nothing but `deviceId` reaches the provider. The binding hands it a block of defaults
 * (js/node/src/session_options_helper.cc), and a provider that was given options does not read the ORT_TENSORRT_* variables
 * (tensorrt_provider_factory.cc: `has_trt_options`; microsoft/onnxruntime#18380, and #26854, which is open). So with 1.30
 *   - no engine is kept on disk: each session compiles its own when it is opened, for minutes, before work is taken;
 *   - TensorRT 10 is not told that it may compute in halves, and refuses a graph that does: fp32 is what it takes. It
 *     multiplies that in TF32, as CUDA does.
 * For these two reasons `auto` means CUDA, whose fp16 needs neither.
 */
import { whyNoGpu } from './cuda.ts';
import type { Device } from './device.ts';
import { whyNoProvider } from './libraries.ts';

export function tensorrt(deviceId: number): Device {
  return {
    kind: 'tensorrt',
    name: `tensorrt:${deviceId}`,
    // Alone: with CUDA beside it, a graph that TensorRT refuses would run there and nobody would know.
    provider: { name: 'tensorrt', deviceId },
    precision: 'fp32',
    batch: 64,
    sessions: 1,
    lanesPerCore: 1,
  };
}

/** Why TensorRT cannot be used here, or `undefined`. Looks only; whether it works, a session tells. */
export function whyNoTensorrt(): string | undefined {
  return whyNoGpu() ?? whyNoProvider('tensorrt');
}
