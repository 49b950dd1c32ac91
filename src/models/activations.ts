/** A network's trunk in floats with windows into it: the numbers that `byteArithmetic` will need a range of. */
import type { Preprocessing } from '../types.ts';
import { type OnnxModel, startSketch, valueInfo } from './onnx.ts';
import { type Arithmetic, drawTrunk, floatArithmetic, type Network } from './trunk.ts';

/**
 * ResNet-152 makes 34 million numbers of a picture. Every 37th is enough to know how they are spread, and 37 has no factor in
 * common with the sides of its feature maps, so that it meets every row, column and channel.
 */
const step = 37;

/** Of the outputs' names; before it stands the tensor's. */
export const ending = '.window';

/** Inputs as every graph of ours; an output [N,·] float32 for each tensor that needs a range, under its name and `ending`. */
export function buildActivationGraph(network: Network, preprocessing: Preprocessing): OnnxModel {
  const sketch = startSketch();
  const floats = floatArithmetic(sketch, 'float32');
  const windows: string[] = [];
  const bounds = [0, 2 ** 31 - 1, 1, step].map((value, index) =>
    sketch.weight(`window.slice${index}`, 'int64', [1], () => BigInt64Array.of(BigInt(value))),
  );
  const look = (tensor: string): string => {
    const flat = sketch.node('Flatten', [tensor], `${tensor}.flat`, { axis: 1 });
    windows.push(sketch.node('Slice', [flat, ...bounds], tensor + ending));
    return tensor;
  };
  const watched: Arithmetic = {
    ...floats,
    relu: (input, name) => look(floats.relu(input, name)),
    keep: (tensor, like) => (like === undefined ? look(tensor) : tensor),
  };
  drawTrunk(sketch, network, preprocessing, watched);
  const { crop } = preprocessing;
  const graph = {
    name: 'activations',
    node: sketch.nodes,
    input: [valueInfo('images', 'uint8', ['N', crop, crop, 3])],
    output: windows.map((name) => valueInfo(name, 'float32', ['N', `${name}.length`])),
  };
  return {
    proto: { irVersion: 8, opsetImport: [{ domain: '', version: 15 }], graph },
    weights: sketch.weights,
  };
}
