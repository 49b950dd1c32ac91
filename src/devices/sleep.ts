/**
 * A stand-in for a GPU, to measure what is around it: every batch takes at least so many milliseconds, in which no core is
 * used. It embeds nothing, so it is for `--model null` alone; parts that it made say 'sleep', and `auto` never chooses it.
 */
import { ConfigError } from '../errors.ts';
import type { Device } from './device.ts';

export function sleeper(leastRunMs: number): Device {
  return {
    kind: 'sleep',
    name: `sleep:${leastRunMs}`,
    // Runs the null model's few nodes.
    provider: { name: 'cpu' },
    precision: 'fp32',
    // As beside a GPU.
    batch: 64,
    sessions: 1,
    lanesPerCore: 1,
    leastRunMs,
  };
}

/** Throws ConfigError 'wrong-device' for a model that a stand-in would pretend to run; `ref` as in `ModelIdentity`. */
export function requireRealDevice({ name, leastRunMs }: Device, ref: string | undefined): void {
  if (leastRunMs === undefined || ref === 'null') return;
  const remedy = 'use it with --model null, or give --device cpu or cuda';
  throw new ConfigError('wrong-device', `${name} embeds nothing, it only takes time: ${remedy}`);
}
