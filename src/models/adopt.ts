/**
 * ONNX files from elsewhere: a classifier as torch.onnx.export writes torchvision's and timm's ResNets is given our
 * inputs and outputs. Its own nodes and weights stay as they are; only their names get a prefix, so that none can be ours.
 */
import { ConfigError } from '../errors.ts';
import { finishGraph, rankClasses } from './graph.ts';
import {
  dataType,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type OnnxModel,
  startSketch,
  type TensorProto,
} from './onnx.ts';
import type { GraphRecord } from './record.ts';
import { sizeOf } from './spec.ts';
import { centrePixels } from './trunk.ts';

/** What could be read off a foreign graph. */
export interface ForeignClassifier {
  /** Side of its input in pixels, if the file fixes it. */
  side: number | undefined;
  dimension: number;
  classes: number;
  precision: 'fp32' | 'fp16';
  parameters: number;
  build(record: GraphRecord): OnnxModel;
}

const prefix = 'model/';

/** The first opset whose TopK is told to sort (https://onnx.ai/onnx/operators/onnx__TopK.html). */
const oldestOpset = 11;

/** Throws ConfigError 'unsupported-onnx' that says what was found and what is needed. */
export function adoptClassifier(proto: ModelProto & { graph: GraphProto }, file: string): ForeignClassifier {
  const unsupported = (found: string) => {
    const needed =
      'needed: a float input [N,3,S,S] and an output [N,classes] that a Gemm or MatMul makes of the embedding';
    return new ConfigError('unsupported-onnx', `${file}: ${found}; ${needed}`);
  };
  const { graph } = proto;
  const constants = listConstants(graph);
  const opset = Number(
    proto.opsetImport?.find(({ domain }) => !domain || domain === 'ai.onnx')?.version ?? 0,
  );
  if (opset < oldestOpset) throw unsupported(`opset ${opset} is older than ${oldestOpset}`);
  for (const node of graph.node ?? []) {
    if (node.attribute?.some(({ g, graphs }) => g || graphs?.length))
      throw unsupported(`${node.opType} is control flow`);
  }
  for (const { name, externalData } of constants.values()) {
    if (externalData?.length)
      throw unsupported(`tensor '${name}' lies in another file; export to a single one`);
  }

  const inputs = (graph.input ?? []).filter(({ name }) => !constants.has(name ?? ''));
  const outputs = graph.output ?? [];
  const [input] = inputs;
  const [output] = outputs;
  if (!input || !output || inputs.length > 1 || outputs.length > 1) {
    throw unsupported(`it has ${inputs.length} inputs and ${outputs.length} outputs`);
  }
  const { elemType } = input.type?.tensorType ?? {};
  const lengths = (input.type?.tensorType?.shape?.dim ?? []).map(({ dimValue }) => Number(dimValue ?? 0));
  const [batch = 0, channels = 0, height = 0, width = 0] = lengths; // 0: symbolic
  const isFloat = elemType === dataType.float32 || elemType === dataType.float16;
  if (!isFloat || lengths.length !== 4 || (channels !== 3 && channels !== 0) || height !== width) {
    throw unsupported(
      `its input '${input.name}' is of type ${elemType}, [${lengths.map((length) => length || '?')}]`,
    );
  }
  if (batch > 0) refuseFixedBatch(graph, constants, unsupported);
  const last = findLastLayer(graph, constants, output.name ?? '', unsupported);

  return {
    side: height || undefined,
    dimension: last.dimension,
    classes: last.classes,
    precision: last.precision,
    parameters: (graph.initializer ?? [])
      .filter(isFloatTensor)
      .reduce((sum, { dims }) => sum + sizeOf(numbers(dims)), 0),
    build(record) {
      const { std } = record.identity.preprocessing;
      const sketch = startSketch();
      const scale = sketch.weight('scale', 'float32', [1, 3, 1, 1], () =>
        Float32Array.from(std, (s) => 1 / (255 * s)),
      );
      const pixels = sketch.node(
        'Mul',
        [centrePixels(sketch, record.identity.preprocessing), scale],
        'normalised',
      );
      sketch.node('Cast', [pixels], prefix + input.name, { to: elemType });
      sketch.nodes.push(...(graph.node ?? []).map(prefixNode));
      sketch.node('Cast', [prefix + last.embedding], 'embedding', { to: dataType.float32 });
      const answer = sketch.node('Cast', [prefix + output.name], 'answer', { to: dataType.float32 });
      const probabilities = last.hasSoftmax
        ? answer
        : sketch.node('Softmax', [answer], 'probabilities', { axis: 1 });
      rankClasses(sketch, probabilities, record.topK);
      const initializer = (graph.initializer ?? []).map((tensor) => ({
        ...tensor,
        name: prefix + tensor.name,
      }));
      return finishGraph(sketch, record, { ...proto, graph: { initializer } });
    },
  };
}

