/** `lensmill certify`: a sample of images by the model to be certified, and by the same network in fp32. */
import { createHash } from 'node:crypto';
import { embedSideBySide } from '../../workers/side-by-side.ts';
import { publicUri } from '../archives/archive.ts';
import type { Certificate } from '../certificate.ts';
import { leastImages, measureAgreement, type Rows, shortfallsOf } from '../certify.ts';
import { chooseRows, readRows, type SampledRow } from '../checks/sample.ts';
import { requirePrecision } from '../devices/device.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { buildOnnx, type Model } from '../models/model.ts';
import { calibrationDraw } from '../producer/calibrate.ts';
import { loadModel, loadRunModel } from '../producer/choose-model.ts';
import { sourceSpecOf } from '../producer/plan-run.ts';
import { type Run, sourceName } from '../runs/run.ts';
import { openView } from '../runs/view.ts';
import { type Draw, sampleItems } from '../sample.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import { openSource } from '../sources/open-source.ts';
import type { Store } from '../stores/store.ts';
import type { BatchResult, Item, Outcome } from '../types.ts';
import { version } from '../version.ts';
import { obtainReference } from '../weights.ts';
import type { Context } from './command.ts';
import { reportProgress } from './progress.ts';

/** What is compared and how it is had; a certificate says the rest. */
interface Trial {
  /** Says where the images are, and what is too large. */
  run: Pick<Run, 'run' | 'source' | 'maxPixels' | 'maxBytes'>;
  subjects: Subject[];
  reference: Model;
  /** Absent where the subjects have their rows. */
  candidate?: Model;
  /** Labels compared. */
  topK: number;
}

interface Subject {
  item: Item;
  /** Its row in the run that is certified. */
  stored?: SampledRow;
}

/** One image's results. */
interface Row {
  embedding: Float32Array;
  labels: Int32Array;
}

interface Compared {
  item: Item;
  sha256: string;
  /** By the reference. */
  ours: Row;
  /** By the candidate. */
  theirs: Row;
}

/** A certificate less what only its maker knows. */
type Measured = Omit<Certificate, 'candidate' | 'sample'> & {
  sample: Omit<Certificate['sample'], 'source' | 'heldOut'>;
};

const labelsCompared = 5;
const worstKept = 5;

/**
 * What a run by the settings' model and precision would make of these sources; in `store`, if there is one. Throws ConfigError
 * 'nothing-to-certify', 'sample-too-small', and those of the device, the model and the source.
 */
export async function certifySource(
  context: Context,
  uris: readonly string[],
  store?: Store,
): Promise<Certificate> {
  const { settings } = context;
  if (settings.precision === 'fp32') throw nothingToCertify();
  const { device } = resolveDevice(settings.device);
  // 'auto' is what suits the device.
  if (settings.precision !== 'auto') requirePrecision(device, settings.precision);
  const spec = await sourceSpecOf(settings, uris);
  const name = sourceName({ source: spec });
  // What int8 was fitted to says little of the rest.
  const without = settings.precision === 'fp16' ? undefined : calibrationDraw(settings);
  const items = await draw(context, spec, without);
  requireImages(
    items.length,
    without ? `${name}, but for ${without.count} that int8 is calibrated on,` : name,
  );

  const candidate = await loadRunModel(context, { source: spec, store });
  if (candidate.identity.precision === 'fp32') throw nothingToCertify();
  const reference = await loadModel(context, { precision: 'fp32' });
  const { maxPixels, maxBytes } = settings;
  const { sample, ...measured } = await measure(context, {
    run: { run: 'certify', source: spec, maxPixels, maxBytes },
    subjects: items.map((item) => ({ item })),
    reference,
    candidate,
    topK: Math.min(labelsCompared, reference.identity.classes),
  });
  return {
    ...measured,
    candidate: {
      model: candidate.identity,
      device: measured.reference.device,
      run: null,
      embedding: 'float32',
    },
    sample: { source: name, heldOut: without?.count ?? 0, ...sample },
  };
}

