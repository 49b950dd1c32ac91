/** How a run's speed, and what limits it, are shown. */
import type { LiveThroughput } from '../telemetry/live-throughput.ts';
import { percent, type Stage } from '../telemetry/throughput.ts';
import { formatSeconds } from './progress.ts';

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