type Constants = ReadonlyMap<string, TensorProto>;
type Unsupported = (found: string) => ConfigError;

/** Initializers, and the values of Constant nodes, by tensor name. */
function listConstants(graph: GraphProto): Constants {
  const constants = new Map((graph.initializer ?? []).map((tensor) => [tensor.name ?? '', tensor]));
  for (const { opType, output, attribute } of graph.node ?? []) {
    const value = attribute?.find(({ name }) => name === 'value')?.t;
    if (opType === 'Constant' && value && output?.[0]) constants.set(output[0], value);
  }
  return constants;
}

/** torch.onnx.export fixes the batch of the example. Only a Reshape to that very length makes the fact stick. */
function refuseFixedBatch(graph: GraphProto, constants: Constants, unsupported: Unsupported): void {
  for (const { opType, name, input } of graph.node ?? []) {
    const shape = constants.get(input?.[1] ?? '');
    if (opType !== 'Reshape' || !shape || readInt64s(shape)[0] === 0 || readInt64s(shape)[0] === -1) continue;
    throw unsupported(
      `its batch is fixed by '${name}' (Reshape to [${readInt64s(shape)}]); export it with dynamic_axes`,
    );
  }
}

interface LastLayer {
  /** Name of the tensor [N,dimension] that goes into it. */
  embedding: string;
  dimension: number;
  classes: number;
  precision: 'fp32' | 'fp16';
  hasSoftmax: boolean;
}

/** Walks from the output up to the matrix that made it. */
function findLastLayer(
  graph: GraphProto,
  constants: Constants,
  output: string,
  unsupported: Unsupported,
): LastLayer {
  const makers = new Map<string, NodeProto>();
  for (const node of graph.node ?? []) for (const name of node.output ?? []) makers.set(name, node);
  let hasSoftmax = false;
  let node = makers.get(output);
  while (node?.opType === 'Softmax' || node?.opType === 'Identity' || node?.opType === 'Cast') {
    hasSoftmax ||= node.opType === 'Softmax';
    node = makers.get(node.input?.[0] ?? '');
  }
  if (node?.opType === 'Add')
    node = node.input?.map((name) => makers.get(name)).find((made) => made?.opType === 'MatMul');
  if (node?.opType !== 'Gemm' && node?.opType !== 'MatMul') {
    throw unsupported(`its output '${output}' is made by ${node?.opType ?? 'something else'}`);
  }
  const [embedding = '', matrixName = ''] = node.input ?? [];
  const flag = (name: string) =>
    Number(node.attribute?.find((attribute) => attribute.name === name)?.i ?? 0) === 1;
  const transposer = makers.get(matrixName);
  const isTransposed = transposer?.opType === 'Transpose';
  const matrix = constants.get(isTransposed ? (transposer.input?.[0] ?? '') : matrixName);
  const shape = numbers(matrix?.dims);
  if (!matrix || !isFloatTensor(matrix) || shape.length !== 2 || flag('transA')) {
    throw unsupported(
      `the matrix '${matrixName}' of its last layer is no constant of floats (a quantised file?)`,
    );
  }
  const [rows, columns] = shape as [number, number]; // two lengths were asked for
  const [classes, dimension] = flag('transB') !== isTransposed ? [rows, columns] : [columns, rows];
  const precision = matrix.dataType === dataType.float16 ? 'fp16' : 'fp32';
  return { embedding, dimension, classes, precision, hasSoftmax };
}

/** Names of tensors and nodes get the prefix; an empty name stands for an input or output that is left out. */
function prefixNode(node: NodeProto): NodeProto {
  const rename = (name: string) => (name === '' ? '' : prefix + name);
  return {
    ...node,
    name: rename(node.name ?? ''),
    input: node.input?.map(rename) ?? [],
    output: node.output?.map(rename) ?? [],
  };
}

function isFloatTensor({ dataType: type }: TensorProto): boolean {
  return type === dataType.float32 || type === dataType.float16;
}

function readInt64s({ rawData, int64Data }: TensorProto): number[] {
  if (!rawData?.length) return numbers(int64Data);
  const bytes = Buffer.from(rawData);
  return Array.from({ length: bytes.length / 8 }, (_, index) => Number(bytes.readBigInt64LE(8 * index)));
}

/** protobuf's int64s, which protobufjs holds in objects. */
function numbers(values: readonly unknown[] | null | undefined): number[] {
  return (values ?? []).map(Number);
}
