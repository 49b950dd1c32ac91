/**
 * A worker process: takes shards from the queue and turns them into parts, until told to stop.
 *
 *   1. The parent (workers/supervisor.ts) sends `start` with everything it needs; nothing is read from env or argv.
 *   2. The model of `run` is loaded if one is named, and `ready` is sent. What the operator must change is sent as
 *      `fatal`, now or later, and costs no shard.
 *   3. This main thread talks to Redis and the store and renews locks; lanes and the inference thread do the work, so it
 *      never blocks for long.
 *   4. SIGTERM, or a parent that is gone: no new shards; those in flight are finished, or handed back after the grace
 *      period; then the threads end by themselves, and the process with them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Device } from '../src/devices/device.ts';
import { resolveDevice } from '../src/devices/resolve-device.ts';
import { ConfigError, messageOf } from '../src/errors.ts';
import { finalizeRun } from '../src/finalize.ts';
import { type Logger, openLog } from '../src/log.ts';
import { openPipeline, type Pipeline } from '../src/pipeline.ts';
import { consumeShards, NotForThisWorker, openQueue } from '../src/queue.ts';
import { type Run, readRun } from '../src/run.ts';
import { type Settings, s3OptionsOf } from '../src/settings.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { version } from '../src/version.ts';
import { obtainModel } from '../src/weights.ts';
import { type Engine, openEngine } from './engine.ts';
import { portableOf } from './thread.ts';

export type WorkerSettings = Pick<
  Settings,
  | 'device'
  | 'batch'
  | 'lanes'
  | 'sessions'
  | 'threads'
  | 'reads'
  | 'readTimeoutMs'
  | 's3Endpoint'
  | 's3Region'
  | 'cacheDir'
  | 'logLevel'
  | 'graceMs'
>;

export interface WorkerOptions {
  output: string;
  redisUrl: string;
  queue: string;
  /** Its model is loaded before the first shard is taken; without it, the first shard decides. */
  run?: string;
  settings: WorkerSettings;
}

export type WorkerReport =
  | { kind: 'ready'; device: string }
  | { kind: 'fatal'; error: { message: string; code?: string } };

/** Shards that one worker holds at once, so that the tail of one does not starve the device. */
const shardsInFlight = 3;
/** How long closing may take after the grace period, before the process is ended by force. */
const closeMs = 5_000;

process.once('message', (options: WorkerOptions) => {
  work(options).catch((error: unknown) => {
    report({ kind: 'fatal', error: portableOf(error) });
    process.exitCode = error instanceof ConfigError ? 2 : 1;
    if (process.connected) process.disconnect();
  });
});
// Ctrl-C reaches every process of the terminal; the parent decides what it means.
process.on('SIGINT', () => undefined);

async function work(options: WorkerOptions): Promise<void> {
  const { settings } = options;
  const stop = stopRequest();
  const log = openLog(settings.logLevel, (line) => process.stderr.write(line));
  const { device, reason } = resolveDevice(settings.device);
  if (reason) log.info({ device: device.name, reason }, 'device chosen');

  const store = openStore(options.output, s3OptionsOf(settings));
  const models = modelSlot(store, device, settings, log);
  try {
    await store.probe();
    if (options.run !== undefined) await models.pipelineFor(await readRun(store, options.run));
    if (!stop.aborted) await consumeUntil(stop, options, store, models, log);
  } finally {
    await models.close();
    await store.close();
    if (process.connected) process.disconnect();
  }
}

