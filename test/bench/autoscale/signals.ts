/** What an autoscaler may go by. */
import { type QueuedRun, reckonBacklog } from '../../../src/telemetry/backlog.ts';
import { noMeasures } from '../../../src/telemetry/measures.ts';
import type { OpenRun } from './day.ts';

/** Shards that wait, as BullMQ counts them. */
export function queueLengthSignal(open: readonly OpenRun[]): number {
  return open.reduce((sum, { waiting }) => sum + waiting, 0);
}

/** `lensmill_backlog_worker_seconds`, reckoned by what reckons it in `lensmill serve`; it learns the models' paces as that does. */
export function drainTimeSignal(): (open: readonly OpenRun[]) => number {
  const rates = new Map<string, number>();
  return (open) => {
    for (const run of open) if (run.left < run.images) rates.set(modelOf(run), run.imagesPerSecond);
    return reckonBacklog(new Map(open.map((run) => [run.id, queuedRun(run)])), rates).workerSeconds;
  };
}

/** A model a pace. */
const modelOf = ({ imagesPerSecond }: OpenRun): string => `model of ${imagesPerSecond} images/s`;

function queuedRun(run: OpenRun): QueuedRun {
  const { images, shardSize, imagesPerSecond, left, waiting, active } = run;
  const items = images - left;
  return {
    state: 'open',
    needs: { lensmill: '', model: modelOf(run) },
    size: { items: images, shards: Math.ceil(images / shardSize) },
    progress: {
      shards: Math.floor(items / shardSize),
      items,
      failures: {},
      measures: { ...noMeasures, images: items, embedMs: (1_000 * items) / imagesPerSecond },
    },
    jobs: { waiting, active, delayed: 0 },
  };
}
