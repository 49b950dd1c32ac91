/** `--device` → a device. Never falls back in silence: 'auto' says what it chose and why. */
import { ConfigError } from '../errors.ts';
import { cpu } from './cpu.ts';
import { cuda, whyNoCuda } from './cuda.ts';
import type { Device } from './device.ts';

export interface DeviceChoice {
  device: Device;
  /** For the log where the choice was not the user's. */
  reason?: string;
}

/** Throws ConfigError 'no-cuda' where CUDA was asked for and is not there. */
export function resolveDevice(name: string): DeviceChoice {
  if (name === 'cpu') return { device: cpu };
  const missing = whyNoCuda();
  if (name === 'auto') return missing === undefined ? { device: cuda(0) } : { device: cpu, reason: missing };
  if (missing !== undefined)
    throw new ConfigError('no-cuda', `--device ${name}: ${missing}; or use --device cpu`);
  return { device: cuda(Number(name.split(':')[1] ?? 0)) };
}
