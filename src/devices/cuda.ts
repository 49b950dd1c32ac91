/** One NVIDIA GPU, through ONNX Runtime's CUDA provider. */
import { existsSync } from 'node:fs';
import type { Device } from './device.ts';
import { whyNoProvider } from './libraries.ts';
import { whyAllHidden } from './visible-gpus.ts';

export function cuda(deviceId: number): Device {
  return {
    kind: 'cuda',
    name: `cuda:${deviceId}`,
    provider: { name: 'cuda', deviceId },
    precision: 'fp16',
    batch: 64,
    // A second one copies while the first one computes, for twice the memory: `lensmill tune` says whether that pays.
    sessions: 1,
    // A GPU embeds faster than any number of cores decodes.
    lanesPerCore: 1,
  };
}

/** Why CUDA cannot be used here, or `undefined`. Looks only; whether it works, a session tells. */
export function whyNoCuda(): string | undefined {
  return whyNoGpu() ?? whyNoProvider('cuda');
}

export function whyNoGpu(): string | undefined {
  const isVisible = ['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path));
  return isVisible ? whyAllHidden() : 'no NVIDIA GPU is visible';
}
