/** From a command's arguments to a planned run: everything that can be wrong is found before an image is read. */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { isRetryId, isRunId, retryNumber } from '../layout.ts';
import { readCalibration } from '../models/calibration.ts';
import { throwIfOtherModel } from '../models/head.ts';
import { type Model, quantiseModel, type ResolveOptions, resolveModel } from '../models/model.ts';
import { presets } from '../models/presets.ts';
import { channelsOf, widenGraph } from '../models/widen.ts';
import { publicUrl } from '../objects/web-url.ts';
import { type Lister, planRun } from '../plan.ts';
import { failedItems } from '../retry.ts';
import { extrasName, layers, type RowExtras } from '../row-extras.ts';
import {
  claimRun,
  findSuccess,
  newestRun,
  type Run,
  type RunRequest,
  readRequest,
  readSuccess,
  sourceName,
} from '../run.ts';
import { type Settings, sourceOptionsOf } from '../settings.ts';
import { changedItems } from '../since.ts';
import { openSource, sourceUri } from '../sources/open-source.ts';
import type { Source } from '../sources/source.ts';
import { atStep } from '../steps.ts';
import type { Store } from '../stores/store.ts';
import { openTable, tableRows } from '../table.ts';
import type { Precision } from '../types.ts';
import { version } from '../version.ts';
import { openView } from '../view.ts';
import { publishCalibration, publishHead, publishWeights } from '../weights.ts';
import { findCalibration } from './calibrate.ts';
import type { Context } from './command.ts';
import { readHead } from './head.ts';
import { reportProgress } from './progress.ts';

/**
 * The model of the settings, or `ref`, downloaded where it has to be; the options say how eagerly. In int8 it is quantised by
 * the file of `--calibration`.
 */
export async function loadModel(
  context: Context,
  options: { ref?: string } & Partial<Pick<ResolveOptions, 'hub' | 'retries' | 'precision'>> = {},
): Promise<Model> {
  const { settings, log } = context;
  const { ref = modelRef(settings), precision = choosePrecision(settings, ref), ...pull } = options;
  const { calibration: file } = settings;
  const progress = reportProgress('bytes', context);
  try {
    return await resolveModel(ref, {
      cacheDir: settings.cacheDir,
      resizeMode: settings.resize,
      ...(precision && { precision }),
      ...(precision === 'int8' && file !== undefined && { calibration: await readCalibration(file) }),
      ...pull,
      onProgress: (done, total = done) => progress.update({ done, total }),
      onNotice: (notice) => log.warn(notice),
    });
  } finally {
    progress.close();
  }
}

/** The model of the settings for a run over a source; in int8 calibrated as `findCalibration` does it. */
export async function loadRunModel(
  context: Context,
  place: { source: RunRequest['source']; store?: Store | undefined },
): Promise<Model> {
  const ref = modelRef(context.settings);
  const isOnFloats = choosePrecision(context.settings, ref) !== 'int8';
  // In an .onnx the ranges are baked in, and a null model has none.
  if (isOnFloats || ref.endsWith('.onnx') || ref === 'null') return loadModel(context);
  const floats = await loadModel(context, { precision: 'fp32' });
  return quantiseModel(floats, await findCalibration(context, floats, place));
}

function modelRef({ model }: Settings): string {
  return model ?? presets[0].name;
}

/** An .onnx has a precision of its own; 'auto' is that, and of all else what suits the device. */
function choosePrecision({ precision, device }: Settings, ref: string): Precision | undefined {
  if (precision !== 'auto') return precision;
  return ref.endsWith('.onnx') ? undefined : resolveDevice(device).device.precision;
}

export interface NewRunOptions {
  /** Its id; default: the time. */
  run?: string | undefined;
  /** The run that it goes on from, or 'latest': the newest finished one of the same source and model, if there is one. */
  since?: string | undefined;
  /** Its rows are put into the retrieval index when it is finished. */
  buildIndex?: boolean | undefined;
}

