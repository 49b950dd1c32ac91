/** How the workers of `lensmill work` are shown: a line while they work, and a result at the end. */
import type { Pool, PoolWorker } from '../../workers/pool.ts';
import type { Settings } from '../settings/table.ts';
import { addMeasures, noMeasures } from '../telemetry/measures.ts';
import { reportThroughput } from '../telemetry/throughput.ts';
import { throughputLines } from './speed.ts';
import type { Terminal } from './terminal.ts';
import { columnsOf } from './text-table.ts';

type Counted = Pick<PoolWorker, 'shards' | 'images' | 'restarts' | 'measures'>;

const drawMs = 1_000;
/** Images are told by the shard: over less, the speed would jump. */
const speedOverMs = 30_000;

/** Draws the line until closed. */
export function showPool(pool: Pool, terminal: Terminal): { close(): void } {
  const seen: { at: number; images: number }[] = [];
  const draw = (): void => {
    const { images } = sumOf(pool.workers);
    const now = { at: performance.now(), images: images.ok + images.failed };
    seen.push(now);
    while (seen.length > 2 && now.at - (seen[1]?.at ?? 0) >= speedOverMs) seen.shift();
    const since = seen[0] ?? now;
    const perSecond = ((now.images - since.images) * 1_000) / Math.max(1, now.at - since.at);
    terminal.show(
      [
        doings(pool.workers),
        `${whole(now.images)} images`,
        `${perSecond < 100 ? perSecond.toFixed(1) : whole(perSecond)}/s`,
        ...(images.failed > 0 ? [`${whole(images.failed)} failed`] : []),
        ...(pool.isStopping ? ['stopping: Ctrl-C again hands the shards back at once'] : []),
      ].join('  '),
    );
  };
  const timer = terminal.isLive ? setInterval(draw, drawMs) : undefined;
  return {
    close() {
      clearInterval(timer);
      terminal.show(undefined);
    },
  };
}

/** '8 workers: 6 working, 1 loading, 1 given up'; of one, what it does. */
function doings(workers: readonly PoolWorker[]): string {
  const counts = new Map<string, number>();
  for (const worker of workers) counts.set(doingOf(worker), (counts.get(doingOf(worker)) ?? 0) + 1);
  if (workers.length === 1) return `${workers[0]?.name}: ${[...counts.keys()].join()}`;
  return `${workers.length} workers: ${[...counts].map(([doing, count]) => `${count} ${doing}`).join(', ')}`;
}

function doingOf({ phase, failure, process: { model, pulse } = {} }: PoolWorker): string {
  if (failure) return 'given up';
  if (phase !== 'ready') return phase;
  if (!pulse?.shardsInFlight) return 'waiting for shards';
  return model ? 'working' : 'loading';
}

/** What is printed at the end: as JSON, and for people. */
export function poolResult(
  pool: Pool,
  { output, queue, settings }: { output: string; queue: string; settings: Pick<Settings, 'pricePerHour'> },
): { result: unknown; text: string } {
  const { workers } = pool;
  const { measures, ...sums } = sumOf(workers);
  const throughput = reportThroughput(measures, settings);
  const result = {
    output,
    queue,
    ...sums,
    throughput: throughput ?? null,
    workers: workers.map(({ name, device, failure, shards, images, restarts, measures: own }) => ({
      worker: name,
      device,
      ...(failure && { failure: failure.message }),
      shards,
      images,
      restarts,
      throughput: reportThroughput(own, settings) ?? null,
    })),
  };
  const { ok, failed, gone } = sums.images;
  const lines = [
    `images  ${[`${whole(ok)} embedded`, ...(failed ? [`${whole(failed)} failed`] : []), ...(gone ? [`${whole(gone)} gone`] : [])].join(', ')}`,
    ...(throughput ? throughputLines(throughput) : []),
    ...(workers.length > 1 ? ['', ...workerLines(workers)] : []),
    ...workers.flatMap(({ name, failure }) => (failure ? [`${name} was given up: ${failure.message}`] : [])),
  ];
  return { result, text: lines.join('\n') };
}

function workerLines(workers: readonly PoolWorker[]): string[] {
  const heads = ['worker', 'shards', 'embedded', 'failed', 'images/s', 'restarts', 'limit'];
  const rows = workers.map(({ name, shards, images, restarts, measures }) => {
    const throughput = reportThroughput(measures);
    const rate = throughput?.workerImagesPerSecond;
    return [
      name,
      whole(shards.done),
      whole(images.ok),
      whole(images.failed),
      rate === undefined ? '-' : rate < 100 ? rate.toFixed(1) : whole(rate),
      whole(restarts.crash + restarts.memory + restarts.store),
      throughput?.limit ?? '-',
    ];
  });
  return columnsOf(heads, rows, { flexible: 0 });
}

function sumOf(workers: readonly Counted[]): Counted {
  const sum: Counted = {
    shards: { done: 0, failed: 0, handedBack: 0, lost: 0 },
    images: { ok: 0, failed: 0, gone: 0 },
    restarts: { crash: 0, memory: 0, store: 0 },
    measures: noMeasures,
  };
  for (const { shards, images, restarts, measures } of workers) {
    addCounts(sum.shards, shards);
    addCounts(sum.images, images);
    addCounts(sum.restarts, restarts);
    sum.measures = addMeasures(sum.measures, measures);
  }
  return sum;
}

function addCounts<Name extends string>(sum: Record<Name, number>, more: Record<Name, number>): void {
  for (const name of Object.keys(more) as Name[]) sum[name] += more[name];
}

const whole = (value: number): string => Math.round(value).toLocaleString('en-US');
