/**
 * A ResNet as an ONNX graph: pixels in, answers out, nothing left to do in JavaScript.
 *
 *   images uint8 [N,S,S,3] → normalise → stem → 4 stages → mean → embedding float32 [N,2048]
 *                                                               → fc → softmax → top-k → scores float32 [N,k]
 *                                                                                        labels int32 [N,k]
 */
import { ConfigError } from '../errors.ts';
import type { Calibration } from './calibration.ts';
import {
  dataType,
  type GraphProto,
  type ModelProto,
  type OnnxModel,
  type Sketch,
  startSketch,
  valueInfo,
} from './onnx.ts';
import { byteArithmetic } from './quantize.ts';
import { encodeRecord, type GraphRecord } from './record.ts';
import { dimension } from './spec.ts';
import { drawTrunk, floatArithmetic, type Network, packFloats, tensorOf } from './trunk.ts';

/** Part of every cached graph's key: raise it whenever the graph of an unchanged model changes. */
export const builderVersion = 1;

/**
 * The graph of a ResNet. In fp16 and int8 only the trunk reckons so; the mean, the last layer and the softmax, a thousandth
 * of the work, stay in float32. Nothing is read from the network's tensors before the model is encoded; what cannot be held
 * in the record's precision then throws ConfigError 'bad-weights' naming it.
 */
export function buildGraph(network: Network, record: GraphRecord, calibration?: Calibration): OnnxModel {
  const { precision, preprocessing } = record.identity;
  const sketch = startSketch();
  const arithmetic = calibration
    ? byteArithmetic(sketch, calibration, preprocessing)
    : floatArithmetic(sketch, precision === 'fp16' ? 'float16' : 'float32');
  const features = drawTrunk(sketch, network, preprocessing, arithmetic);
  sketch.node('Flatten', [sketch.node('GlobalAveragePool', [features], 'avgpool')], 'embedding', { axis: 1 });
  const dense = (['fc.weight', 'fc.bias'] as const).map((name) => {
    const { shape, read } = tensorOf(network.tensors, name);
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
