/**
 * A worker process: takes shards from the queue and turns them into parts, until told to stop.
 *
 *   1. The parent (workers/supervisor.ts) sends `work` with everything it needs; nothing is read from env or argv, but by OpenTelemetry
 *      (telemetry/traces.ts).
 *   2. The model of `run` is loaded if one is named, and `ready` is sent. What the operator must change is sent as
 *      `fatal`, now or later, and costs no shard.
 *   3. This main thread talks to Redis and the store and renews locks; lanes and the inference thread do the work, so it
 *      never blocks for long.
 *   4. SIGTERM, or a parent that is gone: no new shards; those in flight are finished, or handed back after the grace
 *      period, or at once with a second SIGTERM; then the threads end by themselves, and the process with them.
 *      `finish` from the parent is that without a grace period: whatever is in flight is finished.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { consumeShards, NotForThisWorker } from '../src/consume.ts';
import { resolveDevice } from '../src/devices/resolve-device.ts';
import { ConfigError, messageOf, OutOfReach } from '../src/errors.ts';
import { finalizeRun } from '../src/finalize.ts';
import { ofStore, type ShardReport } from '../src/pipeline.ts';
import { openQueue } from '../src/queue.ts';
import { type Run, readRun } from '../src/runs/run.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import { atStep } from '../src/steps.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { type Logger, openLog } from '../src/telemetry/log.ts';
import type { Measures } from '../src/telemetry/measures.ts';
import { reportThroughput } from '../src/telemetry/throughput.ts';
import { noteInSpan, startTraces, stopTraces } from '../src/telemetry/traces.ts';
import type { ShardDone, WorkerReport } from '../src/telemetry/worker-reports.ts';
import type { EngineSettings } from './engine.ts';
import { indexAside } from './index-aside.ts';
import { type ModelSlot, openModelSlot } from './model-slot.ts';
import { openPartWriter, type PartWriter } from './part-writer.ts';
import { type PulseTimer, startPulse } from './pulse.ts';
import { openTally, type Tally } from './tally.ts';
import { portableOf } from './thread.ts';

export type WorkerSettings = EngineSettings & Pick<Settings, 'device' | 'logLevel' | 'graceMs'>;

export interface WorkerOptions {
  output: string;
  redisUrl: string;
  queue: string;
  /** Its model is loaded before the first shard is taken; without it, the first shard decides. */
  run?: string;
  /** How long to decode in sandboxes: the process before this one crashed. */
  cautiousMs: number;
  /** That it may count on. */
  cores: number;
  /** Of several on a machine, in every line that it logs. */
  worker?: string;
  settings: WorkerSettings;
}

/** From the parent: first `work`, once. */
export type WorkerOrder = { kind: 'work'; options: WorkerOptions } | { kind: 'finish' };

/** Shards that one worker holds at once, so that the tail of one does not starve the device. */
const shardsInFlight = 3;
/** How long closing may take after the grace period, before the process is ended by force. */
const closeMs = 5_000;
/** Of Node's timers: 24 days. */
const longestMs = 2 ** 31 - 1;

process.on('message', (order: WorkerOrder) => {
  if (order.kind === 'work') start(order.options);
});
// Ctrl-C, or its end, reaches every process of a terminal; the parent decides what it means.
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => undefined);
// With the parent goes who reads this: no reason to drop the shards in flight.
process.stderr.on('error', () => undefined);

function start(options: WorkerOptions): void {
  work(options)
    .catch((error: unknown) => {
      report({ kind: 'fatal', error: portableOf(error) });
      process.exitCode = error instanceof ConfigError ? 2 : 1;
    })
    .finally(async () => {
      await stopTraces();
      if (process.connected) process.disconnect();
      // The threads have ended; what is left waits for a Redis that is gone.
      setTimeout(() => process.exit(), closeMs).unref();
    });
}

