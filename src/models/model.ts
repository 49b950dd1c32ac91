/**
 * The family's door: what the user calls a model → a `Model` → an ONNX file.
 *
 *   timm/resnet152.tv_in1k   a preset, downloaded once             (presets.ts, pull.ts)
 *   weights.safetensors      torchvision's or timm's tensor names  (safetensors.ts, spec.ts)
 *   classifier.onnx          one of ours, or one to wrap           (adopt.ts)
 *   random:0:resnet50        made of a seed                        (random.ts)
 *   null                     no network at all, for measurements   (graph.ts)
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError, messageOf } from '../errors.ts';
import type { ModelIdentity, Precision, Preprocessing, ResizeMode } from '../types.ts';
import { adoptClassifier } from './adopt.ts';
import { type Calibration, hashCalibration } from './calibration.ts';
import { writeWhole } from './files.ts';
import { builderVersion, buildGraph, buildNullGraph, rebuildGraph } from './graph.ts';
import { hashFile, identify } from './identity.ts';
import { labelsOf } from './labels.ts';
import {
  countOps,
  decodeOnnx,
  encodeOnnx,
  type GraphProto,
  type ModelProto,
  type OnnxModel,
} from './onnx.ts';
import { findPreset, imagenetPreprocessing, type Preset, presets } from './presets.ts';
import { type Hub, hubFromEnv, type PullOptions, pullPreset } from './pull.ts';
import { randomTensors, recipeVersion } from './random.ts';
import { decodeRecord, type GraphRecord } from './record.ts';
import { encodeSafetensors, openSafetensors } from './safetensors.ts';
import { countMacs, countParameters, dimension, parseArchitecture, readArchitecture } from './spec.ts';
import type { Network } from './trunk.ts';

export interface Model {
  identity: ModelIdentity;
  /** Trainable numbers, before norms are folded; 0 for the null model. */
  parameters: number;
  /** Class names by index. */
  labels: readonly string[];
  preset?: Preset;
  /** A weights file that no hub has and no seed makes: whoever else is to run this model must be given it. */
  file?: string;
  /** SHA-256 of `file`. It differs from `identity.weights` for an .onnx of ours, which remembers what it was made of. */
  fileSha256?: string;
  /** Where its graphs are kept. */
  cacheDir: string;
  /** Present where the weights are known tensor by tensor, under torchvision's names. */
  network?: Network;
  /** What an int8 model was quantised by; absent where that is baked into an .onnx. */
  calibration?: Calibration;
  /** Set where `file` is already the graph that `build` would make with this `topK`. */
  builtTopK?: number;
  /** Throws ConfigError 'bad-top-k'. */
  build(topK: number): OnnxModel;
}

export interface ResolveOptions extends Pick<PullOptions, 'onProgress' | 'signal' | 'retries'> {
  cacheDir: string;
  resizeMode: ResizeMode;
  /** Default: that of an .onnx, which has its own; of all else fp32. */
  precision?: Precision;
  /** Needed for int8, of everything but an .onnx of ours that is int8 already; ignored in other precisions. */
  calibration?: Calibration;
  /** Replaces parts of what the model's kind says. */
  preprocessing?: Partial<Preprocessing>;
  /** Where presets come from; by default what the Hugging Face variables of the environment say. */
  hub?: Hub;
  /** What the user should know and nobody asked, a line each: such as that a hash was pinned. */
  onNotice?: (notice: string) => void;
}

/**
 * Finds, downloads or makes up a model. Throws ConfigError: 'unknown-model', 'no-model-file', 'wrong-precision',
 * 'wrong-preprocessing', and those of `quantiseModel`, `pullPreset`, `openSafetensors`, `readArchitecture`, `decodeOnnx` and
 * `adoptClassifier`.
 */
export async function resolveModel(ref: string, options: ResolveOptions): Promise<Model> {
  if (ref === 'null') return nullModel(options);
  if (ref.startsWith('random:')) return randomModel(ref, options);
  if (findPreset(ref)) return presetModel(ref, options);
  if (ref.endsWith('.safetensors')) return safetensorsModel(ref, options);
  if (ref.endsWith('.onnx')) return onnxModel(ref, options);
  throw unknownModel('unknown-model', ref);
}

