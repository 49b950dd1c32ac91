/**
 * A ResNet as an ONNX graph: pixels in, answers out, nothing left to do in JavaScript.
 *
 *   images uint8 [N,S,S,3] → normalise → stem → 4 stages → mean → embedding float32 [N,2048]
 *                                                               → fc → softmax → top-k → scores float32 [N,k]
 *                                                                                        labels int32 [N,k]
 *
 * Batch norms are folded into the convolutions before them, and 1/std into the first one. The mean is subtracted from the
 * pixels: folded into a bias it would be wrong along the border, which torch pads with zeros *after* normalising.
 * Nodes come as Conv→Relu and Conv→Add→Relu, which ONNX Runtime fuses on the CPU and on CUDA.
 */
import { ConfigError } from '../errors.ts';
import type { Preprocessing } from '../types.ts';
import { toHalf } from './half.ts';
import {
  dataType,
  type GraphProto,
  type ModelProto,
  type OnnxModel,
  type Sketch,
  startSketch,
  valueInfo,
} from './onnx.ts';
import { encodeRecord, type GraphRecord } from './record.ts';
import {
  type Architecture,
  type ConvSpec,
  convShape,
  dimension,
  listBlocks,
  normEpsilon,
  stem,
  type Tensor,
  type Tensors,
} from './spec.ts';

/** Part of every cached graph's key: raise it whenever the graph of an unchanged model changes. */
export const builderVersion = 1;

/**
 * The graph of a ResNet. In fp16 the convolutions' weights and arithmetic are halves; the mean, the last layer and the
 * softmax, a thousandth of the work, stay in float32. Nothing is read from `tensors` before the model is encoded; a norm
 * or a weight that is not finite (in fp16: above 65504) then throws ConfigError 'bad-weights' naming it.
 */
export function buildGraph(architecture: Architecture, tensors: Tensors, record: GraphRecord): OnnxModel {
  const { precision, preprocessing } = record.identity;
  const type = precision === 'fp16' ? 'float16' : 'float32';
  const sketch = startSketch();

  const conv = (spec: ConvSpec, input: string, inputScale?: readonly number[]) => {
    const { conv: name, outputs, kernel, stride } = spec;
    const pack = (suffix: string, read: () => Float32Array) => () =>
      packFloats(`${name}.${suffix}`, type, read());
    const weights = pack('weight', () => foldWeights(spec, tensors, inputScale));
    const bias = pack('bias', () => foldBias(spec, tensors));
    const inputs = [
      input,
      sketch.weight(`${name}.weight`, type, convShape(spec), weights),
      sketch.weight(`${name}.bias`, type, [outputs], bias),
    ];
    const pad = kernel >> 1;
    const attributes = {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
    };
    return sketch.node('Conv', inputs, name, attributes);
  };
  const relu = (input: string, name: string) => sketch.node('Relu', [input], name);

  let x = centrePixels(sketch, preprocessing);
  if (type === 'float16') x = sketch.node('Cast', [x], 'pixels.half', { to: dataType.float16 });
  x = relu(
    conv(
      stem,
      x,
      preprocessing.std.map((std) => 1 / (255 * std)),
    ),
    'relu',
  );
  x = sketch.node('MaxPool', [x], 'maxpool', { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] });
  for (const { name, path, shortcut } of listBlocks(architecture)) {
    const first = relu(conv(path[0], x), `${name}.relu1`);
    const second = relu(conv(path[1], first), `${name}.relu2`);
    const sum = [conv(path[2], second), shortcut ? conv(shortcut, x) : x];
    x = relu(sketch.node('Add', sum, `${name}.add`), `${name}.relu3`);
  }
  if (type === 'float16') x = sketch.node('Cast', [x], 'features', { to: dataType.float32 });
  x = sketch.node('GlobalAveragePool', [x], 'avgpool');
  sketch.node('Flatten', [x], 'embedding', { axis: 1 });
  const dense = (['fc.weight', 'fc.bias'] as const).map((name) => {
    const { shape, read } = tensorOf(tensors, name);
    return sketch.weight(name, 'float32', shape, () => packFloats(name, 'float32', read()));
  });
  const logits = sketch.node('Gemm', ['embedding', ...dense], 'logits', { transB: 1 });
  rankClasses(sketch, sketch.node('Softmax', [logits], 'probabilities', { axis: 1 }), record.topK);
  return finishGraph(sketch, record);
}

/**
 * The same inputs and outputs for next to no work, to measure everything but the model: an embedding is 2048 of the
 * picture's own bytes, evenly spread, and its first 1000 numbers stand for logits. `identity.preprocessing.crop` ≥ 27.
 */
export function buildNullGraph(record: GraphRecord): OnnxModel {
  const bytes = 3 * record.identity.preprocessing.crop ** 2;
  const step = Math.floor(bytes / dimension);
  if (step < 1)
    throw new ConfigError('bad-crop', `a null model needs ${dimension} bytes of a picture; it has ${bytes}`);
  const sketch = startSketch();
  const slice = (input: string, output: string, end: number, stride: number) => {
    const bounds = [0, end, 1, stride].map((value, index) =>
      sketch.weight(`${output}.slice${index}`, 'int64', [1], () => BigInt64Array.of(BigInt(value))),
    );
    return sketch.node('Slice', [input, ...bounds], output);
  };
  const flat = sketch.node('Flatten', ['images'], 'bytes', { axis: 1 });
  const sample = slice(flat, 'sample', step * dimension, step);
  sketch.node('Cast', [sample], 'embedding', { to: dataType.float32 });
  const logits = slice('embedding', 'logits', record.identity.classes, 1);
  rankClasses(sketch, sketch.node('Softmax', [logits], 'probabilities', { axis: 1 }), record.topK);
  return finishGraph(sketch, record);
}