async function work(options: WorkerOptions): Promise<void> {
  const { settings, output, cautiousMs, cores, worker } = options;
  const stop = stopRequest();
  const pulse = startPulse((pulse) => report({ kind: 'pulse', pulse }));
  const log = openLog(settings.logLevel, (line) => process.stderr.write(line), worker ? { worker } : {});
  await startTraces(process.env, log);
  const { device, reason } = resolveDevice(settings.device);
  if (reason) log.info({ device: device.name, reason }, 'device chosen');

  const s3 = s3OptionsOf(settings);
  const store = openStore(output, s3);
  // A process that was started for a run has been loading since its start.
  const loadedMs = options.run === undefined ? 0 : performance.now();
  const tally = openTally({ loadedMs, shardsAtOnce: shardsInFlight });
  let writer: PartWriter | undefined;
  let models: ModelSlot | undefined;
  try {
    await store.probe();
    writer = openPartWriter({ output, s3, conditional: store.conditional });
    writer.lost.catch(crash);
    models = openModelSlot({
      store,
      writer,
      device,
      settings,
      cautiousMs,
      cores,
      log,
      tally,
      onLoaded: (model) => report({ kind: 'model', model }),
      onLost: crash,
    });
    if (options.run !== undefined) await models.pipelineFor(await readRun(store, options.run));
    if (!stop.signal.aborted) await consumeUntil(stop, options, { store, writer, models, tally, pulse, log });
  } finally {
    await models?.close();
    await writer?.close();
    await store.close();
    pulse.close();
  }
}

async function consumeUntil(
  stop: StopRequest,
  options: WorkerOptions,
  parts: {
    store: Store;
    writer: PartWriter;
    models: ModelSlot;
    tally: Tally;
    pulse: PulseTimer;
    log: Logger;
  },
): Promise<void> {
  const { store, writer, models, tally, pulse, log } = parts;
  const address = { redisUrl: options.redisUrl, name: options.queue };
  const queue = openQueue(address);
  const broken = Promise.withResolvers<void>();
  let cause: ConfigError | undefined;
  const runs = new Map<string, Run>();
  const runOf = async (id: string): Promise<Run> => {
    const run = runs.get(id) ?? (await ofStore(readRun(store, id)));
    runs.set(id, run);
    return run;
  };

  const consumer = consumeShards(address, {
    concurrency: shardsInFlight,
    queue,
    log,
    handlers: {
      fits(id, { needs, createdAt }) {
        // It was deleted, and made anew.
        if (runs.get(id)?.createdAt !== createdAt) runs.delete(id);
        return models.fits(id, needs);
      },
      onNoShard: tally.noShard,
      onLeft: (how) => report({ kind: 'shard left', how }),
      async onShard({ run: id, shard, suspect, lease }) {
        atStep('shard taken', id, shard);
        const [run, done] = await tally.during('hold', async () => {
          const run = await runOf(id);
          const pipeline = await models.pipelineFor(run).catch(refuse);
          return [run, await pipeline.processShard(run, shard, { lease, suspect }).catch(refuse)] as const;
        });
        const { failures, ...facts } = done;
        const notes = { ...(suspect && { suspect }), ...(done.failed > 0 && { failures }) };
        log.info({ run: id, shard, ...notes, ...roundTimes(facts) }, 'shard done');
        noteInSpan({ device: models.device.name, ...facts });
        const measures = tally.take(done);
        report({ kind: 'shard done', shard: shardDone(id, shard, done, measures) });
        const shardsDone = await queue.markDone(id, shard, { ...done, measures });
        atStep('shard marked done', id, shard);
        if (shardsDone < run.shards) return;
        await queue.enqueueFinalize(id);
        atStep('finalize enqueued', id);
      },
      async onFinalize(id, lease) {
        atStep('finalize taken', id);
        const { items, ok, failed } = await ofStore(
          runOf(id).then((run) => finalizeRun(store, run, writer.readFacts)),
        );
        const throughput = reportThroughput((await queue.progress(id)).measures);
        log.info({ run: id, items, ok, failed, limit: throughput?.verdict }, 'run done');
        // Who drives a run to its end builds its index too, and shows how far that is.
        if ((await runOf(id)).buildIndex && id !== options.run) {
          const { output, worker, settings } = options;
          await indexAside({ output, run: id, worker, settings }, lease.signal);
        }
      },
    },
  });
  pulse.watch(consumer);
  report({ kind: 'ready', device: models.device.name });

  await Promise.race([aborted(stop.signal), aborted(stop.finish), broken.promise]);
  if (stop.finish.aborted && !stop.signal.aborted) {
    log.info('finishing');
    await Promise.race([consumer.close(longestMs), aborted(stop.signal)]);
  }
  log.info('stopping');
  const { graceMs } = options.settings;
  const drained = consumer.close(graceMs);
  stop.hurry.addEventListener('abort', () => void consumer.close(0));
  const left = await Promise.race([
    drained,
    // A Redis that is gone would keep us for ever: the shards in flight are then another worker's in fifteen seconds.
    sleep(graceMs + closeMs, shardsInFlight, { ref: false }),
    aborted(stop.hurry).then(() => sleep(closeMs, shardsInFlight, { ref: false })),
  ]);
  await queue.close();
  if (cause) throw cause;
  // The threads would first end the batches that they hold, and nobody wants those any more. Not `exit`, which in the middle
  // of a model run aborts with a noise.
  if (left > 0) {
    await stopTraces();
    process.kill(process.pid, 'SIGKILL');
  }

  /** A device or model that does not work here is no reason to burn shards: they go back, and this worker ends. */
  function refuse(error: unknown): never {
    if (!(error instanceof ConfigError)) throw error;
    if (error.code === 'store-unreachable') throw new OutOfReach(error.message, { cause: error });
    cause = error;
    broken.resolve();
    throw new NotForThisWorker(error.message);
  }
}

