/** How a run's speed, and what limits it, are shown. */
import type { Pace } from '../counters.ts';
import type { Measures } from '../measures.ts';
import type { RunState } from '../queue.ts';
import { percent, reportThroughput, type Stage, type Throughput } from '../throughput.ts';
import { formatSeconds } from './progress.ts';

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

const columnWidth = 8;

export function throughputLines(throughput: LiveThroughput): string[] {
  const { imagesPerSecond, secondsSinceLastShard = 0, secondsLeft, finishAt } = throughput;
  const { verdict, stages, batchFill, ceilingImagesPerSecond, ceilingShare } = throughput;
  const { imagesPerCoreSecond, mainThreadMicrosecondsPerImage, costPerMillionImages } = throughput;
  const names = Object.keys(stages) as Stage[];
  const row = (label: string, cell: (stage: Stage) => string, end = ''): string =>
    `${label.padEnd(columnWidth)}${names.map((name) => cell(name).padEnd(columnWidth)).join('')}${end}`.trimEnd();
  const perCore =
    imagesPerCoreSecond === null ? [] : [`${formatRate(imagesPerCoreSecond)} images a core-second`];
  return [
    ...(imagesPerSecond === undefined
      ? []
      : [
          `speed   ${formatRate(imagesPerSecond)} images/s; the last shard ${formatSeconds(secondsSinceLastShard)} ago`,
        ]),
    ...(secondsLeft === undefined || finishAt === undefined
      ? []
      : [`finish  in ${formatSeconds(secondsLeft)}, ${finishAt.slice(0, 16).replace('T', ' ')} UTC`]),
    `limit   ${verdict}`,
    row('', (name) => name),
    row('busy', (name) => percent(stages[name].busyShare)),
    row('at most', (name) => formatRate(stages[name].imagesPerSecond), 'images/s a worker'),
    ...(batchFill === null || ceilingImagesPerSecond === null
      ? []
      : [
          `device  ${percent(ceilingShare)} of the ${formatRate(ceilingImagesPerSecond)} images/s that it does with full batches; they were ${percent(batchFill)} full`,
        ]),
    `cores   ${[...perCore, `${formatRate(mainThreadMicrosecondsPerImage)} µs of the main thread an image`].join('; ')}`,
    ...(costPerMillionImages === undefined
      ? []
      : [`cost    ${formatMoney(costPerMillionImages)} a million images`]),
  ];
}

/** Three digits where there are that many: '0.71', '14.2', '1,234'; '-' where nothing bounds it. */
function formatRate(rate: number | null): string {
  if (rate === null) return '-';
  const digits = rate >= 100 ? 0 : rate >= 10 ? 1 : 2;
  return rate.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const formatMoney = (amount: number): string =>
  amount.toLocaleString('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
