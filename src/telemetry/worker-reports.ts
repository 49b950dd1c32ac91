/**
 * What a worker process tells the process that started it (workers/supervisor.ts), over Node's IPC channel. The supervisor makes
 * metrics of it (telemetry/metrics.ts), so counters outlive a worker that crashes, and answers for it at /readyz and /healthz.
 */
import type { ShardLeft } from '../consume.ts';
import type { Measures } from './measures.ts';

export type WorkerReport =
  /** Sent once, when shards are about to be taken. */
  | { kind: 'ready'; device: string }
  /** A model is loaded, and the sessions stand. */
  | { kind: 'model'; model: LoadedModel }
  | { kind: 'shard done'; shard: ShardDone }
  /** A shard ended otherwise: it is tried again, or by another worker. */
  | { kind: 'shard left'; how: ShardLeft }
  /** Every `pulseMs`, for as long as the event loop is alive. */
  | { kind: 'pulse'; pulse: Pulse }
  | { kind: 'fatal'; error: { message: string; code?: string } };

export const pulseMs = 1_000;

export interface LoadedModel {
  /** As the user named it, `random:0`. */
  ref: string;
  architecture: string;
  precision: string;
  fingerprint: string;
  device: string;
}

export interface ShardDone {
  run: string;
  shard: number;
  /** Rows of the part by how they ended. A part of another worker that stood first tells of that one's work: all are 0. */
  images: { ok: number; failed: number; gone: number };
  /** Of `ok` and `failed`, those that were not done anew, for their bytes were known. */
  reused: number;
  /** Failed rows by their error code. */
  failures: Readonly<Record<string, number>>;
  /** Of images, as they were fetched, again where that was needed; of the part, as it was stored. */
  bytes: { read: number; written: number };
  /** Wall time of this shard's stages, ms. Stages of a shard overlap. */
  stageMs: { fetch: number; decode: number; infer: number; write: number };
  /** What the worker did since it last told. */
  measures: Measures;
}

export interface Pulse {
  /** The longest that the event loop was kept waiting since the last pulse, ms. */
  loopLagMs: number;
  /** Since Redis last answered, ms; null before it first did. */
  redisSeenMs: number | null;
  /** Resident memory of the process, with all its threads. */
  memoryBytes: number;
  shardsInFlight: number;
}
