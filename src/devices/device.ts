/** What runs the model: plain values, what ONNX Runtime must be told and what suits the device. */
import { ConfigError } from '../errors.ts';
import type { Precision } from '../types.ts';

export interface Device {
  /** Goes into provenance: 'cpu', 'cuda', 'tensorrt', 'sleep'. */
  readonly kind: string;
  /** For people: 'cpu', 'cuda:0'. */
  readonly name: string;
  /** ONNX Runtime's execution provider; it alone may run the graph. */
  readonly provider: { name: string; deviceId?: number };
  /** What `--precision auto` means on it. */
  readonly precision: Precision;
  /** Images per step. */
  readonly batch: number;
  /** Sessions side by side, each in a thread of its own; they share the device's cores, but not its memory. */
  readonly sessions: number;
  /** Threads that fetch and decode, per core of the machine; at least two are started. */
  readonly lanesPerCore: number;
  /** A run of the model takes at least so long: only where the device stands for another one (sleep.ts). */
  readonly leastRunMs?: number;
}

/** Throws ConfigError 'wrong-device' for int8 on a GPU, whose provider would run it in pieces, between copies. */
export function requirePrecision({ kind, name }: Device, precision: Precision): void {
  if (precision !== 'int8' || kind === 'cpu') return;
  const remedy = 'use --device cpu for it, or --precision fp16 in a run for GPUs';
  throw new ConfigError('wrong-device', `int8 is for CPUs, and this is ${name}: ${remedy}`);
}