async function consumeUntil(
  stop: AbortSignal,
  options: WorkerOptions,
  store: Store,
  models: ModelSlot,
  log: Logger,
): Promise<void> {
  const address = { redisUrl: options.redisUrl, name: options.queue };
  const queue = openQueue(address);
  const broken = Promise.withResolvers<void>();
  let cause: ConfigError | undefined;
  const runs = new Map<string, Run>();
  const runOf = async (id: string): Promise<Run> => {
    const run = runs.get(id) ?? (await readRun(store, id));
    runs.set(id, run);
    return run;
  };

  const consumer = consumeShards(address, {
    concurrency: shardsInFlight,
    queue,
    log,
    handlers: {
      async onShard(id, shard, signal) {
        const run = await runOf(id);
        const pipeline = await models.pipelineFor(run).catch(refuse);
        const done = await pipeline.processShard(run, shard, signal);
        log.info({ run: id, shard, ...roundTimes(done) }, 'shard done');
        const shardsDone = await queue.markDone(id, shard, done);
        if (shardsDone >= run.shards) await queue.enqueueFinalize(id);
      },
      async onFinalize(id) {
        const { items, ok, failed } = await finalizeRun(store, await runOf(id));
        log.info({ run: id, items, ok, failed, ...roundTimes(models.deviceTimes() ?? {}) }, 'run done');
      },
    },
  });
  report({ kind: 'ready', device: models.device.name });

  await Promise.race([new Promise((resolve) => stop.addEventListener('abort', resolve)), broken.promise]);
  log.info('stopping');
  const { graceMs } = options.settings;
  await Promise.race([
    consumer.close(graceMs),
    // A Redis that is gone would keep us for ever: the shards in flight are then another worker's in ten seconds.
    sleep(graceMs + closeMs, undefined, { ref: false }),
  ]);
  await queue.close();
  if (cause) throw cause;

  /** A device or model that does not work here is no reason to burn shards: they go back, and this worker ends. */
  function refuse(error: unknown): never {
    if (!(error instanceof ConfigError)) throw error;
    cause = error;
    broken.resolve();
    throw new NotForThisWorker(error.message);
  }
}

interface ModelSlot {
  readonly device: Device;
  /** The pipeline for a run's model: opened for the first run, refused to runs of another model. */
  pipelineFor(run: Run): Promise<Pipeline>;
  /** What the device did since the model was loaded, ms. */
  deviceTimes(): { inferMs: number; waitedMs: number } | undefined;
  close(): Promise<void>;
}

/** One model fits into a worker: the first run's. */
function modelSlot(store: Store, device: Device, settings: WorkerSettings, log: Logger): ModelSlot {
  let opening: { key: string; engine: Promise<Engine> } | undefined;
  let engine: Engine | undefined;
  let pipeline: Pipeline | undefined;

  async function open(run: Run): Promise<Engine> {
    const started = performance.now();
    const modelPath = await obtainModel(store, run, settings);
    const opened = await openEngine({
      ...settings,
      modelPath,
      device,
      crop: run.model.preprocessing.crop,
      dimension: run.model.dimension,
      topK: run.topK,
      s3: s3OptionsOf(settings),
    });
    const { batch, lanes, batcher } = opened;
    pipeline = openPipeline({
      store,
      batcher,
      provenance: { lensmill: version, device: device.kind, batch },
    });
    const { ref, precision } = run.model;
    const loadMs = Math.round(performance.now() - started);
    log.info({ model: ref, precision, device: device.name, batch, lanes, loadMs }, 'model loaded');
    return opened;
  }

  return {
    device,
    async pipelineFor(run) {
      const key = `${run.model.fingerprint} ${run.topK}`;
      opening ??= { key, engine: open(run) };
      if (opening.key !== key)
        throw new NotForThisWorker(`this worker has another model than run ${run.run}`);
      try {
        engine = await opening.engine;
      } catch (error) {
        opening = undefined;
        throw error;
      }
      await engine.announceRun(run);
      return pipeline as Pipeline; // opened with the engine
    },
    deviceTimes: () => engine?.deviceTimes(),
    async close() {
      await opening?.engine.catch(() => undefined);
      await engine?.close();
    },
  };
}

/** Aborts when the worker shall stop: the parent says so, or is gone. */
function stopRequest(): AbortSignal {
  const controller = new AbortController();
  const stop = (): void => controller.abort();
  process.on('SIGTERM', stop);
  process.on('disconnect', stop);
  return controller.signal;
}

function report(message: WorkerReport): void {
  if (process.connected) process.send?.(message);
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
