/** From a command's arguments to a planned run: everything that can be wrong is found before an image is read. */
import { randomBytes } from 'node:crypto';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { isRetryId, isRunId, retryNumber } from '../layout.ts';
import { type Model, type ResolveOptions, resolveModel } from '../models/model.ts';
import { presets } from '../models/presets.ts';
import { planRun } from '../plan.ts';
import { failedItems } from '../retry.ts';
import { claimRun, type Run, type RunRequest } from '../run.ts';
import { type Settings, s3OptionsOf } from '../settings.ts';
import { DEFAULT_INCLUDE } from '../sources/globs.ts';
import { openSource } from '../sources/open-source.ts';
import type { Source } from '../sources/source.ts';
import { atStep } from '../steps.ts';
import { openStore } from '../stores/open-store.ts';
import type { Store } from '../stores/store.ts';
import { version } from '../version.ts';
import { openView } from '../view.ts';
import { publishWeights } from '../weights.ts';
import { type Context, required } from './command.ts';
import { reportProgress } from './progress.ts';

/** An output that is there and can be written. */
export async function openOutput(settings: Settings): Promise<Store> {
  const store = openStore(required(settings, 'output'), s3OptionsOf(settings));
  await store.probe();
  return store;
}

/** The model of the settings, or `ref`, downloaded where it has to be; `pull` says how eagerly. */
export async function loadModel(
  context: Context,
  options: { ref?: string } & Pick<ResolveOptions, 'hub' | 'retries'> = {},
): Promise<Model> {
  const { settings, log } = context;
  const { ref = settings.model ?? presets[0].name, ...pull } = options;
  const progress = reportProgress('bytes', context);
  try {
    return await resolveModel(ref, {
      cacheDir: settings.cacheDir,
      resizeMode: settings.resize,
      precision: settings.precision,
      ...pull,
      onProgress: (done, total = done) => progress.update({ done, total }),
      onNotice: (notice) => log.warn(notice),
    });
  } finally {
    progress.close();
  }
}

/**
 * Claims a new run and plans it. Throws ConfigError: 'run-exists', 'bad-run-id', and those of the device, source and
 * model that the settings name.
 */
export async function planNewRun(
  context: Context,
  store: Store,
  sourceUri: string,
  runId = newRunId(),
): Promise<Run> {
  const { settings, log } = context;
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
  const globs = { include: settings.include ?? [...DEFAULT_INCLUDE], exclude: settings.exclude ?? [] };
  const source = openSource(sourceUri, globs, s3OptionsOf(settings));
  try {
    await source.probe();
  } finally {
    await source.close();
  }
  const model = await loadModel(context);
  const request: RunRequest = {
    v: 1,
    run: runId,
    lensmill: version,
    retryOf: null,
    source: { uri: source.uri, ...globs },
    model: model.identity,
    weightsKey: await publishWeights(store, model),
    topK: settings.topK,
    embedding: settings.embedding,
    shardSize: settings.shardSize,
    maxPixels: settings.maxPixels,
    maxBytes: settings.maxBytes,
    createdAt: new Date().toISOString(),
  };
  await claimRun(store, request);
  atStep('run claimed', runId);
  log.info({ run: runId, source: source.uri, output: store.uri, model: model.identity.ref }, 'run start');
  return completePlan(context, store, request);
}

/** Plans a claimed run, or what its planner left undone. */
export async function completePlan(context: Context, store: Store, request: RunRequest): Promise<Run> {
  const { settings, log, terminal, interrupted } = context;
  const source = openSource(request.source.uri, request.source, s3OptionsOf(settings));
  try {
    await source.probe();
    const run = await planRun(store, await listerOf(store, source, request), request, {
      signal: interrupted,
      onProgress: ({ items }) => terminal.show(`planning: ${items.toLocaleString('en-US')} images found`),
    });
    log.info({ run: run.run, items: run.items, shards: run.shards, skipped: run.skipped }, 'run planned');
    return run;
  } finally {
    terminal.show(undefined);
    await source.close();
  }
}

/** What a run is planned from: its source, or of a retry what still failed when it was claimed. */
async function listerOf(
  store: Store,
  source: Source,
  { run, retryOf, retryCodes }: Pick<RunRequest, 'run' | 'retryOf' | 'retryCodes'>,
): Promise<Pick<Source, 'uri' | 'list'>> {
  if (retryOf === null) return source;
  return failedItems(store, await openView(store, retryOf, retryNumber(retryOf, run)), source, retryCodes);
}

/** Sorts by time: `20261124-091233-3fa2`. */
function newRunId(): string {
  const [date = '', time = ''] = new Date().toISOString().replaceAll(/[-:]/g, '').split(/[T.]/);
  return `${date}-${time}-${randomBytes(2).toString('hex')}`;
}
