/** How fast a run goes that is under way, and when it will be done. */

import type { RunState } from '../queue.ts';
import type { Pace } from './counters.ts';
import type { Measures } from './measures.ts';
import { reportThroughput, type Throughput } from './throughput.ts';

const longestSeconds = 100 * 365 * 86_400;

/** Of a run that is under way, as far as Redis knows it. */
export interface LiveThroughput extends Throughput {
  /** Of all workers, lately; of a run that is open. */
  imagesPerSecond?: number;
  secondsSinceLastShard?: number;
  /** By this machine's clock, if it goes on like that. */
  finishAt?: string;
  secondsLeft?: number;
}

/** Undefined where no worker has told anything yet. `left`: images that are not done. */
export function liveThroughput(
  { measures, pace }: { measures: Measures; pace?: Pace },
  {
    left,
    state,
    pricePerHour,
  }: { left: number; state: RunState | undefined; pricePerHour?: number | undefined },
): LiveThroughput | undefined {
  const throughput = reportThroughput(measures, { pricePerHour });
  if (!throughput || !pace || state !== 'open') return throughput;
  const { imagesPerSecond } = pace;
  const secondsLeft = left / imagesPerSecond;
  return {
    ...throughput,
    imagesPerSecond,
    secondsSinceLastShard: pace.sinceLastShardMs / 1_000,
    // Of a pool that stands still, no end can be told.
    ...(secondsLeft < longestSeconds && {
      secondsLeft,
      finishAt: new Date(Date.now() + secondsLeft * 1_000).toISOString(),
    }),
  };
}
