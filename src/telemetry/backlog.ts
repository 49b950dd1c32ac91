/**
 * What is left to do for the workers of an output, as Redis knows it: for metrics and for what starts and stops workers. The store
 * is not asked, so it may be told every few seconds, however many shards there are.
 *
 * A run counts while it is open: workers have nothing to do for one that is paused, blocked or cancelled. Nor is a shard
 * counted that failed for good, or one that Redis has lost: no worker can take it before `lensmill resume` has enqueued it.
 */
import pMap from 'p-map';
import type { RunEntry, RunProgress, RunState, ShardQueue } from '../queue.ts';
import { workerRate } from './throughput.ts';

/** A run of the register, and what else Redis has of it. */
export interface QueuedRun extends Pick<RunEntry, 'state' | 'needs' | 'size'> {
  progress: Pick<RunProgress, 'shards' | 'items' | 'failures' | 'measures' | 'pace'>;
  jobs: { waiting: number; active: number; delayed: number };
}

export interface Backlog {
  runs: Record<RunState, number>;
  /** Jobs of open runs, which are shards and at a run's end one to finalize it; and shards that failed for good. */
  jobs: { waiting: number; active: number; delayed: number; failed: number };
  /** Of each open run. */
  shards: Map<string, { done: number; left: number; failed: number }>;
  /** That are not done and have not failed for good. */
  images: number;
  /** Of all workers, over some five minutes. */
  imagesPerSecond: number;
  /** What one worker would need for what is in Redis; 0 if and only if there is nothing. */
  workerSeconds: number;
  /** What the pool needs for it, at its pace; 0 where there is nothing, undefined while nobody works. */
  drainSeconds: number | undefined;
}

/**
 * Of one worker, until the first shard of a model is done: as a GPU, so that a pool begins too small. A first shard takes a minute
 * and corrects that; a machine that was started in vain is paid for.
 */
export const assumedImagesPerSecond = 500;
/** Of a run that an older lensmill opened, which does not tell its size. */
const assumedShardImages = 512;
/** What finalizing a run counts as, and any shard at least: no pool shall go to zero before its last run is finished. */
const leastWorkerSeconds = 1;
const atOnce = 16;

/** Some commands for each run of the register. */
export async function readBacklog(queue: ShardQueue): Promise<Backlog> {
  const [register, rates] = await Promise.all([queue.runs(), queue.rates()]);
  const runs = await pMap(
    register,
    async ([run, { state, needs, size }]): Promise<[string, QueuedRun]> => {
      const [progress, jobs] = await Promise.all([queue.progress(run), queue.counts(run)]);
      return [run, { state, needs, ...(size && { size }), progress, jobs }];
    },
    { concurrency: atOnce },
  );
  return reckonBacklog(new Map(runs), rates);
}

/** `rates`: images a second of one worker by model, of runs that are over. */
export function reckonBacklog(
  runs: ReadonlyMap<string, QueuedRun>,
  rates: ReadonlyMap<string, number>,
): Backlog {
  const backlog: Backlog = {
    runs: { open: 0, paused: 0, blocked: 0, cancelled: 0 },
    jobs: { waiting: 0, active: 0, delayed: 0, failed: 0 },
    shards: new Map(),
    images: 0,
    imagesPerSecond: 0,
    workerSeconds: 0,
    drainSeconds: undefined,
  };
  const measured = measuredRates(runs);
  let takenImages = 0;
  for (const [id, run] of runs) {
    backlog.runs[run.state] += 1;
    if (run.state !== 'open') continue;
    const { needs, progress, jobs } = run;
    const inRedis = jobs.waiting + jobs.active + jobs.delayed;
    const { images, ...shards } = whatIsLeft(run, inRedis);
    backlog.shards.set(id, shards);
    for (const state of ['waiting', 'active', 'delayed'] as const) backlog.jobs[state] += jobs[state];
    backlog.jobs.failed += Object.keys(progress.failures).length;
    backlog.images += images;
    backlog.imagesPerSecond += progress.pace?.imagesPerSecond ?? 0;
    if (inRedis === 0) continue;
    takenImages += images;
    const rate =
      workerRate(progress.measures) ??
      measured.get(needs.model) ??
      rates.get(needs.model) ??
      assumedImagesPerSecond;
    backlog.workerSeconds += Math.max(leastWorkerSeconds, images / rate);
  }
  if (backlog.workerSeconds === 0) backlog.drainSeconds = 0;
  else if (backlog.jobs.active > 0 && backlog.imagesPerSecond > 0)
    backlog.drainSeconds = takenImages / backlog.imagesPerSecond;
  return backlog;
}

/** Of one worker, by model: of the run that most is known of, be it open or not. */
function measuredRates(runs: ReadonlyMap<string, QueuedRun>): Map<string, number> {
  const byImages = [...runs.values()].sort((a, b) => a.progress.measures.images - b.progress.measures.images);
  return new Map(
    byImages.flatMap(({ needs, progress }): [string, number][] => {
      const rate = workerRate(progress.measures);
      return rate === undefined ? [] : [[needs.model, rate]];
    }),
  );
}

function whatIsLeft(
  { size, progress }: QueuedRun,
  inRedis: number,
): { done: number; left: number; failed: number; images: number } {
  const { shards: done, items, failures } = progress;
  if (!size) return { done, left: inRedis, failed: 0, images: inRedis * assumedShardImages };
  const failed = Object.keys(failures).filter((shard) => shard !== 'finalize').length;
  const left = Math.max(0, size.shards - done - failed);
  if (left === 0) return { done, left, failed, images: 0 };
  // Which images were in the failed shards only the store could tell.
  const failedImages = failed * (size.items / size.shards);
  return { done, left, failed, images: Math.max(left, Math.round(size.items - items - failedImages)) };
}
