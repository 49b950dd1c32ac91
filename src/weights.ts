/**
 * Weights travel with the output: those that are neither a preset (every worker can pull it) nor random (every worker can
 * make it) are kept once in the store, so that a worker anywhere needs nothing but Redis and the store.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { ConfigError } from './errors.ts';
import { weightsKey } from './layout.ts';
import {
  type Calibration,
  decodeCalibration,
  encodeCalibration,
  hashCalibration,
} from './models/calibration.ts';
import { decodeHead, type Head, throwIfOtherModel } from './models/head.ts';
import { buildOnnx, type Model, resolveModel } from './models/model.ts';
import { widenGraph } from './models/widen.ts';
import { extrasName, type RunHead } from './parts/row-extras.ts';
import type { Run } from './runs/run.ts';
import type { Store } from './stores/store.ts';

/** The key that a run names for its weights; null where it needs none. */
export async function publishWeights(store: Store, model: Model): Promise<string | null> {
  if (model.file === undefined || model.fileSha256 === undefined) return null;
  const key = weightsKey(model.fileSha256, extname(model.file));
  // The key is the content's hash: what stands there is the same.
  if (!(await store.head(key))) await store.create(key, await readFile(model.file));
  return key;
}

/** The key that a run names for its calibration; null where it needs none. */
export async function publishCalibration(
  store: Store,
  { identity, calibration }: Model,
): Promise<string | null> {
  if (identity.calibration === null || !calibration) return null;
  const key = weightsKey(identity.calibration, '.json');
  // The key tells the ranges. What else stands in there, how many images gave them, may differ and decides nothing.
  if (!(await store.head(key))) await store.create(key, encodeCalibration(calibration));
  return key;
}

/** Throws ConfigError 'no-calibration' and 'bad-calibration' naming the object. */
export async function fetchCalibration(store: Store, key: string): Promise<Calibration> {
  const name = `${store.uri}/${key}`;
  const bytes = await store.read(key);
  if (!bytes) throw new ConfigError('no-calibration', `${name} is missing: the run needs this calibration`);
  const calibration = decodeCalibration(bytes, name);
  if (key === weightsKey(hashCalibration(calibration), '.json')) return calibration;
  throw new ConfigError('bad-calibration', `${name} is not what its name says: it was changed; restore it`);
}

/** What a run says of its head, which then stands beside the weights. */
export async function publishHead(
  store: Store,
  bytes: Uint8Array,
  { classes, topK }: { classes: string[]; topK: number },
): Promise<RunHead> {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const key = weightsKey(sha256, '.onnx');
  if (!(await store.head(key))) await store.create(key, bytes);
  return { sha256, classes, topK: Math.min(topK, classes.length) };
}

/** Throws ConfigError 'no-head' and 'bad-head' naming the object. */
export async function fetchHead(store: Store, { sha256 }: RunHead): Promise<Head> {
  const key = weightsKey(sha256, '.onnx');
  const name = `${store.uri}/${key}`;
  const bytes = await store.read(key);
  if (!bytes) throw new ConfigError('no-head', `${name} is missing: the run needs this head`);
  if (createHash('sha256').update(bytes).digest('hex') === sha256) return decodeHead(bytes, name);
  throw new ConfigError('bad-head', `${name} is not what its name says: it was changed; restore it`);
}

/** The ONNX file of a run's model, on this machine. Throws ConfigError 'model-mismatch' and those of `resolveModel`. */
export async function obtainModel(store: Store, run: Run, options: { cacheDir: string }): Promise<string> {
  return buildOnnx(await resolveRunModel(store, run, options), { topK: run.topK });
}

/**
 * As `obtainModel`, of a graph that makes a run's rows with what lies behind their numbers (parts/row-extras.ts). Throws ConfigError
 * 'no-features', 'wrong-head', and those of `fetchHead`, too.
 */
export async function obtainRowModel(store: Store, run: Run, options: { cacheDir: string }): Promise<string> {
  const { head: wanted, features = [], topK } = run;
  const name = extrasName(run);
  if (!name) return obtainModel(store, run, options);
  const model = await resolveRunModel(store, run, options);
  const head = wanted && { head: await fetchHead(store, wanted), topK: wanted.topK };
  if (head)
    throwIfOtherModel(head.head, run.model, { file: `models/${wanted.sha256}.onnx`, of: `run ${run.run}` });
  const widening = { ref: run.model.ref, dimension: run.model.dimension, topK, head, features };
  return buildOnnx(model, { topK, widened: { name, by: (graph) => widenGraph(graph, widening) } });
}

async function resolveRunModel(store: Store, run: Run, { cacheDir }: { cacheDir: string }): Promise<Model> {
  const { ref, resizeMode, precision, preprocessing, fingerprint } = run.model;
  const source = run.weightsKey === null ? ref : await fetchWeights(store, run.weightsKey, cacheDir);
  const options = { cacheDir, resizeMode, precision, preprocessing };
  const { calibrationKey } = run;
  const model = await resolveModel(
    source,
    calibrationKey === null
      ? options
      : { ...options, calibration: await fetchCalibration(store, calibrationKey) },
  );
  if (model.identity.fingerprint !== fingerprint) {
    throw new ConfigError(
      'model-mismatch',
      `${ref} is another model here than run ${run.run} was planned with: ${model.identity.fingerprint.slice(0, 12)}, not ${fingerprint.slice(0, 12)}; use the same version of lensmill`,
    );
  }
  return model;
}

/**
 * The network of a run in fp32, which its rows are held against. Throws ConfigError 'model-mismatch' and those of
 * `resolveModel`, as 'wrong-precision' where the weights were given as a graph of half precision.
 */
export async function obtainReference(
  store: Store,
  run: Run,
  { cacheDir }: { cacheDir: string },
): Promise<Model> {
  const { ref, resizeMode, preprocessing, weights } = run.model;
  const source = run.weightsKey === null ? ref : await fetchWeights(store, run.weightsKey, cacheDir);
  const model = await resolveModel(source, { cacheDir, resizeMode, precision: 'fp32', preprocessing });
  if (model.identity.weights !== weights)
    throw new ConfigError('model-mismatch', `${ref} has other weights here than in run ${run.run}`);
  return { ...model, identity: { ...model.identity, ref } };
}

async function fetchWeights(store: Store, key: string, cacheDir: string): Promise<string> {
  const path = join(cacheDir, key);
  if (await stat(path).catch(() => undefined)) return path;
  const bytes = await store.read(key);
  if (!bytes)
    throw new ConfigError('no-weights', `${store.uri}/${key} is missing: the run needs these weights`);
  await mkdir(join(path, '..'), { recursive: true });
  const partial = `${path}.${process.pid}`;
  await writeFile(partial, bytes);
  await rename(partial, path);
  return path;
}