/** Downloads a preset, if it is not there. Throws ConfigError 'unknown-preset', and those of `pullPreset`. */
export async function pullModel(ref: string, options: Omit<ResolveOptions, 'resizeMode' | 'precision'>) {
  const preset = findPreset(ref);
  if (!preset) throw unknownModel('unknown-preset', ref);
  const { hub = hubFromEnv(process.env), onNotice, ...pull } = options;
  const pulled = await pullPreset(preset, { ...pull, hub });
  if (pulled.isPinnedNow) {
    onNotice?.(
      `the SHA-256 of ${preset.name} is not known to lensmill: ${pulled.sha256} is expected from now on`,
    );
  }
  return { preset, ...pulled };
}

/** What is changed of a model's graph, and the name of the change. */
interface Widened {
  name: string;
  by(graph: OnnxModel): OnnxModel;
}

/**
 * The model's ONNX file: its own where it is one of ours with this `topK`, else one that is built once and kept in the
 * cache. Processes that build at once do the same work and each rename their result into place.
 */
export async function buildOnnx(
  model: Model,
  { topK, widened }: { topK: number; widened?: Widened },
): Promise<string> {
  if (model.file && model.builtTopK === topK && !widened) return model.file;
  const change = widened ? `-${createHash('sha256').update(widened.name).digest('hex').slice(0, 16)}` : '';
  const name = `${model.identity.fingerprint.slice(0, 32)}-top${topK}${change}-v${builderVersion}.onnx`;
  const path = join(model.cacheDir, 'graphs', name);
  const graph = (): OnnxModel => widened?.by(model.build(topK)) ?? model.build(topK);
  if (!existsSync(path)) await writeWhole(path, encodeOnnx(graph()));
  return path;
}

/** Writes the model's graph to a file of the user's choice. */
export async function writeOnnx(model: Model, path: string, { topK }: { topK: number }): Promise<void> {
  await writeWhole(path, encodeOnnx(model.build(topK)));
}

/** Writes the model's tensors for other programs. Throws ConfigError 'no-tensors' where it came as a graph or has none. */
export async function writeSafetensors(model: Model, path: string): Promise<void> {
  if (!model.network) {
    const { ref } = model.identity;
    throw new ConfigError(
      'no-tensors',
      `'${ref}' has no tensors to write; a preset, .safetensors or random:SEED has`,
    );
  }
  await writeWhole(path, encodeSafetensors(model.network.tensors));
}

export interface ModelDescription extends ModelIdentity {
  parameters: number;
  /** Multiply-accumulates per picture, 10⁹; null for a graph from elsewhere. */
  gmac: number | null;
  /** Nodes of the graph by operator. */
  ops: Record<string, number>;
  /** ImageNet-1k top-1, percent; null unless it is a preset. */
  accuracy: number | null;
  license: string | null;
}

/** What `lensmill model info` prints. Builds the graph, but reads no weights for it. */
export function describeModel(model: Model): ModelDescription {
  const { identity, parameters, preset, network } = model;
  return {
    ...identity,
    parameters,
    gmac: network ? countMacs(network.architecture, identity.preprocessing.crop) / 1e9 : null,
    ops: countOps(model.build(1).proto),
    accuracy: preset?.accuracy ?? null,
    license: preset?.license ?? null,
  };
}

async function presetModel(ref: string, options: ResolveOptions): Promise<Model> {
  const { preset, path, sha256 } = await pullModel(ref, options);
  const network = openNetwork(path);
  const origin = { ref: preset.name, weights: sha256, untrained: false, preprocessing: preset.preprocessing };
  return { ...networkModel(network, origin, options), preset };
}

async function safetensorsModel(ref: string, options: ResolveOptions): Promise<Model> {
  await requireFile(ref);
  const network = openNetwork(ref);
  const weights = await hashFile(ref);
  const origin = { ref, weights, untrained: false, preprocessing: imagenetPreprocessing };
  return { ...networkModel(network, origin, options), file: ref, fileSha256: weights };
}

