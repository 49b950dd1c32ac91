/** The one model that fits into a worker, and which runs it can do with it: the first run decides. */
import { NotForThisWorker } from '../src/consume.ts';
import type { Device } from '../src/devices/device.ts';
import type { Logger } from '../src/log.ts';
import { openPipeline, type Pipeline } from '../src/pipeline.ts';
import { needsOf, type Run, type RunNeeds } from '../src/run.ts';
import type { Store } from '../src/stores/store.ts';
import { version } from '../src/version.ts';
import { type Engine, type EngineSettings, openEngine } from './engine.ts';

export interface ModelSlotOptions {
  store: Store;
  device: Device;
  settings: EngineSettings;
  /** As `EngineOptions` has it. */
  cautiousMs: number;
  log: Logger;
  /** A thread of the engine is lost: nothing goes on here. */
  onLost(error: unknown): void;
}

export interface ModelSlot {
  readonly device: Device;
  /** Whether a run's shards are for this worker: its version is ours, and its model too, unless none is loaded yet. */
  fits(run: string, needs: RunNeeds): boolean;
  /** The pipeline for a run's model: opened for the first run, refused to runs of another model. */
  pipelineFor(run: Run): Promise<Pipeline>;
  /** What the device did since the model was loaded, ms. */
  deviceTimes(): { inferMs: number; waitedMs: number } | undefined;
  close(): Promise<void>;
}

/** Opens nothing yet. */
export function openModelSlot({
  store,
  device,
  settings,
  cautiousMs,
  log,
  onLost,
}: ModelSlotOptions): ModelSlot {
  let opening: { model: string; engine: Promise<Engine> } | undefined;
  let engine: Engine | undefined;
  let pipeline: Pipeline | undefined;
  const refused = new Set<string>();

  async function open(run: Run): Promise<Engine> {
    const started = performance.now();
    const onNotice = (notice: string): void => log.warn(notice);
    const opened = await openEngine(store, run, { device, settings, cautiousMs, onNotice });
    opened.lost.catch(onLost);
    const { batch, lanes, batcher, encode } = opened;
    pipeline = openPipeline({
      store,
      batcher,
      encode,
      onPart: opened.addPart,
      provenance: () => ({ lensmill: version, device: device.kind, batch: opened.batch }),
    });
    const { ref, precision } = run.model;
    const loadMs = Math.round(performance.now() - started);
    log.info({ model: ref, precision, device: device.name, batch, lanes, loadMs }, 'model loaded');
    return opened;
  }

  return {
    device,
    fits(run, needs) {
      const isOurs = needs.lensmill === version && (!opening || opening.model === needs.model);
      if (!isOurs && !refused.has(run)) {
        refused.add(run);
        log.warn({ run, needs, lensmill: version, model: opening?.model }, 'run left to other workers');
      }
      return isOurs;
    },
    async pipelineFor(run) {
      const { model } = needsOf(run);
      opening ??= { model, engine: open(run) };
      if (opening.model !== model)
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