/** uint8 [N,S,S,3] → float32 [N,3,S,S] on the 0–255 scale, less each channel's mean. Returns the tensor's name. */
export function centrePixels(sketch: Sketch, { mean }: Preprocessing): string {
  const planes = sketch.node('Transpose', ['images'], 'planes', { perm: [0, 3, 1, 2] });
  const floats = sketch.node('Cast', [planes], 'floats', { to: dataType.float32 });
  const means = sketch.weight('mean', 'float32', [1, 3, 1, 1], () =>
    Float32Array.from(mean, (value) => 255 * value),
  );
  return sketch.node('Sub', [floats, means], 'pixels');
}

/** float32 probabilities [N,classes] → the outputs `scores` and `labels`, best first. */
export function rankClasses(sketch: Sketch, probabilities: string, topK: number): void {
  sketch.node('TopK', [probabilities, countClasses(sketch, topK)], ['scores', 'ranking'], {
    axis: 1,
    largest: 1,
    sorted: 1,
  });
  sketch.node('Cast', ['ranking'], 'labels', { to: dataType.int32 }); // TopK counts in int64, a BigInt in JavaScript
}

/** A graph of ours, read from a file, under another record: its `topK` and what is done before the graph may differ. */
export function rebuildGraph(proto: ModelProto & { graph: GraphProto }, record: GraphRecord): OnnxModel {
  const sketch = startSketch();
  sketch.nodes.push(...(proto.graph.node ?? []));
  const k = countClasses(sketch, record.topK);
  const initializer = (proto.graph.initializer ?? []).filter(({ name }) => name !== k);
  return finishGraph(sketch, record, { ...proto, graph: { initializer } });
}

function countClasses(sketch: Sketch, topK: number): string {
  return sketch.weight('k', 'int64', [1], () => BigInt64Array.of(BigInt(topK)));
}

/** `base` brings what a foreign model keeps: its opset, its initializers. Throws ConfigError 'bad-top-k'. */
export function finishGraph(sketch: Sketch, record: GraphRecord, base: ModelProto = {}): OnnxModel {
  const { identity, topK } = record;
  const { classes } = identity;
  if (!Number.isInteger(topK) || topK < 1 || topK > classes) {
    throw new ConfigError(
      'bad-top-k',
      `top-k ${topK}: '${identity.ref}' has ${classes} classes; give 1 to ${classes}`,
    );
  }
  const { crop } = identity.preprocessing;
  const graph = {
    ...base.graph,
    name: identity.architecture,
    node: sketch.nodes,
    input: [valueInfo('images', 'uint8', ['N', crop, crop, 3])],
    output: [
      valueInfo('embedding', 'float32', ['N', identity.dimension]),
      valueInfo('scores', 'float32', ['N', topK]),
      valueInfo('labels', 'int32', ['N', topK]),
    ],
  };
  // IR 8 and opset 15 are onnx-proto's own; ONNX Runtime has read them since 1.10.
  const format = { irVersion: 8, opsetImport: [{ domain: '', version: 15 }] };
  const origin = { producerName: 'lensmill', metadataProps: [encodeRecord(record)] };
  return { proto: { ...format, ...base, ...origin, graph }, weights: sketch.weights };
}

/** γ/√(σ²+ε), the factor that a norm's channels are multiplied with. */
function normScale({ norm }: ConvSpec, tensors: Tensors): Float64Array {
  const gamma = tensorOf(tensors, `${norm}.weight`).read();
  const variance = tensorOf(tensors, `${norm}.running_var`).read();
  return Float64Array.from(
    gamma,
    (value, channel) => value / Math.sqrt((variance[channel] as number) + normEpsilon),
  );
}

/** Each output channel times its norm's scale and, where given, each input channel times its own. */
function foldWeights(spec: ConvSpec, tensors: Tensors, inputScale?: readonly number[]): Float32Array {
  const weights = tensorOf(tensors, `${spec.conv}.weight`).read();
  const scale = normScale(spec, tensors);
  const area = spec.kernel ** 2;
  let at = 0;
  for (let output = 0; output < spec.outputs; output++) {
    for (let input = 0; input < spec.inputs; input++) {
      const factor = (scale[output] as number) * (inputScale?.[input] ?? 1);
      for (let tap = 0; tap < area; tap++, at++) weights[at] = (weights[at] as number) * factor;
    }
  }
  return weights;
}

/** β − μ·γ/√(σ²+ε). */
function foldBias(spec: ConvSpec, tensors: Tensors): Float32Array {
  const scale = normScale(spec, tensors);
  const mean = tensorOf(tensors, `${spec.norm}.running_mean`).read();
  return tensorOf(tensors, `${spec.norm}.bias`)
    .read()
    .map((beta, channel) => beta - (mean[channel] as number) * (scale[channel] as number));
}

function packFloats(
  name: string,
  type: 'float32' | 'float16',
  values: Float32Array,
): Float32Array | Uint16Array {
  const limit = type === 'float16' ? 65504 : 3.4028234663852886e38;
  const bad = values.findIndex((value) => !(Math.abs(value) <= limit));
  if (bad >= 0) {
    const what = `${name}, its batch norm folded in, is ${values[bad]} at ${bad}: out of ${type}'s range`;
    throw new ConfigError('bad-weights', what);
  }
  return type === 'float16' ? toHalf(values) : values;
}

function tensorOf(tensors: Tensors, name: string): Tensor {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`this is a bug: tensor ${name} was not checked`);
  return tensor;
}