function randomModel(ref: string, options: ResolveOptions): Model {
  const [, seed, shape = 'resnet152'] = /^random:(\d{1,15})(?::([^:]+))?$/.exec(ref) ?? [];
  if (seed === undefined) throw unknownModel('unknown-model', ref);
  const architecture = parseArchitecture(shape);
  const recipe = `lensmill random ${recipeVersion} ${seed} ${architecture.name} ${architecture.classes}`;
  const weights = createHash('sha256').update(recipe).digest('hex');
  const network = { architecture, tensors: randomTensors(seed, architecture) };
  return networkModel(
    network,
    { ref, weights, untrained: true, preprocessing: imagenetPreprocessing },
    options,
  );
}

type Origin = Pick<ModelIdentity, 'ref' | 'weights' | 'untrained' | 'preprocessing'>;

function networkModel(network: Network, origin: Origin, options: ResolveOptions): Model {
  const { architecture } = network;
  const { classes, name } = architecture;
  const kind = { ...origin, architecture: name, calibration: null, dimension, classes };
  const build = (record: GraphRecord) => buildGraph(network, record);
  const model = modelOf(identifyWith(options, kind), countParameters(architecture), options, build);
  const floats = { ...model, network };
  return options.precision === 'int8' ? quantiseModel(floats, options.calibration) : floats;
}

/**
 * The same model in int8. Throws ConfigError 'wrong-precision' where its tensors are not known, 'no-calibration', and
 * 'wrong-calibration' where that is of other weights.
 */
export function quantiseModel(floats: Model, calibration: Calibration | undefined): Model {
  const network = requireNetwork(floats);
  const { parameters } = floats;
  const { fingerprint, ...numbers } = floats.identity;
  const { ref, weights } = numbers;
  const remedy = 'make one with `lensmill model calibrate` and give it as --calibration FILE';
  if (!calibration)
    throw new ConfigError('no-calibration', `${ref} in int8 needs the ranges of its activations: ${remedy}`);
  if (calibration.weights !== weights) {
    const others = `${calibration.weights.slice(0, 12)}, not of ${ref} (${weights.slice(0, 12)})`;
    throw new ConfigError('wrong-calibration', `the calibration is of the weights ${others}: ${remedy}`);
  }
  const identity = identify({ ...numbers, precision: 'int8', calibration: hashCalibration(calibration) });
  const build = (topK: number) =>
    buildGraph(network, { builder: builderVersion, identity, topK, parameters }, calibration);
  return { ...floats, identity, calibration, build };
}

function nullModel(options: ResolveOptions): Model {
  if (options.precision === 'int8') throw cannotQuantise('null');
  const weights = createHash('sha256').update('lensmill null').digest('hex');
  const kind = { ref: 'null', architecture: 'null', weights, untrained: true, dimension, classes: 1000 };
  const identity = identifyWith(options, {
    ...kind,
    preprocessing: imagenetPreprocessing,
    calibration: null,
  });
  return modelOf(identity, 0, options, buildNullGraph);
}

async function onnxModel(ref: string, options: ResolveOptions): Promise<Model> {
  await requireFile(ref);
  const bytes = await readFile(ref);
  const proto = decodeOnnx(bytes, ref);
  const fileSha256 = createHash('sha256').update(bytes).digest('hex');
  const record = decodeRecord(proto, ref);
  if (record) return { ...ownModel(ref, proto, record, options), fileSha256 };

  if (options.precision === 'int8') throw cannotQuantise(ref);
  const classifier = adoptClassifier(proto, ref);
  const { side = options.preprocessing?.crop ?? imagenetPreprocessing.crop, classes, precision } = classifier;
  requireEqual('wrong-precision', ref, 'precision', precision, options.precision ?? precision);
  requireEqual('wrong-preprocessing', ref, 'crop', side, options.preprocessing?.crop ?? side);
  const resize = Math.floor((side * imagenetPreprocessing.resize) / imagenetPreprocessing.crop);
  const identity = identifyWith(
    { ...options, precision },
    {
      ref,
      architecture: 'onnx',
      weights: fileSha256,
      untrained: false,
      preprocessing: { ...imagenetPreprocessing, resize, crop: side },
      calibration: null,
      dimension: classifier.dimension,
      classes,
    },
  );
  return { ...modelOf(identity, classifier.parameters, options, classifier.build), file: ref, fileSha256 };
}

