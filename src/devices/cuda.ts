/** One NVIDIA GPU, through ONNX Runtime's CUDA provider. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type { Device } from './device.ts';

export function cuda(deviceId: number): Device {
  return {
    kind: 'cuda',
    name: `cuda:${deviceId}`,
    provider: { name: 'cuda', deviceId },
    batch: 64,
    sessions: 1,
    // A GPU embeds faster than any number of cores decodes.
    lanesPerCore: 1,
  };
}

/** Why CUDA cannot be used here, or `undefined`. Looks only; whether it works, a session tells. */
export function whyNoCuda(): string | undefined {
  if (!['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path))) return 'no NVIDIA GPU is visible';
  const folder = join(
    dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json')),
    'bin',
  );
  const library = join(folder, 'napi-v6', process.platform, process.arch, 'libonnxruntime_providers_cuda.so');
  if (existsSync(library)) return undefined;
  return "ONNX Runtime's CUDA libraries are not installed: `ONNXRUNTIME_NODE_INSTALL=true node node_modules/onnxruntime-node/script/install.js`";
}
