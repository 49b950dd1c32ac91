/** How fast a run goes, what each part of the way could do, and what limits it: all derived from measures. */
import type { Measures } from './measures.ts';

/** Where the device's time goes that it does not work in; 'device' where there is hardly any. */
export const limits = [
  'device',
  'decoding',
  'lanes',
  'reading',
  'writing',
  'main thread',
  'queue',
  'loading',
] as const;
export type Limit = (typeof limits)[number];

/** From here on something counts as always busy: the ends of shards and the noise of clocks take the rest. */
const fullShare = 0.9;

/** Undefined where nothing was done. */
export function findLimit(measures: Measures): Limit | undefined {
  const { images, loadMs, idleMs, holdMs, embedMs, deviceMs } = measures;
  const workMs = workOf(measures);
  if (images === 0 || workMs === 0) return undefined;
  if (loadMs > workMs) return 'loading';
  if (deviceMs >= fullShare * workMs) return 'device';
  const isFull = (ms: number): boolean => ms >= fullShare * workMs;
  const starvedMs = embedMs - deviceMs;
  const longest = Math.max(idleMs, holdMs, starvedMs);
  if (longest === idleMs) return 'queue';
  if (isFull(measures.mainMs)) return 'main thread';
  if (longest === holdMs) return 'writing';
  if (isFull(measures.coresMs)) return 'decoding';
  if (isFull(measures.lanesMs)) return 'lanes';
  // Half of all reads at any time, or more than decoding takes.
  return measures.readMs >= Math.min(measures.decodeMs, workMs / 2) ? 'reading' : 'lanes';
}

/** Rates are images/s; shares are of 1. What divides by nothing is null: a model that costs nothing has no ceiling. */
export interface Throughput {
  /** That were measured: not those of earlier commands, nor what Redis has forgotten. */
  images: number;
  limit: Limit;
  /** One sentence: the limit, its measure, the remedy. */
  verdict: string;
  /** Of one worker, loading aside. */
  workerImagesPerSecond: number;
  /** Per second of CPU time. */
  imagesPerCoreSecond: number | null;
  mainThreadMicrosecondsPerImage: number;
  /** How long the device stood still, loading aside. */
  waitedShare: number;
  /** How full the model's batches were. */
  batchFill: number | null;
  /** What one worker's device does while it works, with full batches. */
  ceilingImagesPerSecond: number | null;
  /** How much of that was used. */
  ceilingShare: number;
  /** Of all workers together, loading included. */
  workerHours: number;
  loadShare: number;
  costPerMillionImages?: number;
  stages: Record<Stage, StageReport>;
}

export type Stage = 'read' | 'decode' | 'device' | 'write' | 'main' | 'lanes' | 'cores';

export interface StageReport {
  busyShare: number;
  /** What one worker would do if nothing else limited it. */
  imagesPerSecond: number | null;
  /** How many times the present speed that is. */
  headroom: number | null;
}

/** Undefined where nothing was done. `pricePerHour`: of one worker. */
export function reportThroughput(
  measures: Measures,
  { pricePerHour }: { pricePerHour?: number | undefined } = {},
): Throughput | undefined {
  const limit = findLimit(measures);
  if (limit === undefined) return undefined;
  const { images, loadMs, deviceMs, batchImages, batchRoom } = measures;
  const workMs = workOf(measures);
  const rate = images / (workMs / 1_000);
  const fill = ratio(batchImages, batchRoom);
  const stage = (busyMs: number, usefulMs = busyMs): StageReport => {
    const headroom = ratio(workMs, Math.min(workMs, usefulMs));
    return {
      busyShare: Math.min(1, busyMs / workMs),
      imagesPerSecond: headroom === null ? null : rate * headroom,
      headroom,
    };
  };
  const usefulMs = deviceMs * (fill ?? 1);
  const workerHours = (workMs + loadMs) / 3_600_000;
  return {
    images,
    limit,
    verdict: verdictOf(limit, measures),
    workerImagesPerSecond: rate,
    imagesPerCoreSecond: ratio(images, measures.cpuMs / 1_000),
    mainThreadMicrosecondsPerImage: (measures.mainMs * 1_000) / images,
    waitedShare: waitedShare(measures),
    batchFill: fill,
    ceilingImagesPerSecond: ratio(batchRoom, deviceMs / 1_000),
    ceilingShare: Math.min(1, usefulMs / workMs),
    workerHours,
    loadShare: loadMs / (workMs + loadMs),
    ...(pricePerHour !== undefined && {
      costPerMillionImages: (pricePerHour * workerHours * 1e6) / images,
    }),
    stages: {
      read: stage(measures.readMs),
      decode: stage(measures.decodeMs),
      device: stage(deviceMs, usefulMs),
      write: stage(measures.writeMs),
      main: stage(measures.mainMs),
      lanes: stage(measures.lanesMs),
      cores: stage(measures.coresMs),
    },
  };
}

/**
 * Images/s of one worker that has its model and always a shard; undefined where nothing was measured. Time without a shard is left
 * out: a pool that is too large would else look like one of slow workers, and be made larger.
 */
export function workerRate({ images, holdMs, embedMs }: Measures): number | undefined {
  const busyMs = holdMs + embedMs;
  return images > 0 && busyMs > 0 ? images / (busyMs / 1_000) : undefined;
}

/** Time in which a worker had its model, and a run to work for. */
const workOf = ({ idleMs, holdMs, embedMs }: Measures): number => idleMs + holdMs + embedMs;

const waitedShare = (measures: Measures): number => Math.max(0, 1 - measures.deviceMs / workOf(measures));

const ratio = (a: number, b: number): number | null => (b > 0 ? a / b : null);

export const percent = (share: number): string => `${Math.round(share * 100)} %`;

function verdictOf(limit: Limit, measures: Measures): string {
  const workMs = workOf(measures);
  const waited = `the device waited ${percent(waitedShare(measures))} of the time`;
  const share = (ms: number): string => percent(ms / workMs);
  switch (limit) {
    case 'device':
      return `the device, which waited ${percent(waitedShare(measures))} of the time: a worker on another device or machine makes the run faster`;
    case 'decoding':
      return `decoding: ${waited}, and the cores were ${share(measures.coresMs)} busy: more cores, or --resize fast`;
    case 'lanes':
      return `the lanes: ${waited} for them, with cores free (${share(measures.coresMs)} busy): more --lanes`;
    case 'reading':
      return `reading: ${waited} for images to be fetched: more --reads, or a source nearer by`;
    case 'writing':
      return `the output's store: ${waited}, ${share(measures.holdMs)} for parts to be written: larger shards, or a faster store`;
    case 'main thread':
      return `the worker's main thread, ${share(measures.mainMs)} busy: a second worker on this machine`;
    case 'queue':
      return `the queue: workers had no shard for ${share(measures.idleMs)} of the time: fewer workers, or smaller shards`;
    case 'loading':
      return `loading the model, which was ${percent(measures.loadMs / (workMs + measures.loadMs))} of the time: it weighs less the more images there are`;
  }
}
