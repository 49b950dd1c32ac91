/**
 * The door to prom-client: tables of metrics as a registry, and the reports of worker processes as metrics of their supervisor.
 * To be imported where somebody asks for metrics, and there only: it costs 30 ms of CPU.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { version } from '../version.ts';
import { addMeasures, type Measures, mapMeasures, noMeasures } from './measures.ts';
import { failureReasons, type Metric, workerTable } from './metric-table.ts';
import { findLimit, limits } from './throughput.ts';
import {
  type LoadedModel,
  type Pulse,
  pulseMs,
  type ShardDone,
  type WorkerReport,
} from './worker-reports.ts';

export interface MetricsText {
  contentType: string;
  body: string;
}

export interface WorkerMetrics {
  /** What a worker process said. `device` names its place, and stays when another process takes that. */
  note(device: string, report: WorkerReport): void;
  /** The place's process ended, and another one starts. */
  restarted(device: string, cause: RestartCause): void;
  /** The place's process ended, and no other one follows. Its counters stay. */
  gone(device: string): void;
  /** As GET /metrics answers. */
  text(): Promise<MetricsText>;
}

export type RestartCause = 'crash' | 'memory' | 'store';

type Meter<One extends Metric> = One extends { type: 'counter' }
  ? Counter<One['labels'][number]>
  : One extends { type: 'gauge' }
    ? Gauge<One['labels'][number]>
    : Histogram<One['labels'][number]>;

export interface Meters<Table extends Record<string, Metric>> {
  meters: { [Name in keyof Table]: Meter<Table[Name]> };
  text(): Promise<MetricsText>;
}

/**
 * A registry of its own: a table's metrics, which version this is, and the process's own under prom-client's names. A gauge is
 * absent until it is set.
 */
export function openMeters<Table extends Record<string, Metric> & Pick<typeof workerTable, 'build'>>(
  table: Table,
): Meters<Table> {
  const registry = new Registry();
  const kinds = { counter: Counter, gauge: Gauge, histogram: Histogram };
  const entries = Object.entries<Metric>(table).map(([key, { name, type, labels, help, buckets }]) => {
    const common = { name, help, labelNames: [...labels], registers: [registry] };
    return [key, new kinds[type]({ ...common, ...(buckets && { buckets: [...buckets] }) })];
  });
  // Each was made of its own entry's type just now.
  const meters = Object.fromEntries(entries) as Meters<Table>['meters'];
  for (const meter of Object.values(meters)) if (meter instanceof Gauge) forget(meter);
  const build: Gauge<'version' | 'node'> = meters.build;
  build.set({ version, node: process.version }, 1);
  collectDefaultMetrics({ register: registry });
  return {
    meters,
    text: async () => ({ contentType: registry.contentType, body: await registry.metrics() }),
  };
}

/** All of a gauge's series go. */
export function forget(gauge: Gauge): void {
  gauge.reset();
  // prom-client resets one without labels to 0.
  gauge.remove({});
}

/** A minute: scrapes are seldom further apart. */
const lagPulses = 60_000 / pulseMs;
/** A shard weighs e times less in what limits a worker each time that this passes, as in a run's pace. */
const recentMs = 300_000;

/** One device's, whichever process has it. */
interface Place {
  /** What its process last said of itself; undefined until it does. */
  pulse: { at: number; lagsMs: number[]; redisSeenAt: number } | undefined;
  recent: { measures: Measures; at: number } | undefined;
  /** Labels of the model that it has loaded. */
  model: Partial<Record<(typeof workerTable.model.labels)[number], string>> | undefined;
}