function nothingToCertify(): ConfigError {
  return new ConfigError(
    'nothing-to-certify',
    'fp32 is what the others are held against: give --precision fp16 or int8, or certify what a run has stored with --run',
  );
}

async function draw(
  { settings, interrupted: signal, terminal }: Context,
  spec: Run['source'],
  without: Draw | undefined,
): Promise<Item[]> {
  const source = openSource(spec, sourceOptionsOf(settings));
  const onProgress = (listed: number): void =>
    terminal.show(`listing: ${listed.toLocaleString('en-US')} images found`);
  try {
    await source.probe();
    return await sampleItems(source, {
      count: settings.sample,
      name: 'certificate',
      without,
      onProgress,
      signal,
    });
  } finally {
    terminal.show(undefined);
    await source.close();
  }
}

/**
 * What a finished run has stored. Throws ConfigError 'no-run', 'not-finished', 'sample-too-small', and those of the device, the
 * model and the source.
 */
export async function certifyRun(context: Context, store: Store, id: string): Promise<Certificate> {
  const { settings } = context;
  resolveDevice(settings.device);
  const view = await openView(store, id);
  const { run } = view;
  const subjects: Required<Subject>[] = [];
  // The same rows each time.
  for await (const row of readRows(store, view, chooseRows(run.items, settings.sample, 0)))
    if (!row.item.gone) subjects.push({ item: row.item, stored: row });
  requireImages(subjects.length, `run ${id}`);
  const devices = new Set(subjects.flatMap(({ stored }) => stored.device.split('+')));
  const { sample, ...measured } = await measure(context, {
    run,
    subjects,
    reference: await obtainReference(store, run, settings),
    topK: Math.min(labelsCompared, run.topK),
  });
  return {
    ...measured,
    candidate: { model: run.model, device: [...devices].sort().join('+'), run: id, embedding: run.embedding },
    sample: { source: sourceName(run), heldOut: null, ...sample },
  };
}

async function measure(context: Context, trial: Trial): Promise<Measured> {
  const { settings, log, interrupted: signal } = context;
  const { run, subjects, reference, candidate, topK } = trial;
  const { dimension } = reference.identity;
  const { device, reason } = resolveDevice(settings.device);
  if (reason) log.info({ device: device.name, reason }, 'device chosen');
  const modelPaths: string[] = [];
  for (const model of candidate ? [reference, candidate] : [reference])
    modelPaths.push(await buildOnnx(model, { topK }));

  const compared: Compared[] = [];
  const unusable: Measured['sample']['unusable'] = [];
  const known = new Set<string>();
  const inferMs = modelPaths.map(() => 0);
  let [done, twice, computed] = [0, 0, 0];
  const progress = reportProgress('images', context);
  try {
    const items = subjects.map(({ item }) => item);
    const onNotice = (notice: string): void => log.warn(notice);
    const reading = { ...run, model: reference.identity };
    const batches = embedSideBySide(items, {
      run: reading,
      modelPaths,
      topK,
      device,
      settings,
      onNotice,
      signal,
    });
    for await (const { outcomes, results } of batches) {
      for (const [at, outcome] of outcomes.entries()) {
        const { item, stored } = subjects[done++] as Subject; // the batches are the subjects, in order
        const examined = examine(outcome, stored);
        if ('why' in examined) unusable.push({ id: item.id, why: examined.why });
        else if (known.has(examined.sha256)) twice += 1;
        else {
          known.add(examined.sha256);
          const [ours, theirs = stored] = results.map((result) => rowOf(result, at, { dimension, topK }));
          if (!ours || !theirs) throw new Error(`${item.id} has nothing to be held against: this is a bug`);
          compared.push({ item, sha256: examined.sha256, ours, theirs });
        }
      }
      computed += (results[0]?.embeddings.length ?? 0) / dimension;
      for (const [model, result] of results.entries())
        inferMs[model] = (inferMs[model] ?? 0) + result.inferMs;
      progress.update({ done, total: subjects.length, failed: unusable.length });
    }
  } finally {
    progress.close();
  }
  requireImages(
    compared.length,
    `${sourceName(run)}: ${unusable.length} of ${done} images failed, ${twice} are there twice`,
  );

  const [ours, theirs] = (['ours', 'theirs'] as const).map((side) =>
    joinRows(
      compared.map((row) => row[side]),
      { dimension, topK },
    ),
  ) as [Rows, Rows]; // one for each side
  const { agreement, cosines } = await measureAgreement(ours, theirs, { dimension, topK, signal });
  const thresholds = { cosine: settings.minCosine, top1: settings.minTop1, recall: settings.minRecall };
  const [referenceMs = 0, candidateMs] = inferMs;
  const perSecond = (ms: number): number => Number(((computed * 1000) / ms).toPrecision(4));
  return {
    v: 1,
    lensmill: version,
    createdAt: new Date().toISOString(),
    reference: { model: reference.identity, device: device.kind },
    sample: { drawn: done, twice, unusable, sha256: hashSample(compared) },
    agreement,
    thresholds,
    shortfalls: shortfallsOf(agreement, thresholds),
    worst: worstOf(compared, cosines),
    imagesPerSecond:
      candidateMs === undefined
        ? null
        : { candidate: perSecond(candidateMs), reference: perSecond(referenceMs) },
  };
}

