/** What Redis knows of a run that is under way. */

import { openQueue, type QueueAddress, type RunState } from '../queue.ts';
import { type LiveThroughput, liveThroughput } from './live-throughput.ts';

export interface LiveStatus {
  /** Its shards in Redis. */
  queue: { waiting: number; active: number; delayed: number };
  /** Shards that were given up, and why. */
  failures: Record<string, string>;
  /** What workers are told of it, as 'paused'; absent where Redis does not know the run. */
  queueState?: RunState;
  /** Of a blocked run. */
  reason?: string;
  /** What workers have told of their speed, while Redis has it. */
  throughput?: LiveThroughput;
}

/** `items`: all its images. A Redis that is away is waited for: see first that it answers (`checkRedis`). */
export async function readLiveStatus(
  address: QueueAddress,
  { run: id, items }: { run: string; items: number },
  pricePerHour?: number,
): Promise<LiveStatus> {
  const queue = openQueue(address);
  try {
    const [counts, progress, runs] = await Promise.all([queue.counts(id), queue.progress(id), queue.runs()]);
    const { state, reason } = runs.get(id) ?? {};
    const throughput = liveThroughput(progress, { left: items - progress.items, state, pricePerHour });
    return {
      queue: counts,
      failures: progress.failures,
      ...(state && { queueState: state }),
      ...(reason && { reason }),
      ...(throughput && { throughput }),
    };
  } finally {
    await queue.close();
  }
}
