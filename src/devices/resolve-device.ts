/** `--device` → a device. Never falls back in silence: 'auto' says what it chose and why. */
import { ConfigError } from '../errors.ts';
import { cpu } from './cpu.ts';
import { cuda, whyNoCuda } from './cuda.ts';
import type { Device } from './device.ts';
import { sleeper } from './sleep.ts';
import { tensorrt, whyNoTensorrt } from './tensorrt.ts';

export interface DeviceChoice {
  device: Device;
  /** For the log where the choice was not the user's. */
  reason?: string;
}

/** Throws ConfigError 'no-cuda' or 'no-tensorrt' where that was asked for and is not there. */
export function resolveDevice(name: string): DeviceChoice {
  const [kind, number = '0'] = name.split(':');
  if (kind === 'cpu') return { device: cpu };
  if (kind === 'sleep') return { device: sleeper(Number(number)) };
  const missing = kind === 'tensorrt' ? whyNoTensorrt() : whyNoCuda();
  if (kind === 'auto') return missing === undefined ? { device: cuda(0) } : { device: cpu, reason: missing };
  if (missing !== undefined)
    throw new ConfigError(`no-${kind}`, `--device ${name}: ${missing}; or use --device cpu`);
  return { device: kind === 'tensorrt' ? tensorrt(Number(number)) : cuda(Number(number)) };
}