/** A graph that `buildOnnx` or `writeOnnx` made: what is baked into it is kept, what is done before it may change. */
function ownModel(
  ref: string,
  proto: ModelProto & { graph: GraphProto },
  record: GraphRecord,
  options: ResolveOptions,
): Model {
  const { fingerprint, precision, ...baked } = record.identity;
  const { crop, mean, std } = baked.preprocessing;
  requireEqual('wrong-precision', ref, 'precision', precision, options.precision ?? precision);
  const wanted = { ...baked.preprocessing, ...options.preprocessing };
  requireEqual('wrong-preprocessing', ref, 'crop', crop, wanted.crop);
  requireEqual('wrong-preprocessing', ref, 'mean', `${mean}`, `${wanted.mean}`);
  requireEqual('wrong-preprocessing', ref, 'std', `${std}`, `${wanted.std}`);
  const identity = identifyWith({ ...options, precision }, { ...baked, ref });
  const build = (changed: GraphRecord) => rebuildGraph(proto, changed);
  const model = { ...modelOf(identity, record.parameters, options, build), file: ref };
  return identity.fingerprint === fingerprint ? { ...model, builtTopK: record.topK } : model;
}

function modelOf(
  identity: ModelIdentity,
  parameters: number,
  { cacheDir }: ResolveOptions,
  build: (record: GraphRecord) => OnnxModel,
): Model {
  const labels = labelsOf(identity.classes);
  return {
    identity,
    parameters,
    labels,
    cacheDir,
    build: (topK) => build({ builder: builderVersion, identity, topK, parameters }),
  };
}

function identifyWith(
  { resizeMode, precision = 'fp32', preprocessing }: ResolveOptions,
  kind: Omit<ModelIdentity, 'fingerprint' | 'resizeMode' | 'precision'>,
): ModelIdentity {
  const { ref, architecture, weights, untrained, calibration, dimension, classes } = kind;
  const merged = { ...kind.preprocessing, ...preprocessing };
  const numbers = {
    architecture,
    weights,
    untrained,
    preprocessing: merged,
    resizeMode,
    precision,
    calibration,
    dimension,
    classes,
  };
  return identify({ ref, ...numbers });
}

function openNetwork(path: string): Network {
  const tensors = openSafetensors(path);
  return { architecture: readArchitecture(tensors, path), tensors };
}

/** What int8 is made of. Throws ConfigError 'wrong-precision' where the model's tensors are not known. */
export function requireNetwork({ network, identity }: Model): Network {
  if (network) return network;
  throw cannotQuantise(identity.ref);
}

function cannotQuantise(ref: string): ConfigError {
  const remedy = 'for int8 give a preset, a .safetensors file or random:SEED; or ask for fp32';
  return new ConfigError('wrong-precision', `${ref} cannot be quantised: ${remedy}`);
}

function requireEqual<T>(code: string, ref: string, what: string, found: T, asked: T): void {
  if (found === asked) return;
  throw new ConfigError(
    code,
    `${ref}: its ${what} is ${found} and cannot be ${asked}; ask for ${found}, or give other weights`,
  );
}

async function requireFile(path: string): Promise<void> {
  const stats = await stat(path).catch((error: unknown) => {
    throw new ConfigError('no-model-file', `no model at ${path}: ${messageOf(error)}`);
  });
  if (!stats.isFile()) throw new ConfigError('no-model-file', `no model at ${path}: it is not a file`);
}

function unknownModel(code: 'unknown-model' | 'unknown-preset', ref: string): ConfigError {
  const names = presets.map(({ name }) => name).join(', ');
  if (code === 'unknown-preset') return new ConfigError(code, `no preset '${ref}'; there are ${names}`);
  const others = 'a .safetensors or .onnx file, random:SEED, random:SEED:resnet50, random:SEED:1-1-1-1, null';
  return new ConfigError(code, `no model '${ref}'; there are ${names}, ${others}`);
}
