/**
 * Weights travel with the output: those that are neither a preset (every worker can pull it) nor random (every worker can
 * make it) are kept once in the store, so that a worker anywhere needs nothing but Redis and the store.
 */
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
import { buildOnnx, type Model, resolveModel } from './models/model.ts';
import type { Run } from './run.ts';
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

/** The ONNX file of a run's model, on this machine. Throws ConfigError 'model-mismatch' and those of `resolveModel`. */
export async function obtainModel(
  store: Store,
  run: Run,
  { cacheDir }: { cacheDir: string },
): Promise<string> {
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
  return buildOnnx(model, { topK: run.topK });
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
