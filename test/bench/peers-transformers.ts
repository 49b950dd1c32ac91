/**
 * transformers.js as peers.ts knows it: how it is installed, the model as it wants it, and, in a process of its own, its
 * image-feature-extraction pipeline. Two batches under way, so that sharp decodes the next while the model blocks the thread;
 * a thread a core for the model, as everyone has. Writes the embeddings, float32, in the images' order.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { execa } from 'execa';
import pMap from 'p-map';
import { writeWhole } from '../../src/models/files.ts';
import type { Model } from '../../src/models/model.ts';
import { encodeOnnx, type OnnxModel, valueInfo } from '../../src/models/onnx.ts';
import { type Work, workSince } from './timing.ts';

const transformers = '@huggingface/transformers@4.3.1';

export interface TransformersOptions {
  /** Where it is installed. */
  prefix: string;
  /** Holds a folder for each model. */
  models: string;
  model: string;
  /** A JSON list of paths. */
  images: string;
  batch: number;
  to: string;
}

/** What we use of it: it is no dependency, so its types are not here. */
interface Transformers {
  env: { localModelPath: string; allowRemoteModels: boolean };
  pipeline(task: 'image-feature-extraction', model: string, options: object): Promise<Extractor>;
}
type Extractor = (images: readonly string[], options: { pool: true }) => Promise<{ data: Float32Array }>;

/** The folder that it is installed in. */
export async function installTransformers(cacheDir: string): Promise<string> {
  const prefix = join(cacheDir, 'peers');
  if (existsSync(join(prefix, 'node_modules', '@huggingface/transformers'))) return prefix;
  console.error(`npm installs ${transformers} into ${prefix}: once, for this bench alone`);
  mkdirSync(prefix, { recursive: true });
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel', 'error'];
  const env = { ONNXRUNTIME_NODE_INSTALL: 'skip' };
  await execa('npm', ['install', '--prefix', prefix, ...quiet, transformers], { env, stdio: 'inherit' });
  return prefix;
}

/** The network as an export of transformers has it: normalised floats [N,3,S,S] in, pooled features out. */
export async function writeForTransformers(model: Model, folder: string): Promise<void> {
  const { crop, resize, mean, std } = model.identity.preprocessing;
  const { proto, weights } = model.build(1);
  const { graph } = proto;
  // Our graph begins with bytes less 255 × mean, and the first convolution divides by 255 × std.
  const ours = ['planes', 'floats', 'pixels'];
  const enter = { opType: 'Mul', name: 'pixels', input: ['pixel_values', 'scale'], output: ['pixels'] };
  const leave = { opType: 'Identity', name: 'pooled', input: ['embedding'], output: ['pooler_output'] };
  const middle = (graph?.node ?? []).filter(({ name }) => !ours.includes(name ?? ''));
  const embedding = middle.findIndex(({ output }) => output?.includes('embedding'));
  const exported: OnnxModel = {
    proto: {
      ...proto,
      graph: {
        ...graph,
        node: [enter, ...middle.slice(0, embedding + 1), leave],
        input: [valueInfo('pixel_values', 'float32', ['N', 3, crop, crop])],
        output: [valueInfo('pooler_output', 'float32', ['N', model.identity.dimension])],
      },
    },
    weights: [
      ...weights.filter(({ name }) => !['mean', 'k', 'fc.weight', 'fc.bias'].includes(name)),
      {
        name: 'scale',
        type: 'float32',
        shape: [1, 3, 1, 1],
        read: () => Float32Array.from(std, (value) => 255 * value),
      },
    ],
  };
  mkdirSync(join(folder, 'onnx'), { recursive: true });
  await writeWhole(join(folder, 'onnx/model.onnx'), encodeOnnx(exported));
  const writeJson = (name: string, value: object) => writeFileSync(join(folder, name), JSON.stringify(value));
  writeJson('config.json', { model_type: 'resnet', architectures: ['ResNetModel'] });
  writeJson('preprocessor_config.json', {
    image_processor_type: 'CLIPImageProcessor',
    do_resize: true,
    size: { shortest_edge: resize },
    resample: 2,
    do_center_crop: true,
    crop_size: { height: crop, width: crop },
    do_rescale: true,
    do_normalize: true,
    image_mean: mean,
    image_std: std,
  });
}

async function extractFeatures(options: TransformersOptions): Promise<Work> {
  const installed = createRequire(join(options.prefix, 'package.json')).resolve('@huggingface/transformers');
  const { env, pipeline } = (await import(pathToFileURL(installed).href)) as Transformers;
  Object.assign(env, { localModelPath: options.models, allowRemoteModels: false });
  const extract = await pipeline('image-feature-extraction', options.model, {
    dtype: 'fp32',
    device: 'cpu',
    session_options: { intraOpNumThreads: availableParallelism() },
  });
  const paths = JSON.parse(readFileSync(options.images, 'utf8')) as string[];
  const batches = Array.from({ length: Math.ceil(paths.length / options.batch) }, (_, n) =>
    paths.slice(n * options.batch, (n + 1) * options.batch),
  );
  await extract(batches[0] ?? [], { pool: true });
  const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
  const embeddings = await pMap(batches, (batch) => extract(batch, { pool: true }), { concurrency: 2 });
  const work = { images: paths.length, ...workSince(started, cpuBefore) };
  writeFileSync(
    options.to,
    Buffer.concat(embeddings.map(({ data }) => new Uint8Array(Float32Array.from(data).buffer))),
  );
  return work;
}

if (import.meta.main) {
  const work = await extractFeatures(JSON.parse(process.argv[2] ?? '') as TransformersOptions); // peers.ts alone starts it
  console.log(JSON.stringify(work));
}
