/**
 * What a bottleneck ResNet is made of: its convolutions in order, and the tensors that a weights file must hold.
 * Names and shapes are torchvision's (`torchvision.models.resnet`), which timm shares. The stride sits on the 3×3
 * ("v1.5", https://catalog.ngc.nvidia.com/orgs/nvidia/resources/resnet_50_v1_5_for_pytorch).
 */
import { ConfigError } from '../errors.ts';

/** Blocks in each of the four stages. */
export type Depths = readonly [number, number, number, number];

export interface Architecture {
  /** 'resnet50', 'resnet101', 'resnet152', or 'resnet-1-1-1-1' for depths that have no such name. */
  name: string;
  depths: Depths;
  /** Rows of the last layer: 1000 for ImageNet. */
  classes: number;
}

/** A convolution without bias, padded by half its kernel, and the batch norm behind it. */
export interface ConvSpec {
  /** Tensor name of the convolution without '.weight', such as 'layer1.0.conv2'. */
  conv: string;
  /** Tensor name of the norm without '.weight', such as 'layer1.0.bn2'. */
  norm: string;
  inputs: number;
  outputs: number;
  kernel: 1 | 3 | 7;
  stride: 1 | 2;
}

/** relu(path(x) + shortcut(x)); without a shortcut convolution, x itself is added. */
export interface BlockSpec {
  name: string;
  path: readonly [ConvSpec, ConvSpec, ConvSpec];
  shortcut?: ConvSpec;
}

/** A tensor of a weights file. `read` costs I/O or arithmetic at every call and returns a fresh row-major copy. */
export interface Tensor {
  shape: readonly number[];
  read(): Float32Array;
}

/** Weights by tensor name. */
export type Tensors = ReadonlyMap<string, Tensor>;

/** Length of the embedding: the channels that leave stage 4. */
export const dimension = 2048;

/** torch's default, with which every preset was trained. */
export const normEpsilon = 1e-5;

const namedDepths: Readonly<Record<string, Depths>> = {
  resnet50: [3, 4, 6, 3],
  resnet101: [3, 4, 23, 3],
  resnet152: [3, 8, 36, 3],
};

/** From 'resnet152', 'resnet-1-1-1-1' or '1-1-1-1'. Throws ConfigError 'unknown-architecture'. */
export function parseArchitecture(text: string, classes = 1000): Architecture {
  const named = namedDepths[text];
  if (named) return { name: text, depths: named, classes };
  const match = /^(?:resnet-)?([1-9]\d?)-([1-9]\d?)-([1-9]\d?)-([1-9]\d?)$/.exec(text);
  if (!match) {
    const names = Object.keys(namedDepths).join(', ');
    throw new ConfigError(
      'unknown-architecture',
      `no architecture '${text}'; there are ${names} and depths such as 1-1-1-1`,
    );
  }
  return architectureOf(match.slice(1).map(Number) as [number, number, number, number], classes); // four groups matched
}

/** 7×7 over RGB, stride 2; a 3×3 max-pool of stride 2 follows it. */
export const stem: ConvSpec = { conv: 'conv1', norm: 'bn1', inputs: 3, outputs: 64, kernel: 7, stride: 2 };

/** The blocks of all four stages in order. Stage s works on 64·2ˢ channels and puts out four times as many. */
export function listBlocks({ depths }: Pick<Architecture, 'depths'>): BlockSpec[] {
  return depths.flatMap((depth, stage) =>
    Array.from({ length: depth }, (_, index): BlockSpec => {
      const name = `layer${stage + 1}.${index}`;
      const width = 64 << stage;
      const outputs = 4 * width;
      const inputs = index > 0 ? outputs : stage > 0 ? outputs / 2 : 64;
      const stride = index === 0 && stage > 0 ? 2 : 1;
      const path: BlockSpec['path'] = [
        { conv: `${name}.conv1`, norm: `${name}.bn1`, inputs, outputs: width, kernel: 1, stride: 1 },
        { conv: `${name}.conv2`, norm: `${name}.bn2`, inputs: width, outputs: width, kernel: 3, stride },
        { conv: `${name}.conv3`, norm: `${name}.bn3`, inputs: width, outputs, kernel: 1, stride: 1 },
      ];
      if (index > 0) return { name, path };
      const shortcut = {
        conv: `${name}.downsample.0`,
        norm: `${name}.downsample.1`,
        inputs,
        outputs,
        stride,
      } as const;
      return { name, path, shortcut: { ...shortcut, kernel: 1 } };
    }),
  );
}

