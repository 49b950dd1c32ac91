/** ONNX Runtime's own CPU kernels. */
import { readFileSync } from 'node:fs';
import type { Device } from './device.ts';

export const cpu: Device = {
  kind: 'cpu',
  name: 'cpu',
  provider: { name: 'cpu' },
  precision: 'fp32',
  batch: 8,
  // When a lane takes a core, the threads of one session wait for each other, and the other session does not: 0.97
  // against 0.91–0.94 of raw `session.run` on two cores (test/bench/overhead.ts).
  sessions: 2,
  // The model wants every core, and one lane decodes what sixteen can embed.
  lanesPerCore: 1 / 16,
};

let overflows: boolean | undefined;

/**
 * Whether ONNX Runtime's quickest kernels for bytes may be wrong here: x86 cores without VNNI add pairs of products in 16 bits,
 * and cut off what does not fit (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). True, too,
 * on x86 where it cannot be known: of what a core has only Linux tells.
 */
export function mayBytesOverflow(): boolean {
  overflows ??= process.arch === 'x64' && !/\bavx(512)?_vnni\b/.test(readCpuFlags());
  return overflows;
}

function readCpuFlags(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    return '';
  }
}