/**
 * Claims a new run and plans it. Throws ConfigError: 'run-exists', 'bad-run-id', and those of the device, source and
 * model that the settings name.
 */
export async function planNewRun(
  context: Context,
  store: Store,
  uris: readonly string[],
  options: NewRunOptions = {},
): Promise<Run> {
  const { settings, log } = context;
  const { run: runId = newRunId() } = options;
  if (!isRunId(runId)) {
    throw new ConfigError(
      'bad-run-id',
      `'${runId}' is no run id: 1 to 64 letters, digits and . _ -, not digits alone`,
    );
  }
  if (isRetryId(runId)) {
    throw new ConfigError(
      'bad-run-id',
      `'${runId}' is what \`lensmill retry\` would call a retry: give another --run`,
    );
  }
  resolveDevice(settings.device);
  const spec = await sourceSpecOf(settings, uris);
  const source = openSource(spec, sourceOptionsOf(settings));
  try {
    await source.probe();
  } finally {
    await source.close();
  }
  const model = await loadRunModel(context, { source: spec, store });
  const request: RunRequest = {
    v: 1,
    run: runId,
    lensmill: version,
    retryOf: null,
    since: null,
    reuse: settings.reuse === 'output',
    source: spec,
    model: model.identity,
    weightsKey: await publishWeights(store, model),
    calibrationKey: await publishCalibration(store, model),
    topK: settings.topK,
    ...(await planExtras(store, model, settings)),
    embedding: settings.embedding,
    ...(options.buildIndex && { buildIndex: true }),
    shardSize: settings.shardSize,
    maxPixels: settings.maxPixels,
    maxBytes: settings.maxBytes,
    createdAt: new Date().toISOString(),
  };
  if (options.since !== undefined) request.since = await findBase(store, request, options.since);
  await claimRun(store, request);
  atStep('run claimed', runId);
  const { since } = request;
  log.info(
    {
      run: runId,
      ...(since && { since }),
      source: sourceName(request),
      output: store.uri,
      model: model.identity.ref,
      precision: model.identity.precision,
    },
    'run start',
  );
  return completePlan(context, store, request);
}

/**
 * What the run's rows shall hold beside what all do. Throws ConfigError 'wrong-head', 'no-features', and those of `readHead`:
 * else the first shard would find out.
 */
async function planExtras(
  store: Store,
  model: Model,
  { head: file, features: asked = [], topK }: Settings,
): Promise<RowExtras> {
  const { ref, dimension } = model.identity;
  const features = layers.flatMap((layer) =>
    asked.includes(layer) ? [{ layer, length: channelsOf[layer] }] : [],
  );
  if (features.length > 0) widenGraph(model.build(topK), { ref, dimension, topK, features });
  const extras: RowExtras = features.length > 0 ? { features } : {};
  if (file === undefined) return extras;
  const { bytes, head } = await readHead(file);
  throwIfOtherModel(head, model.identity, { file, of: 'this run' });
  return { ...extras, head: await publishHead(store, bytes, { classes: head.record.classes, topK }) };
}

/** What the settings say of these sources. Throws ConfigError as `sourceUri`, and 'bad-host' for an `--allow-host`. */
export async function sourceSpecOf(
  settings: Settings,
  uris: readonly string[],
): Promise<RunRequest['source']> {
  // Else the first web image would find out.
  if (settings.allowHosts) (await import('../objects/address-guard.ts')).openGuard(settings.allowHosts);
  return {
    uris: uris.map(sourceUri),
    include: settings.include ?? null,
    exclude: settings.exclude ?? [],
    archives: settings.archives,
    list: { uri: settings.uriColumn ?? null, id: settings.idColumn ?? null, keep: settings.columns ?? [] },
  };
}

