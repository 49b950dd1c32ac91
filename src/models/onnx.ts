/**
 * ONNX files (https://github.com/onnx/onnx/blob/main/docs/IR.md): the only door to onnx-proto. Weights are encoded one
 * at a time behind the graph that names them, so writing a 240 MB model needs memory for its largest tensor only.
 */
import onnxProto, { type onnx } from 'onnx-proto';
import { ConfigError, messageOf } from '../errors.ts';
import { sizeOf } from './spec.ts';

export type ModelProto = onnx.IModelProto;
export type GraphProto = onnx.IGraphProto;
export type NodeProto = onnx.INodeProto;
export type ValueInfo = onnx.IValueInfoProto;
export type TensorProto = onnx.ITensorProto;

/** TensorProto.DataType (onnx.proto), as far as it is met here. */
export const dataType = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10 } as const;
export type DataType = keyof typeof dataType;

const bytesPerElement: Readonly<Record<DataType, number>> = {
  float32: 4,
  uint8: 1,
  int8: 1,
  int32: 4,
  int64: 8,
  float16: 2,
};

/** A constant tensor that is made when it is written: `read` returns its elements, little-endian and row-major. */
export interface Weight {
  name: string;
  type: DataType;
  shape: readonly number[];
  read(): ArrayBufferView;
}

/** A model whose graph is complete but for `weights`, which are appended to its initializers when it is encoded. */
export interface OnnxModel {
  proto: ModelProto;
  weights: readonly Weight[];
}

/** Nodes and weights under construction; every method returns the name of the tensor that it adds. */
export interface Sketch {
  nodes: NodeProto[];
  weights: Weight[];
  /** Adds a node named after its first output. Attributes: a number is an int, an array is ints. */
  node(
    op: string,
    inputs: string[],
    output: string | string[],
    attributes?: Record<string, number | number[]>,
  ): string;
  weight(name: string, type: DataType, shape: readonly number[], read: () => ArrayBufferView): string;
}

export function startSketch(): Sketch {
  const nodes: NodeProto[] = [];
  const weights: Weight[] = [];
  return {
    nodes,
    weights,
    node(opType, input, output, attributes = {}) {
      const outputs = [output].flat();
      const [name] = outputs as [string]; // every node here has an output
      const attribute = Object.entries(attributes).map(([key, value]) =>
        typeof value === 'number' ? { name: key, type: 2, i: value } : { name: key, type: 7, ints: value },
      );
      nodes.push({ opType, name, input, output: outputs, attribute });
      return name;
    },
    weight(name, type, shape, read) {
      weights.push({ name, type, shape, read });
      return name;
    },
  };
}

/** A graph input or output; a string is a symbolic length. */
export function valueInfo(name: string, type: DataType, shape: readonly (number | string)[]): ValueInfo {
  const dim = shape.map((length) =>
    typeof length === 'number' ? { dimValue: length } : { dimParam: length },
  );
  return { name, type: { tensorType: { elemType: dataType[type], shape: { dim } } } };
}

/** The file's bytes in order, one weight a chunk. Throws what the weights' `read` throws. */
export function* encodeOnnx({ proto, weights }: OnnxModel): Generator<Uint8Array> {
  const { ModelProto, GraphProto, TensorProto } = onnxProto.onnx;
  const graph = GraphProto.encode(proto.graph ?? {}).finish();
  const frames = weights.map(({ name, type, shape }) => {
    const bytes = sizeOf(shape) * bytesPerElement[type];
    const head = TensorProto.encode({ name, dataType: dataType[type], dims: [...shape] });
    const tensor = head.uint32(fieldTag(9)).uint32(bytes).finish(); // TensorProto.raw_data
    const frame = blankWriter()
      .uint32(fieldTag(5))
      .uint32(tensor.length + bytes)
      .finish(); // GraphProto.initializer
    return { head: Buffer.concat([frame, tensor]), bytes };
  });
  const length = frames.reduce((sum, { head, bytes }) => sum + head.length + bytes, graph.length);
  yield ModelProto.encode({ ...proto, graph: null })
    .uint32(fieldTag(7))
    .uint32(length)
    .finish(); // ModelProto.graph
  yield graph;
  for (const [index, { head, bytes }] of frames.entries()) {
    const weight = weights[index] as Weight; // frames were made from weights
    const { buffer, byteOffset, byteLength } = weight.read();
    if (byteLength !== bytes)
      throw new Error(`this is a bug: ${weight.name} has ${byteLength} bytes, not ${bytes}`);
    yield head;
    yield new Uint8Array(buffer, byteOffset, byteLength);
  }
}

/** Throws ConfigError 'bad-onnx' naming the file. The tensors' bytes are views of `bytes`. */
export function decodeOnnx(bytes: Uint8Array, file: string): ModelProto & { graph: GraphProto } {
  let proto: ModelProto;
  try {
    proto = onnxProto.onnx.ModelProto.decode(bytes);
  } catch (error) {
    throw new ConfigError('bad-onnx', `${file} is not an ONNX file: ${messageOf(error)}`, { cause: error });
  }
  if (!proto.graph?.node?.length)
    throw new ConfigError('bad-onnx', `${file} is not an ONNX file: it holds no graph`);
  return { ...proto, graph: proto.graph };
}

/** How often each operator stands in the graph, most frequent first. */
export function countOps({ graph }: ModelProto): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { opType } of graph?.node ?? []) counts[opType ?? ''] = (counts[opType ?? ''] ?? 0) + 1;
  return Object.fromEntries(
    Object.entries(counts).toSorted((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])),
  );
}

/** The key of a length-delimited field (https://protobuf.dev/programming-guides/encoding/#structure). */
function fieldTag(field: number): number {
  return (field << 3) | 2;
}

/** protobufjs' writer, without naming protobufjs: an empty message encodes to nothing. */
function blankWriter() {
  return onnxProto.onnx.ModelProto.encode({});
}