/** Throws ConfigError 'sample-too-small'. */
function requireImages(count: number, where: string): void {
  if (count >= leastImages) return;
  throw new ConfigError(
    'sample-too-small',
    `${count} images of ${where} can be compared, and fewer than ${leastImages} say nothing: give it more`,
  );
}

/** Why an image is not compared, or what its bytes are. */
function examine(outcome: Outcome, stored: SampledRow | undefined): { why: string } | { sha256: string } {
  if (stored?.error) return { why: `failed in the run: ${stored.error}` };
  if (outcome.status === 'failed') return { why: `${outcome.error}: ${outcome.message}` };
  if (outcome.status === 'gone') throw new Error('a gone image was drawn: this is a bug');
  if (stored && stored.sha256 !== outcome.sha256) return { why: 'its bytes are no longer those of the run' };
  return { sha256: outcome.sha256 };
}

interface Shape {
  dimension: number;
  topK: number;
}

function rowOf({ embeddings, labels }: BatchResult, at: number, { dimension, topK }: Shape): Row {
  return {
    embedding: embeddings.subarray(at * dimension, (at + 1) * dimension),
    labels: labels.subarray(at * topK, (at + 1) * topK),
  };
}

/** A stored row may have more labels than are compared. */
function joinRows(rows: readonly Row[], { dimension, topK }: Shape): Rows {
  const embeddings = new Float32Array(rows.length * dimension);
  const labels = new Int32Array(rows.length * topK);
  for (const [at, row] of rows.entries()) {
    embeddings.set(row.embedding, at * dimension);
    labels.set(row.labels.subarray(0, topK), at * topK);
  }
  return { embeddings, labels };
}

function hashSample(compared: readonly Compared[]): string {
  const hash = createHash('sha256');
  for (const { item, sha256 } of compared) hash.update(`${item.id}\t${sha256}\n`);
  return hash.digest('hex');
}

function worstOf(compared: readonly Compared[], cosines: Float64Array): Certificate['worst'] {
  return compared
    .map((row, at) => ({ ...row, cosine: cosines[at] as number })) // one for each
    .sort((a, b) => a.cosine - b.cosine)
    .slice(0, worstKept)
    .map(({ item, cosine, ours, theirs }) => ({
      id: item.id,
      uri: publicUri(item),
      cosine,
      label: theirs.labels[0] as number, // a row has at least one
      referenceLabel: ours.labels[0] as number,
    }));
}