interface StopRequest {
  /** The parent wants another process in our place. */
  finish: AbortSignal;
  /** SIGTERM, or the parent is gone. */
  signal: AbortSignal;
  /** SIGTERM again. */
  hurry: AbortSignal;
}

function stopRequest(): StopRequest {
  const finish = new AbortController();
  const first = new AbortController();
  const second = new AbortController();
  process.on('message', ({ kind }: WorkerOrder) => {
    if (kind === 'finish') finish.abort();
  });
  process.on('SIGTERM', () => (first.signal.aborted ? second : first).abort());
  process.on('disconnect', () => first.abort());
  return { finish: finish.signal, signal: first.signal, hurry: second.signal };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve());
  });
}

/** What the supervisor answers with another process. */
function crash(error: unknown): void {
  report({ kind: 'fatal', error: { message: messageOf(error) } });
  process.exit(1);
}

function report(message: WorkerReport): void {
  if (process.connected) process.send?.(message);
}

function shardDone(run: string, shard: number, done: ShardReport, measures: Measures): ShardDone {
  const { commit, images, failed, gone, reused, failures, bytesRead: read, bytesWritten: written } = done;
  const { fetchMs: fetch, decodeMs: decode, inferMs: infer, writeMs: write } = done;
  const isOurs = commit === 'created' || commit === 'ours';
  return {
    run,
    shard,
    images: isOurs ? { ok: images - failed, failed, gone } : { ok: 0, failed: 0, gone: 0 },
    reused: isOurs ? reused : 0,
    failures: isOurs ? failures : {},
    bytes: { read, written },
    stageMs: { fetch, decode, infer, write },
    measures,
  };
}

function roundTimes(values: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      typeof value === 'number' ? Math.round(value) : value,
    ]),
  );
}

process.on('uncaughtException', (error) => {
  report({ kind: 'fatal', error: { message: messageOf(error) } });
  throw error;
});
