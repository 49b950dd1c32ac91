/** Where the calibration of an int8 model comes from: a file, an earlier run of the output, or images of the source. */
import { availableParallelism } from 'node:os';
import { isDeepStrictEqual } from 'node:util';
import pMap from 'p-map';
import { longestDecodeMs, openSandbox } from '../../workers/sandbox.ts';
import { calibrate } from '../calibrate.ts';
import { fetchItem } from '../fetch.ts';
import { type Calibration, readCalibration } from '../models/calibration.ts';
import { type Model, requireNetwork } from '../models/model.ts';
import { newestRun, type RunRequest } from '../runs/run.ts';
import { type Draw, sampleItems } from '../sample.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import type { Settings } from '../settings/table.ts';
import { openSource } from '../sources/open-source.ts';
import type { Source } from '../sources/source.ts';
import type { Store } from '../stores/store.ts';
import type { Item } from '../types.ts';
import { fetchCalibration } from '../weights.ts';
import type { Caller } from './caller.ts';

/**
 * The calibration that a run of this source should have. In this order: the file of `--calibration`; that of the newest int8
 * run in `store` by the same weights and pixels, so that their rows may be compared; one that is made now.
 */
export async function findCalibration(
  caller: Caller,
  model: Model,
  { source, store }: { source: RunRequest['source']; store?: Store | undefined },
): Promise<Calibration> {
  const { settings, log } = caller;
  const found = (calibration: Calibration, from: string): Calibration => {
    log.info({ from, images: calibration.images, method: calibration.method }, 'calibration found');
    return calibration;
  };
  if (settings.calibration !== undefined)
    return found(await readCalibration(settings.calibration), settings.calibration);
  const earlier = store && (await findEarlier(store, model));
  if (earlier) return found(await fetchCalibration(store, earlier.key), `run ${earlier.run}`);
  return calibrateOn(caller, model, source);
}

/** The newest run of an output whose calibration fits a model. */
async function findEarlier(
  store: Store,
  { identity }: Model,
): Promise<{ run: string; key: string } | undefined> {
  const newest = await newestRun(store, ({ calibrationKey, model }) => {
    const { weights, preprocessing, resizeMode } = model;
    return (
      calibrationKey !== null &&
      weights === identity.weights &&
      resizeMode === identity.resizeMode &&
      isDeepStrictEqual(preprocessing, identity.preprocessing)
    );
  });
  return newest?.calibrationKey ? { run: newest.run, key: newest.calibrationKey } : undefined;
}

/** What a calibration looks at, so that a certificate can look at others. */
export function calibrationDraw({ calibrationImages }: Pick<Settings, 'calibrationImages'>): Draw {
  return { count: calibrationImages, name: 'calibration' };
}

/** Measures the activations of `model`, in fp32, on images that are spread over the whole source, always the same ones. */
export async function calibrateOn(
  caller: Caller,
  model: Model,
  spec: RunRequest['source'],
): Promise<Calibration> {
  const { settings, log, interrupted: signal } = caller;
  const started = performance.now();
  requireNetwork(model); // before an image is read
  const source = openSource(spec, sourceOptionsOf(settings));
  const listing = caller.reportProgress('images found to calibrate on');
  const progress = caller.reportProgress('images');
  try {
    const onProgress = (listed: number): void => listing.update({ done: listed });
    const options = { ...calibrationDraw(settings), onProgress, signal };
    const items = await sampleItems(source, options);
    const crops = await cropItems(caller, model, source, items);
    const calibration = await calibrate(model, crops, {
      threads: settings.threads || availableParallelism(),
      onProgress: (done) => progress.update({ done, total: crops.length }),
      signal,
    });
    const [images, skipped] = [crops.length, items.length - crops.length];
    const calibrateMs = Math.round(performance.now() - started);
    log.info({ model: model.identity.ref, images, skipped, calibrateMs }, 'calibrated');
    return calibration;
  } finally {
    listing.close();
    progress.close();
    await source.close();
  }
}

/** The crops of those that can be read and decoded, in order. */
async function cropItems(
  { settings, log, interrupted: signal }: Caller,
  { identity }: Model,
  source: Source,
  items: readonly Item[],
): Promise<Uint8Array[]> {
  const { maxBytes, maxPixels, readTimeoutMs: timeoutMs, reads } = settings;
  const { preprocessing, resizeMode } = identity;
  // A picture that ends the process that decodes it shall not end this one.
  const sandbox = openSandbox(longestDecodeMs);
  const cropItem = async (item: Item): Promise<Uint8Array | undefined> => {
    const fetched = await fetchItem(source, item, { maxBytes, timeoutMs, signal });
    const crop = new Uint8Array(preprocessing.crop ** 2 * 3);
    const outcome =
      'error' in fetched
        ? fetched
        : await sandbox.decode(fetched.content, crop, { preprocessing, resizeMode, maxPixels });
    if (!('error' in outcome)) return crop;
    log.debug({ item: item.id, ...outcome }, 'not calibrated on');
    return undefined;
  };
  try {
    const crops = await pMap(items, cropItem, { concurrency: reads, signal });
    return crops.filter((crop) => crop !== undefined);
  } finally {
    sandbox.close();
  }
}
