/** The one model that fits into a worker, and which runs it can do with it: the first run decides. */
import { NotForThisWorker } from '../src/consume.ts';
import type { Device } from '../src/devices/device.ts';
import { openPipeline, type Pipeline } from '../src/pipeline.ts';
import { needsOf, type Run, type RunNeeds } from '../src/runs/run.ts';
import type { Store } from '../src/stores/store.ts';
import type { Logger } from '../src/telemetry/log.ts';
import type { LoadedModel } from '../src/telemetry/worker-reports.ts';
import { version } from '../src/version.ts';
import { type Engine, type EngineSettings, openEngine } from './engine.ts';
import type { PartWriter } from './part-writer.ts';
import type { Tally } from './tally.ts';

export interface ModelSlotOptions {
  store: Store;
  writer: Pick<PartWriter, 'encode'>;
  device: Device;
  settings: EngineSettings;
  /** As `EngineOptions` has it. */
  cautiousMs: number;
  cores: number;
  log: Logger;
  tally: Tally;
  /** A run's model is loaded and warm. */
  onLoaded(model: LoadedModel): void;
  /** A thread of the engine is lost: nothing goes on here. */
  onLost(error: unknown): void;
}

export interface ModelSlot {
  readonly device: Device;
  /** Whether a run's shards are for this worker: its version is ours, and its model too, unless none is loaded yet. */
  fits(run: string, needs: RunNeeds): boolean;
  /** The pipeline for a run's model: opened for the first run, refused to runs of another model. */
  pipelineFor(run: Run): Promise<Pipeline>;
  close(): Promise<void>;
}

/** Opens nothing yet. */
export function openModelSlot({
  store,
  writer,
  device,
  settings,
  cautiousMs,
  cores,
  log,
  tally,
  onLoaded,
  onLost,
}: ModelSlotOptions): ModelSlot {
  let opening: { model: string; engine: Promise<Engine> } | undefined;
  let engine: Engine | undefined;
  let pipeline: Pipeline | undefined;
  const refused = new Set<string>();

  async function open(run: Run): Promise<Engine> {
    const started = performance.now();
    const onNotice = (notice: string): void => log.warn(notice);
    const opened = await openEngine(store, run, { device, settings, cautiousMs, cores, onNotice });
    opened.lost.catch(onLost);
    tally.watch(opened);
    const { arrangement, lanes, decoder, batcher } = opened;
    pipeline = openPipeline({
      store,
      batcher: { embed: (...shard) => tally.during('embed', () => batcher.embed(...shard)) },
      encode: writer.encode,
      onPart: opened.addPart,
      provenance: () => ({ lensmill: version, device: device.kind, batch: opened.batch, decoder }),
    });
    const { ref, architecture, precision, fingerprint } = run.model;
    const loadMs = Math.round(performance.now() - started);
    const loaded = { model: ref, precision, device: device.name, ...arrangement, lanes, decoder, loadMs };
    log.info(loaded, 'model loaded');
    onLoaded({ ref, architecture, precision, fingerprint, device: device.name });
    return opened;
  }

  async function pipelineFor(run: Run): Promise<Pipeline> {
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
    pipelineFor: (run) => tally.during('load', () => pipelineFor(run)),
    async close() {
      await opening?.engine.catch(() => undefined);
      await engine?.close();
    },
  };
}
