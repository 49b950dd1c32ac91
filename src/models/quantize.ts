/**
 * A network in bytes: activations uint8 with one scale a tensor, weights int8 with one scale a channel, sums int32.
 *
 * It is written as ONNX's QDQ form: every tensor that is kept in bytes is quantised and at once dequantised, and the operator
 * between two such pairs is the float one. ONNX Runtime's CPU provider fuses each group into one operator on bytes (Conv into
 * QLinearConv, Add into QLinearAdd), and drops the pair around a MaxPool, whose input and output share a scale. A ReLU is no
 * node: a tensor that starts at 0 is cut there when it is rounded.
 */
import { ConfigError } from '../errors.ts';
import type { Preprocessing } from '../types.ts';
import type { Calibration, Range } from './calibration.ts';
import type { Sketch } from './onnx.ts';
import { convShape } from './spec.ts';
import { type Arithmetic, packFloats } from './trunk.ts';

/** Throws ConfigError 'wrong-calibration' where a tensor has no range. */
export function byteArithmetic(
  sketch: Sketch,
  { ranges }: Calibration,
  preprocessing: Preprocessing,
): Arithmetic {
  /** Of the tensors that stand for what was kept in bytes. */
  const scales = new Map<string, number>();
  const written = new Set<string>();

  /** Through bytes and back, on the scale of the tensor called `like`. */
  const quantise = (input: string, name: string, like: string, range: Range): string => {
    const { scale, zeroPoint } = scaleOf(range);
    if (!written.has(like)) {
      written.add(like);
      sketch.weight(`${like}.scale`, 'float32', [], () => Float32Array.of(scale));
      sketch.weight(`${like}.zero`, 'uint8', [], () => Uint8Array.of(zeroPoint));
    }
    const by = [`${like}.scale`, `${like}.zero`];
    const bytes = sketch.node('QuantizeLinear', [input, ...by], `${name}.bytes`);
    const output = sketch.node('DequantizeLinear', [bytes, ...by], `${name}.kept`);
    scales.set(output, scale);
    return output;
  };
  const rangeOf = (tensor: string): Range => {
    const range = ranges[tensor];
    if (range) return range;
    const remedy = 'give that of this network, or calibrate it: `lensmill model calibrate`';
    throw new ConfigError('wrong-calibration', `the calibration has no range of '${tensor}': ${remedy}`);
  };

  return {
    enter: (pixels) => quantise(pixels, pixels, pixels, pixelRange(preprocessing)),
    weights({ spec, weights, bias }, input) {
      const inputScale = scales.get(input) as number; // every tensor that a convolution reads was kept in bytes
      // Made once, for a scale is of weights and bias; and let go when the last of the four is written.
      let packed: QuantisedConv | undefined;
      const read = (): QuantisedConv => {
        packed ??= quantiseConv(spec.conv, weights(), bias(), inputScale);
        return packed;
      };
      const { conv: name, outputs } = spec;
      const scale = sketch.weight(`${name}.weight.scale`, 'float32', [outputs], () => read().weightScales);
      const biasScale = sketch.weight(`${name}.bias.scale`, 'float32', [outputs], () => read().biasScales);
      const bytes = sketch.weight(`${name}.weight.bytes`, 'int8', convShape(spec), () => read().weights);
      const sums = sketch.weight(`${name}.bias.sums`, 'int32', [outputs], () => {
        const { bias } = read();
        packed = undefined;
        return bias;
      });
      return [
        sketch.node('DequantizeLinear', [bytes, scale], `${name}.weight`, { axis: 0 }),
        sketch.node('DequantizeLinear', [sums, biasScale], `${name}.bias`, { axis: 0 }),
      ];
    },
    relu: (input, name) => quantise(input, name, name, rangeOf(name)),
    keep: (tensor, like = tensor) => quantise(tensor, tensor, like, rangeOf(like)),
    leave: (features) => features,
  };
}

/** What any picture's pixels can be once the mean is off: known, so never measured. */
function pixelRange({ mean }: Preprocessing): Range {
  return [-255 * Math.max(...mean), 255 * (1 - Math.min(...mean))];
}

/** 0 is always one of the 256 steps: it is what borders are padded with, and what a ReLU leaves. */
function scaleOf([low, high]: Range): { scale: number; zeroPoint: number } {
  const scale = Math.fround((high - low) / 255);
  return { scale, zeroPoint: Math.round(-low / scale) };
}

export interface QuantisedConv {
  weights: Int8Array;
  weightScales: Float32Array;
  /** On the scale of the sums: input's times weight's. */
  bias: Int32Array;
  biasScales: Float32Array;
}

/**
 * Weights symmetric around 0, each channel to its own largest. Throws ConfigError 'bad-weights'.
 *
 * A channel that training has switched off has weights of next to nothing and a bias. Its scale is made large enough for the
 * bias to fit into 32 bits; the weights then become 0, which they nearly are.
 */
export function quantiseConv(
  name: string,
  weights: Float32Array,
  bias: Float32Array,
  inputScale: number,
): QuantisedConv {
  packFloats(`${name}.weight`, 'float32', weights);
  packFloats(`${name}.bias`, 'float32', bias);
  const outputs = bias.length;
  const quantised: QuantisedConv = {
    weights: new Int8Array(weights.length),
    weightScales: new Float32Array(outputs),
    bias: new Int32Array(outputs),
    biasScales: new Float32Array(outputs),
  };
  const length = weights.length / outputs;
  for (let output = 0; output < outputs; output++) {
    const first = output * length;
    let largest = 0;
    for (let i = first; i < first + length; i++) largest = Math.max(largest, Math.abs(weights[i] as number));
    const offset = bias[output] as number;
    const scale = Math.fround(Math.max(largest / 127, Math.abs(offset) / (inputScale * 2 ** 30), 1e-30));
    const biasScale = Math.fround(scale * inputScale);
    for (let i = first; i < first + length; i++)
      quantised.weights[i] = Math.round((weights[i] as number) / scale);
    quantised.weightScales[output] = scale;
    quantised.bias[output] = Math.round(offset / biasScale);
    quantised.biasScales[output] = biasScale;
  }
  return quantised;
}
