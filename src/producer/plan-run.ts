/** From what is asked for to a planned run: everything that can be wrong is found before an image is read. */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { isRetryId, isRunId, retryNumber } from '../layout.ts';
import { throwIfOtherModel } from '../models/head.ts';
import type { Model } from '../models/model.ts';
import { channelsOf, widenGraph } from '../models/widen.ts';
import { publicUrl } from '../objects/web-url.ts';
import { extrasName, layers, type RowExtras } from '../parts/row-extras.ts';
import { type Lister, planRun } from '../plan.ts';
import { failedItems } from '../retry.ts';
import {
  claimRun,
  findSuccess,
  newestRun,
  type Run,
  type RunRequest,
  readRequest,
  readSuccess,
  sourceName,
  throwIfClaimed,
} from '../runs/run.ts';
import { openTable, tableRows } from '../runs/table.ts';
import { openView } from '../runs/view.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import type { Settings } from '../settings/table.ts';
import { changedItems } from '../since.ts';
import { openSource, sourceUri } from '../sources/open-source.ts';
import type { Source } from '../sources/source.ts';
import { atStep } from '../steps.ts';
import type { Store } from '../stores/store.ts';
import { version } from '../version.ts';
import { publishCalibration, publishHead, publishWeights } from '../weights.ts';
import type { Caller } from './caller.ts';
import { loadRunModel } from './choose-model.ts';
import { readHead } from './head.ts';
import { requireRedis } from './redis.ts';

export interface NewRunOptions {
  /** Its id; default: the time. */
  run?: string | undefined;
  /** The run that it goes on from, or 'latest': the newest finished one of the same source and model, if there is one. */
  since?: string | undefined;
  /** Its rows are put into the retrieval index when it is finished. */
  buildIndex?: boolean | undefined;
}

/**
 * Claims a new run and plans it. Throws ConfigError: 'run-exists', 'bad-run-id', 'empty-source', and those of the device,
 * Redis, source and model that the settings name.
 */
export async function planNewRun(
  caller: Caller,
  store: Store,
  uris: readonly string[],
  options: NewRunOptions = {},
): Promise<Run> {
  const { settings, log } = caller;
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
  await requireRedis(caller);
  await throwIfClaimed(store, runId);
  const spec = await sourceSpecOf(settings, uris);
  const source = openSource(spec, sourceOptionsOf(settings));
  try {
    await source.probe();
  } finally {
    await source.close();
  }
  const model = await loadRunModel(caller, { source: spec, store });
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
  return completePlan(caller, store, request, async () => {
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
  });
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

/** Plans a claimed run, or what its planner left undone; with `claim`, one that is new. */
export async function completePlan(
  caller: Caller,
  store: Store,
  request: RunRequest,
  claim?: () => Promise<void>,
): Promise<Run> {
  const { settings, log, interrupted } = caller;
  const progress = caller.reportProgress('images found');
  const source = openSource(request.source, sourceOptionsOf(settings));
  let isClaimed = claim === undefined;
  try {
    await source.probe();
    const { lister, rowsBefore } = await listerOf(store, source, request);
    const run = await planRun(store, lister, request, {
      rowsBefore,
      signal: interrupted,
      claim:
        claim &&
        (async () => {
          await claim();
          isClaimed = true;
        }),
      onProgress: ({ items }) => progress.update({ done: items }),
    });
    const { items, shards, skipped, replaced, gone, kept } = run;
    const changes = run.since !== null && { new: items - replaced, changed: replaced - gone, gone, kept };
    log.info({ run: run.run, items, shards, skipped, ...changes }, 'run planned');
    return run;
  } catch (error) {
    if (interrupted.aborted && isClaimed)
      log.warn(
        { run: request.run, output: store.uri },
        'planning was stopped; `lensmill resume` goes on with the run',
      );
    throw error;
  } finally {
    progress.close();
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
