/**
 * The workers of one machine: a process for each device, each under a supervisor of its own, and what is known of them.
 *
 * A worker that is given up (its GPU fell off the bus, say) stops no other: the others go on, `workers` says so, and whoever waits for
 * the end learns it. Where all are given up, that is the end.
 */
import { availableParallelism } from 'node:os';
import type { WorkerDevice } from '../src/devices/list-devices.ts';
import { messageOf } from '../src/errors.ts';
import type { Logger } from '../src/telemetry/log.ts';
import { addMeasures, type Measures, noMeasures } from '../src/telemetry/measures.ts';
import type { RestartCause, WorkerMetrics } from '../src/telemetry/metrics.ts';
import type { LoadedModel, Pulse, WorkerReport } from '../src/telemetry/worker-reports.ts';
import { type Supervisor, superviseWorker } from './supervisor.ts';
import type { WorkerOptions } from './worker.ts';

export interface PoolOptions extends Omit<WorkerOptions, 'cautiousMs' | 'cores' | 'worker' | 'run'> {
  devices: readonly WorkerDevice[];
  /** Of each process. */
  maxMemoryBytes?: number | undefined;
  /** As `SupervisorOptions`. */
  longestSilenceSeconds?: number | undefined;
}

/** Who counts what the workers do: of `WorkerMetrics`, with names as `WorkerDevice` has them. */
export type PoolObserver = Pick<WorkerMetrics, 'note' | 'restarted' | 'gone'>;

export interface WorkerProcess {
  pid?: number | undefined;
  model?: LoadedModel;
  /** Its last one. */
  pulse?: Pulse;
}

/** One device's worker, by its processes so far. */
export interface PoolWorker extends Readonly<WorkerDevice> {
  /** starting: it takes no shards yet. restarting: its process ended, another follows. ended: by itself, or `failure` says why. */
  phase: 'starting' | 'ready' | 'restarting' | 'ended';
  /** When it last told anything, or its process was started or ended; as `performance.now()`. */
  heardAt: number;
  /** The one that runs now. */
  process?: WorkerProcess | undefined;
  failure?: Error;
  images: { ok: number; failed: number; gone: number };
  shards: { done: number; failed: number; handedBack: number; lost: number };
  restarts: Record<RestartCause, number>;
  measures: Measures;
}

export interface Pool {
  readonly workers: readonly Readonly<PoolWorker>[];
  /** Nothing runs before. */
  start(): void;
  /** It was told to stop. */
  readonly isStopping: boolean;
  /** Resolves when all have ended, after `stop` or otherwise; rejects when all were given up, with the reason of the first. */
  readonly ended: Promise<void>;
  /** As `Supervisor.stop`, of all. */
  stop(): void;
}

export function openPool(
  { devices, maxMemoryBytes, longestSilenceSeconds, settings, ...options }: PoolOptions,
  {
    log,
    writeLine,
    observer,
  }: { log: Logger; writeLine(line: string): void; observer?: PoolObserver | undefined },
): Pool {
  const workers = devices.map(newWorker);
  let supervisors: Supervisor[] = [];
  const ended = Promise.withResolvers<void>();
  let isStopping = false;

  function supervise(worker: PoolWorker, at: number): Supervisor {
    const { name, device } = worker;
    const own = log.child({ worker: name });
    return superviseWorker(
      { ...options, settings: { ...settings, device }, worker: name, cores: coresOf(at, devices.length) },
      {
        log: own,
        writeLine,
        maxMemoryBytes,
        longestSilenceSeconds,
        onStart(pid) {
          worker.process = { pid };
          worker.heardAt = performance.now();
        },
        onReport(report) {
          note(worker, report);
          if (report.kind === 'ready')
            own.info({ device: report.device, output: options.output, queue: options.queue }, 'worker ready');
          observer?.note(name, report);
        },
        onRestart(cause) {
          worker.phase = 'restarting';
          worker.process = undefined;
          worker.heardAt = performance.now();
          worker.restarts[cause] += 1;
          observer?.restarted(name, cause);
        },
      },
    );
  }

  async function untilEnded(worker: PoolWorker, supervisor: Supervisor): Promise<void> {
    try {
      await supervisor.ended;
    } catch (error) {
      worker.failure = error instanceof Error ? error : new Error(String(error));
    }
    worker.phase = 'ended';
    worker.process = undefined;
    observer?.gone(worker.name);
    const left = workers.filter(({ phase }) => phase !== 'ended').length;
    // Of the last one, whoever waits for the end hears.
    if (worker.failure && left > 0)
      log.error(
        { worker: worker.name, error: messageOf(worker.failure), left },
        'worker given up; the others go on',
      );
  }

  return {
    workers,
    start() {
      supervisors = workers.map(supervise);
      const ends = supervisors.map((supervisor, at) => untilEnded(workers[at] as PoolWorker, supervisor)); // one each
      void Promise.all(ends).then(() => {
        const [first] = workers;
        if (first?.failure && workers.every(({ failure }) => failure)) ended.reject(first.failure);
        else ended.resolve();
      });
    },
    get isStopping() {
      return isStopping;
    },
    ended: ended.promise,
    stop() {
      isStopping = true;
      for (const supervisor of supervisors) supervisor.stop();
    },
  };
}

function newWorker({ name, device }: WorkerDevice): PoolWorker {
  return {
    name,
    device,
    phase: 'starting',
    heardAt: performance.now(),
    images: { ok: 0, failed: 0, gone: 0 },
    shards: { done: 0, failed: 0, handedBack: 0, lost: 0 },
    restarts: { crash: 0, memory: 0, store: 0 },
    measures: noMeasures,
  };
}

function note(worker: PoolWorker, report: WorkerReport): void {
  worker.heardAt = performance.now();
  switch (report.kind) {
    case 'ready':
      worker.phase = 'ready';
      break;
    case 'model':
      if (worker.process) worker.process.model = report.model;
      break;
    case 'pulse':
      if (worker.process) worker.process.pulse = report.pulse;
      break;
    case 'shard left':
      worker.shards[report.how === 'handed back' ? 'handedBack' : report.how] += 1;
      break;
    case 'shard done': {
      const { images, measures } = report.shard;
      worker.shards.done += 1;
      for (const how of ['ok', 'failed', 'gone'] as const) worker.images[how] += images[how];
      worker.measures = addMeasures(worker.measures, measures);
      break;
    }
    case 'fatal':
      break;
  }
}

/** The cores of this process, shared out; at least one each. */
function coresOf(at: number, workers: number): number {
  const cores = availableParallelism();
  const first = Math.floor((at * cores) / workers);
  return Math.max(1, Math.floor(((at + 1) * cores) / workers) - first);
}
