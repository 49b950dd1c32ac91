/** What Redis knows of runs that are under way, where there is one and it answers in time. */
import { messageOf } from '../errors.ts';
import { openQueue, type QueueAddress, type RunState } from '../queue.ts';
import { type LiveThroughput, liveThroughput } from '../telemetry/live-throughput.ts';
import type { Logger } from '../telemetry/log.ts';
import { inTime } from './in-time.ts';

export interface RunProgress {
  /** What workers are told of it; undefined where Redis does not know the run. */
  state: RunState | undefined;
  shards: number;
  /** Images that are done. */
  items: number;
  failed: number;
  throughput: LiveThroughput | undefined;
}

export interface ProgressReader {
  /** By run, of those with images; undefined where Redis does not answer. Throws nothing. */
  read(runs: readonly { run: string; items: number }[]): Promise<Map<string, RunProgress> | undefined>;
  close(): Promise<void>;
}

/** Redis answers in a millisecond; a look at the runs does not wait for one that is away. */
const patienceMs = 1_000;

export function openProgress(
  address: QueueAddress,
  { log, pricePerHour }: { log: Logger; pricePerHour?: number | undefined },
): ProgressReader {
  const queue = openQueue(address);
  let isAway = false;

  async function ask(runs: readonly { run: string; items: number }[]): Promise<Map<string, RunProgress>> {
    const register = await queue.runs();
    const all = await Promise.all(
      runs.map(async ({ run, items: total }): Promise<[string, RunProgress]> => {
        const progress = await queue.progress(run);
        const state = register.get(run)?.state;
        const { shards, items, failed } = progress;
        const throughput = liveThroughput(progress, { left: total - items, state, pricePerHour });
        return [run, { state, shards, items, failed, throughput }];
      }),
    );
    return new Map(all);
  }

  return {
    async read(runs) {
      try {
        const told = await inTime(ask(runs), patienceMs);
        if (!told) throw new Error(`no answer in ${patienceMs / 1_000} s`);
        isAway = false;
        return told;
      } catch (error) {
        if (!isAway)
          log.warn({ error: messageOf(error) }, 'Redis does not answer; runs are shown by the store');
        isAway = true;
        return undefined;
      }
    },
    close: () => queue.close(),
  };
}