/** Every convolution, in the order of a forward pass: 155 in ResNet-152. */
export function listConvs(architecture: Pick<Architecture, 'depths'>): ConvSpec[] {
  const inBlocks = listBlocks(architecture).flatMap(({ path, shortcut }) =>
    shortcut ? [...path, shortcut] : path,
  );
  return [stem, ...inBlocks];
}

/** [outputs, inputs, kernel, kernel], as torch stores a convolution. */
export function convShape({ outputs, inputs, kernel }: ConvSpec): [number, number, number, number] {
  return [outputs, inputs, kernel, kernel];
}

/** Every tensor's name and shape, in torch's `state_dict` order but for `num_batches_tracked`, which inference ignores. */
export function listTensors(architecture: Architecture): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const conv of listConvs(architecture)) {
    shapes.set(`${conv.conv}.weight`, convShape(conv));
    for (const statistic of ['weight', 'bias', 'running_mean', 'running_var']) {
      shapes.set(`${conv.norm}.${statistic}`, [conv.outputs]);
    }
  }
  shapes.set('fc.weight', [architecture.classes, dimension]);
  shapes.set('fc.bias', [architecture.classes]);
  return shapes;
}

/** Trainable numbers, which the norms' running statistics are not: 60,192,808 in ResNet-152. */
export function countParameters(architecture: Architecture): number {
  let count = 0;
  for (const [name, shape] of listTensors(architecture)) {
    if (!name.includes('running_')) count += sizeOf(shape);
  }
  return count;
}

/** Multiply-accumulates of one picture of `side` pixels: 11.5e9 in ResNet-152 at 224. */
export function countMacs(architecture: Architecture, side: number): number {
  const half = (length: number) => Math.ceil(length / 2);
  const macs = ({ outputs, inputs, kernel }: ConvSpec, length: number) =>
    outputs * inputs * kernel ** 2 * length ** 2;
  let length = half(side);
  let count = macs(stem, length) + architecture.classes * dimension;
  length = half(length);
  for (const { path, shortcut } of listBlocks(architecture)) {
    count += macs(path[0], length);
    if (path[1].stride === 2) length = half(length);
    count += macs(path[1], length) + macs(path[2], length) + (shortcut ? macs(shortcut, length) : 0);
  }
  return count;
}

/**
 * Reads depths and classes off a file's tensors and holds every tensor against what such a network needs.
 * Throws ConfigError 'missing-tensor', 'misshapen-tensor' or 'unexpected-tensor', naming `file` and the tensor.
 */
export function readArchitecture(
  tensors: ReadonlyMap<string, Pick<Tensor, 'shape'>>,
  file: string,
): Architecture {
  const depths = ([1, 2, 3, 4] as const).map((stage) => {
    let depth = 0;
    while (tensors.has(`layer${stage}.${depth}.conv1.weight`)) depth++;
    return Math.max(depth, 1); // a stage without blocks is reported below by its first missing tensor
  }) as [number, number, number, number]; // mapped from a four-tuple
  const architecture = architectureOf(depths, tensors.get('fc.weight')?.shape[0] ?? 1000);
  const expected = listTensors(architecture);
  const network = `${file}: a bottleneck ResNet of depths ${depths.join('-')}`;
  for (const [name, shape] of expected) {
    const found = tensors.get(name);
    if (!found)
      throw new ConfigError(
        'missing-tensor',
        `${network} needs tensor '${name}' [${shape}]; it is not there`,
      );
    if (`${found.shape}` !== `${shape}`) {
      throw new ConfigError(
        'misshapen-tensor',
        `${network} needs tensor '${name}' [${shape}]; found [${found.shape}]`,
      );
    }
  }
  for (const [name, { shape }] of tensors) {
    if (expected.has(name) || name.endsWith('.num_batches_tracked')) continue;
    throw new ConfigError('unexpected-tensor', `${network} has no tensor '${name}'; found one [${shape}]`);
  }
  return architecture;
}

/** Elements in a tensor of that shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

function architectureOf(depths: Depths, classes: number): Architecture {
  const named = Object.entries(namedDepths).find(([, known]) => `${known}` === `${depths}`);
  return { name: named?.[0] ?? `resnet-${depths.join('-')}`, depths, classes };
}
