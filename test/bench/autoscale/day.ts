/** A day of runs, and what becomes of them on a pool that follows a signal. Pure: the same runs and facts give the same day. */
import { type NodeFacts, openWorkerPool, type Shard, type WorkerPool } from './pool.ts';
import type { Scaler } from './scaler.ts';

export interface PlannedRun {
  /** Second of the day in which it is enqueued. */
  at: number;
  images: number;
  shardSize: number;
  /** Of one worker, with the run's model. */
  imagesPerSecond: number;
}

/** What a signal is made of, of every run that is open. */
export interface OpenRun extends PlannedRun {
  id: string;
  /** Images that are in no part yet. */
  left: number;
  /** Shards that wait in Redis: the producer keeps no more than its high-water mark there. */
  waiting: number;
  /** Shards that workers have. */
  active: number;
}

export interface DayOptions {
  runs: readonly PlannedRun[];
  scaler: Scaler;
  signal(open: readonly OpenRun[]): number;
  nodes: NodeFacts;
  readyNodes?: number;
  /** How old the metric is at most when it is looked at: it is told anew every so often. */
  metricSeconds: number;
  highWater: number;
}

export interface Day {
  imagesDone: number;
  gpuHours: number;
  /** Of these, in which an image was embedded. */
  busyHours: number;
  /** Seconds, run by run: from being enqueued to the first shard, and to the last part. */
  started: number[];
  done: number[];
  /** Every minute. */
  course: { second: number; nodes: number; leftWorkerSeconds: number }[];
}

interface Run {
  id: string;
  plan: PlannedRun;
  /** Images that nobody has taken. */
  free: number;
  left: number;
  startedAt?: number;
}

const daySeconds = 86_400;
/** Longer, and it never ends: a bug, or a pool without replicas. */
const longestSeconds = 30 * daySeconds;

/** The day, and as much longer as its runs and the nodes take. */
export function simulateDay(options: DayOptions): Day {
  const { scaler, signal, metricSeconds, highWater } = options;
  const coming = options.runs.toSorted((a, b) => a.at - b.at);
  const pool = openWorkerPool(options.nodes, { readyNodes: options.readyNodes ?? 0 });
  const day: Day = { imagesDone: 0, gpuHours: 0, busyHours: 0, started: [], done: [], course: [] };
  let open: Run[] = [];
  let number = 0;
  let turn = 0;
  let metric = 0;
  let second = 0;

  /** The open runs have their turns, a shard each. */
  const take = (): Shard | undefined => {
    for (let tries = 0; tries < open.length; tries++) {
      const run = open[turn++ % open.length];
      if (!run || run.free === 0) continue;
      const images = Math.min(run.free, run.plan.shardSize);
      run.free -= images;
      run.startedAt ??= second;
      return {
        seconds: images / run.plan.imagesPerSecond,
        done() {
          run.left -= images;
          day.imagesDone += images;
        },
        back() {
          run.free += images;
        },
      };
    }
    return undefined;
  };

  for (; second < daySeconds || coming.length > 0 || open.length > 0; second++) {
    if (second > longestSeconds) throw new Error(`${open.length} runs are open after thirty days`);
    for (let plan = coming[0]; plan && plan.at <= second; plan = coming[0]) {
      coming.shift();
      open.push({ id: `${number++}`, plan, free: plan.images, left: plan.images });
    }
    if (second % metricSeconds === 0) metric = signal(open.map((run) => openRunOf(run, highWater)));
    if (second % 60 === 0) day.course.push({ second, ...lookAt(pool, open) });
    pool.pass(scaler.look(second, metric), take);
    for (const { plan, left, startedAt = second } of open) {
      if (left > 0) continue;
      day.started.push(startedAt - plan.at);
      day.done.push(second + 1 - plan.at);
    }
    open = open.filter(({ left }) => left > 0);
  }
  day.gpuHours = pool.paidSeconds() / 3_600;
  day.busyHours = pool.busySeconds() / 3_600;
  return day;
}

function openRunOf({ id, plan, free, left }: Run, highWater: number): OpenRun {
  const waiting = Math.min(highWater, Math.ceil(free / plan.shardSize));
  return { id, ...plan, left, waiting, active: Math.ceil((left - free) / plan.shardSize) };
}

function lookAt(pool: WorkerPool, open: readonly Run[]): { nodes: number; leftWorkerSeconds: number } {
  const leftWorkerSeconds = open.reduce((sum, { plan, left }) => sum + left / plan.imagesPerSecond, 0);
  return { nodes: pool.nodes(), leftWorkerSeconds };
}