/**
 * Keeps the memory of a planner small. A listing is garbage soon after it is parsed, and V8 gives garbage that comes fast ever
 * more room: 300,000 objects took 430 MB, so bounded 247 MB, in the same time (test/bench/plan.ts).
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--heap-growing-percent=60');
}

/** Plans a claimed run, or what its planner left undone. */
export async function completePlan(context: Context, store: Store, request: RunRequest): Promise<Run> {
  keepHeapSmall();
  const { settings, log, terminal, interrupted } = context;
  const source = openSource(request.source, sourceOptionsOf(settings));
  try {
    await source.probe();
    const { lister, rowsBefore } = await listerOf(store, source, request);
    const run = await planRun(store, lister, request, {
      rowsBefore,
      signal: interrupted,
      onProgress: ({ items }) => terminal.show(`planning: ${items.toLocaleString('en-US')} images found`),
    });
    const { items, shards, skipped, replaced, gone, kept } = run;
    const changes = run.since !== null && { new: items - replaced, changed: replaced - gone, gone, kept };
    log.info({ run: run.run, items, shards, skipped, ...changes }, 'run planned');
    return run;
  } finally {
    terminal.show(undefined);
    await source.close();
  }
}

/** What a run is planned from: its source; what changed there; or of a retry what still failed when it was claimed. */
async function listerOf(
  store: Store,
  source: Source,
  request: RunRequest,
): Promise<{ lister: Lister; rowsBefore: number }> {
  const { run, retryOf, retryCodes, since } = request;
  if (retryOf !== null) {
    const view = await openView(store, retryOf, retryNumber(retryOf, run));
    return { lister: failedItems(store, view, source, retryCodes), rowsBefore: 0 };
  }
  if (since === null) return { lister: source, rowsBefore: 0 };
  const table = await openTable(store, since);
  const rowsBehind = (after?: string) => tableRows(store, table, after);
  return { lister: changedItems(source, rowsBehind, request), rowsBefore: table.rows };
}

/**
 * The run that an increment goes on from; null where `latest` finds none. Throws ConfigError 'no-run', 'not-finished', and
 * 'other-source' or 'other-model' where its rows are of another kind.
 */
async function findBase(store: Store, request: RunRequest, asked: string): Promise<string | null> {
  if (asked === 'latest') {
    const latest = await newestRun(
      store,
      async (other) =>
        other.retryOf === null &&
        !differenceOf(other, request) &&
        (await findSuccess(store, other.run)) !== undefined,
    );
    return latest?.run ?? null;
  }
  await readSuccess(store, asked);
  const base = await readRequest(store, asked);
  if (base.retryOf !== null)
    throw new ConfigError('since-retry', `${asked} is a retry: --since ${base.retryOf} has its rows too`);
  const difference = differenceOf(base, request);
  if (difference) throw new ConfigError(`other-${difference.what}`, difference.why);
  return asked;
}

/** Why one run cannot go on from another. */
function differenceOf(base: RunRequest, request: RunRequest): { what: string; why: string } | undefined {
  // A signature may be another each night.
  const urisOf = ({ source }: RunRequest): string[] => source.uris.map(publicUrl);
  if (!isDeepStrictEqual(urisOf(base), urisOf(request))) {
    const why = `run ${base.run} is of ${sourceName(base)}, not of ${sourceName(request)}: name the same source, or leave out --since`;
    return { what: 'source', why };
  }
  const kindOf = ({ model, topK, embedding, ...extras }: RunRequest): string => {
    const numbers = `${model.ref} ${model.precision} (${model.fingerprint.slice(0, 12)})`;
    return [numbers, `top ${topK}`, embedding, extrasName(extras)].filter(Boolean).join(', ');
  };
  if (kindOf(base) === kindOf(request) && base.model.fingerprint === request.model.fingerprint)
    return undefined;
  const why = `run ${base.run} is by ${kindOf(base)}, this one by ${kindOf(request)}: rows of both cannot be one table; leave out --since`;
  return { what: 'model', why };
}

/** Sorts by time: `20261124-091233-3fa2`. */
function newRunId(): string {
  const [date = '', time = ''] = new Date().toISOString().replaceAll(/[-:]/g, '').split(/[T.]/);
  return `${date}-${time}-${randomBytes(2).toString('hex')}`;
}