export function openWorkerMetrics(): WorkerMetrics {
  const { meters, text } = openMeters(workerTable);
  const places = new Map<string, Place>();

  function placeOf(device: string): Place {
    let place = places.get(device);
    if (!place) {
      place = { pulse: undefined, recent: undefined, model: undefined };
      places.set(device, place);
      startAtZero(device);
    }
    return place;
  }

  /** A series that comes into being with its first increase has none: rate() would miss it. */
  function startAtZero(device: string): void {
    for (const status of ['ok', 'failed', 'gone']) meters.images.inc({ device, status }, 0);
    for (const reason of failureReasons) meters.failures.inc({ device, reason }, 0);
    for (const result of ['done', 'failed', 'handed_back', 'lost']) meters.shards.inc({ device, result }, 0);
    for (const cause of ['crash', 'memory', 'store']) meters.restarts.inc({ device, cause }, 0);
    for (const stage of ['fetch', 'decode', 'infer', 'write']) meters.stage.zero({ device, stage });
    meters.reused.inc({ device }, 0);
    meters.read.inc({ device }, 0);
    meters.written.inc({ device }, 0);
    addTimes(device, noMeasures);
    meters.ready.set({ device }, 0);
  }

  function addShard(device: string, place: Place, done: ShardDone): void {
    const { images, reused, failures, bytes, stageMs, measures } = done;
    meters.shards.inc({ device, result: 'done' });
    for (const [status, rows] of Object.entries(images)) meters.images.inc({ device, status }, rows);
    for (const [reason, rows] of Object.entries(failures)) meters.failures.inc({ device, reason }, rows);
    meters.reused.inc({ device }, reused);
    meters.read.inc({ device }, bytes.read);
    meters.written.inc({ device }, bytes.written);
    // A part that stood already went through none.
    if (stageMs.write > 0)
      for (const [stage, ms] of Object.entries(stageMs)) meters.stage.observe({ device, stage }, ms / 1_000);
    addTimes(device, measures);
    const now = performance.now();
    const { recent } = place;
    const weight = recent ? Math.exp((recent.at - now) / recentMs) : 0;
    const faded = mapMeasures((name) => (recent?.measures[name] ?? 0) * weight);
    place.recent = { measures: addMeasures(faded, measures), at: now };
  }

  function addTimes(device: string, measures: Measures): void {
    meters.batchImages.inc({ device }, measures.batchImages);
    meters.batchSlots.inc({ device }, measures.batchRoom);
    meters.deviceBusy.inc({ device }, measures.deviceMs / 1_000);
    const states = {
      embedding: measures.embedMs,
      holding: measures.holdMs,
      loading: measures.loadMs,
      idle: measures.idleMs,
    };
    for (const [state, ms] of Object.entries(states)) meters.worker.inc({ device, state }, ms / 1_000);
    const stages = {
      read: measures.readMs,
      decode: measures.decodeMs,
      lanes: measures.lanesMs,
      device: measures.deviceMs,
      write: measures.writeMs,
      main: measures.mainMs,
      cores: measures.coresMs,
    };
    for (const [stage, ms] of Object.entries(stages)) meters.stageBusy.inc({ device, stage }, ms / 1_000);
  }

  function notePulse(device: string, place: Place, pulse: Pulse): void {
    const { loopLagMs, redisSeenMs, memoryBytes, shardsInFlight } = pulse;
    const at = performance.now();
    const before = place.pulse;
    place.pulse = {
      at,
      lagsMs: [...(before?.lagsMs ?? []), loopLagMs].slice(-lagPulses),
      redisSeenAt: redisSeenMs === null ? (before?.redisSeenAt ?? at) : at - redisSeenMs,
    };
    meters.memory.set({ device }, memoryBytes);
    meters.inFlight.set({ device }, shardsInFlight);
  }

  /** What depends on when it is asked. */
  function refresh(): void {
    const now = performance.now();
    for (const [device, { pulse, recent }] of places) {
      if (pulse) {
        const { at, lagsMs, redisSeenAt } = pulse;
        // A loop that stands still tells nothing of it.
        meters.lag.set({ device }, Math.max(...lagsMs, now - at - pulseMs) / 1_000);
        meters.redisSeen.set({ device }, (now - redisSeenAt) / 1_000);
      }
      const limit = recent && now - recent.at < recentMs ? findLimit(recent.measures) : undefined;
      for (const one of limits) {
        if (limit === undefined) meters.limit.remove({ device, limit: one });
        else meters.limit.set({ device, limit: one }, Number(one === limit));
      }
    }
  }

  function forgetProcess(device: string): void {
    const place = placeOf(device);
    place.pulse = undefined;
    setModel(device, place, undefined);
    meters.ready.set({ device }, 0);
    for (const meter of [meters.lag, meters.redisSeen, meters.memory, meters.inFlight])
      meter.remove({ device });
  }

  function setModel(device: string, place: Place, loaded: LoadedModel | undefined): void {
    if (place.model) meters.model.remove(place.model);
    place.model = undefined;
    if (!loaded) return;
    const { ref: model, architecture, precision, fingerprint } = loaded;
    place.model = { device, model, architecture, precision, fingerprint };
    meters.model.set(place.model, 1);
  }

  return {
    note(device, report) {
      const place = placeOf(device);
      switch (report.kind) {
        case 'ready':
          meters.ready.set({ device }, 1);
          break;
        case 'model':
          setModel(device, place, report.model);
          break;
        case 'shard done':
          addShard(device, place, report.shard);
          break;
        case 'shard left':
          meters.shards.inc({ device, result: report.how.replace(' ', '_') });
          break;
        case 'pulse':
          notePulse(device, place, report.pulse);
          break;
        case 'fatal':
          meters.ready.set({ device }, 0);
      }
    },
    restarted(device, cause) {
      forgetProcess(device);
      meters.restarts.inc({ device, cause });
    },
    gone: forgetProcess,
    async text() {
      refresh();
      return text();
    },
  };
}
