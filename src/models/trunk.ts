/**
 * The part of a ResNet that costs: normalised pixels → stem → four stages → features [N,2048,7,7], as nodes of a graph.
 *
 * There is one walk over the network. In what numbers it reckons is an `Arithmetic`: floats and halves (here), bytes
 * (quantize.ts), floats that are looked at on the way (calibrate.ts).
 *
 * Batch norms are folded into the convolutions before them, and 1/std into the first one. The mean is subtracted from the
 * pixels: folded into a bias it would be wrong along the border, which torch pads with zeros *after* normalising.
 */
import { ConfigError } from '../errors.ts';
import type { Preprocessing } from '../types.ts';
import { toHalf } from './half.ts';
import { dataType, type Sketch } from './onnx.ts';
import {
  type Architecture,
  type ConvSpec,
  convShape,
  listBlocks,
  normEpsilon,
  stem,
  type Tensor,
  type Tensors,
} from './spec.ts';

/** A convolution with its norm folded in. Both functions cost what reading the tensors costs. */
export interface FoldedConv {
  spec: ConvSpec;
  /** [outputs, inputs, kernel, kernel] */
  weights(): Float32Array;
  /** [outputs] */
  bias(): Float32Array;
}

/** In what numbers a graph reckons. Every method but `weights` takes a tensor's name and gives that of the next one. */
export interface Arithmetic {
  /** From float32 pixels less their mean, on the 0–255 scale. */
  enter(pixels: string): string;
  /** Names of a convolution's weights and bias; `input` is the tensor that it will read. */
  weights(conv: FoldedConv, input: string): [string, string];
  /** max(0, input), as a tensor `name`. */
  relu(input: string, name: string): string;
  /** For a tensor that no ReLU follows; its numbers are those of `like`, where that is given. */
  keep(tensor: string, like?: string): string;
  /** To float32. */
  leave(features: string): string;
}

export interface Network {
  architecture: Architecture;
  tensors: Tensors;
}

/** Adds the trunk's nodes and returns the features' name, float32. Reads no tensor: the weights are read when written. */
export function drawTrunk(
  sketch: Sketch,
  { architecture, tensors }: Network,
  preprocessing: Preprocessing,
  arithmetic: Arithmetic,
): string {
  const { relu, keep } = arithmetic;
  const conv = (spec: ConvSpec, input: string, inputScale?: readonly number[]): string => {
    const { conv: name, kernel, stride } = spec;
    const folded = {
      spec,
      weights: () => foldWeights(spec, tensors, inputScale),
      bias: () => foldBias(spec, tensors),
    };
    const pad = kernel >> 1;
    const attributes = {
      kernel_shape: [kernel, kernel],
      strides: [stride, stride],
      pads: [pad, pad, pad, pad],
    };
    return sketch.node('Conv', [input, ...arithmetic.weights(folded, input)], name, attributes);
  };

  let x = arithmetic.enter(centrePixels(sketch, preprocessing));
  const inputScale = preprocessing.std.map((std) => 1 / (255 * std));
  x = relu(conv(stem, x, inputScale), 'relu');
  const pool = { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] };
  x = keep(sketch.node('MaxPool', [x], 'maxpool', pool), 'relu');
  for (const { name, path, shortcut } of listBlocks(architecture)) {
    const first = relu(conv(path[0], x), `${name}.relu1`);
    const second = relu(conv(path[1], first), `${name}.relu2`);
    const sum = [keep(conv(path[2], second)), shortcut ? keep(conv(shortcut, x)) : x];
    x = relu(sketch.node('Add', sum, `${name}.add`), `${name}.relu3`);
  }
  return arithmetic.leave(x);
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

/**
 * Floats or halves. Nodes come as Conv→Relu and Conv→Add→Relu, which ONNX Runtime fuses on the CPU and on CUDA. Weights that
 * are not finite (in fp16: above 65504) throw ConfigError 'bad-weights' when they are written.
 */
export function floatArithmetic(sketch: Sketch, type: 'float32' | 'float16'): Arithmetic {
  const cast = (tensor: string, name: string, to: 'float32' | 'float16'): string =>
    type === 'float32' ? tensor : sketch.node('Cast', [tensor], name, { to: dataType[to] });
  return {
    enter: (pixels) => cast(pixels, 'pixels.half', 'float16'),
    weights({ spec, weights, bias }) {
      const pack = (suffix: string, shape: readonly number[], read: () => Float32Array): string => {
        const name = `${spec.conv}.${suffix}`;
        return sketch.weight(name, type, shape, () => packFloats(name, type, read()));
      };
      return [pack('weight', convShape(spec), weights), pack('bias', [spec.outputs], bias)];
    },
    relu: (input, name) => sketch.node('Relu', [input], name),
    keep: (tensor) => tensor,
    leave: (features) => cast(features, 'features', 'float32'),
  };
}

/** Throws ConfigError 'bad-weights' naming the tensor and the first number that `type` cannot hold. */
export function packFloats(
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

export function tensorOf(tensors: Tensors, name: string): Tensor {
  const tensor = tensors.get(name);
  if (!tensor) throw new Error(`this is a bug: tensor ${name} was not checked`);
  return tensor;
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
