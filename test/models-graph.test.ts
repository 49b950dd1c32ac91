/** The graphs, run. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import onnxProto, { type onnx } from 'onnx-proto';
import { Tensor } from 'onnxruntime-node';
import { expect, test } from 'vitest';
import { toHalf } from '../src/models/half.ts';
import {
  buildOnnx,
  describeModel,
  type ResolveOptions,
  resolveModel,
  writeOnnx,
} from '../src/models/model.ts';
import { valueInfo } from '../src/models/onnx.ts';
import { imagenetPreprocessing } from '../src/models/presets.ts';
import { cosine, paintPixels, relativeError, runGraph, runOnnx } from './helpers/graphs.ts';
import { tempFolder } from './helpers/temp.ts';

const folder = tempFolder();
const side = 96;
const options: ResolveOptions = {
  cacheDir: join(folder, 'cache'),
  resizeMode: 'exact',
  precision: 'fp32',
  preprocessing: { crop: side },
};
const ref = 'random:0:1-2-1-1';

test('a batched image scores as it does alone', async () => {
  const path = await buildOnnx(await resolveModel(ref, options), { topK: 5 });
  const pixels = paintPixels(5, side);
  const batch = await runGraph(path, pixels, side);
  for (let image = 0; image < 5; image++) {
    const alone = await runGraph(
      path,
      pixels.slice(image * side * side * 3, (image + 1) * side * side * 3),
      side,
    );
    // The same sums, at most in another order: a few units in the last of float32's 24 bits.
    expect(
      relativeError(batch.embedding?.slice(image * 2048, (image + 1) * 2048) ?? [], alone.embedding ?? []),
    ).toBeLessThan(1e-5);
    expect(
      relativeError(batch.scores?.slice(image * 5, (image + 1) * 5) ?? [], alone.scores ?? []),
    ).toBeLessThan(1e-5);
    expect(batch.labels?.slice(image * 5, (image + 1) * 5)).toEqual(alone.labels);
  }
});

test('scores are probabilities, best first, of the classes that labels name', async () => {
  const model = (await resolveModel(ref, options)).build(1000);
  model.proto.graph?.output?.push(valueInfo('logits', 'float32', ['N', 1000]));
  const { logits = [], scores = [], labels = [] } = await runGraph(model, paintPixels(1, side), side);
  const exps = Array.from(logits, (logit) => Math.exp(logit));
  const sum = exps.reduce((total, value) => total + value, 0);
  expect(
    relativeError(
      scores,
      Array.from(labels, (label) => (exps[label] as number) / sum),
    ),
  ).toBeLessThan(1e-5);
  expect([...scores]).toEqual([...scores].toSorted((a, b) => b - a));
  expect(new Set(labels).size).toBe(1000);
});

test('an fp16 graph gives the fp32 embedding and float32 outputs', async () => {
  const pixels = paintPixels(3, side);
  const single = await runGraph(await buildOnnx(await resolveModel(ref, options), { topK: 5 }), pixels, side);
  const half = await runGraph(
    await buildOnnx(await resolveModel(ref, { ...options, precision: 'fp16' }), { topK: 5 }),
    pixels,
    side,
  );
  expect(half.embedding).toBeInstanceOf(Float32Array);
  for (let image = 0; image < 3; image++) {
    const row = (outputs: typeof half) => outputs.embedding?.slice(image * 2048, (image + 1) * 2048) ?? [];
    expect(cosine(row(half), row(single))).toBeGreaterThan(0.9999);
    expect(half.labels?.[image * 5]).toBe(single.labels?.[image * 5]);
  }
});

test('random weights tell pictures apart and stay far inside float16', async () => {
  const model = (await resolveModel(ref, options)).build(1);
  const stages = ['layer1.0.relu3', 'layer2.1.relu3', 'layer3.0.relu3', 'layer4.0.relu3'];
  model.proto.graph?.output?.push(...stages.map((name) => valueInfo(name, 'float32', ['N', 'C', 'H', 'W'])));
  const outputs = await runGraph(model, paintPixels(4, side), side);
  for (const stage of stages) {
    const largest = (outputs[stage] as Float32Array).reduce((max, value) => Math.max(max, value), 0);
    expect(largest, stage).toBeGreaterThan(1);
    expect(largest, stage).toBeLessThan(200);
  }
  const row = (image: number) => outputs.embedding?.slice(image * 2048, (image + 1) * 2048) ?? [];
  for (const [a, b] of [
    [0, 1],
    [0, 2],
    [1, 3],
    [2, 3],
  ] as const)
    expect(cosine(row(a), row(b))).toBeLessThan(0.985);
});

test('the null model answers from the pixels and says that it is none', async () => {
  const model = await resolveModel('null', { ...options, preprocessing: {} });
  expect(model.identity).toMatchObject({ architecture: 'null', untrained: true, dimension: 2048 });
  const pixels = paintPixels(2, 224);
  const path = await buildOnnx(model, { topK: 5 });
  const { embedding = [], scores, labels = [] } = await runGraph(path, pixels, 224);
  expect(embedding).toHaveLength(2 * 2048);
  const sample = Float32Array.from({ length: 2048 }, (_, i) => pixels[224 * 224 * 3 + 73 * i] as number);
  expect(embedding.slice(2048)).toEqual(sample);
  expect(scores).toHaveLength(10);
  expect(embedding[labels[0] as number]).toBe(Math.max(...embedding.slice(0, 1000)));
  const tiny = await resolveModel('null', { ...options, preprocessing: { crop: 16 } });
  expect(() => tiny.build(5)).toThrow(expect.objectContaining({ code: 'bad-crop' }));
});

/** What torch.onnx.export makes of a small classifier, in the ways that exports differ. */
interface ExportStyle {
  type: 'float32' | 'float16';
  batch: number | string;
  last: 'Gemm' | 'MatMul' | 'Relu';
  softmax: boolean;
  reshape?: number;
  opset: number;
}

const plain: ExportStyle = { type: 'float32', batch: 'batch', last: 'Gemm', softmax: false, opset: 17 };
const classes = 11;
const channels = 8;

function exportClassifier(style: ExportStyle): Buffer {
  const constant = (name: string, dims: number[]): onnx.ITensorProto => {
    const values = Float32Array.from(
      { length: dims.reduce((a, b) => a * b, 1) },
      (_, index) => Math.sin(index) / 8,
    );
    const raw = style.type === 'float16' ? toHalf(values) : values;
    return { name, dims, dataType: style.type === 'float16' ? 10 : 1, rawData: new Uint8Array(raw.buffer) };
  };
  const ints = (name: string, values: number[]) => ({ name, type: 7, ints: values });
  const node = (opType: string, input: string[], output: string, attribute: onnx.IAttributeProto[] = []) => ({
    opType,
    input,
    output: [output],
    name: `/${output}`,
    attribute,
  });
  const transposed = style.last === 'Gemm';
  const last = {
    Gemm: [
      node('Gemm', ['embedding', 'fc.weight', 'fc.bias'], 'scores', [{ name: 'transB', type: 2, i: 1 }]),
    ],
    MatMul: [
      node('MatMul', ['embedding', 'fc.weight'], 'product'),
      node('Add', ['fc.bias', 'product'], 'scores'),
    ],
    Relu: [node('Relu', ['embedding'], 'scores')],
  }[style.last];
  const shape = {
    name: 'shape',
    dims: [2],
    dataType: 7,
    rawData: new Uint8Array(BigInt64Array.of(BigInt(style.reshape ?? 0), -1n).buffer),
  };
  return Buffer.from(
    onnxProto.onnx.ModelProto.encode({
      irVersion: 8,
      opsetImport: [{ domain: '', version: style.opset }],
      graph: {
        name: 'main_graph',
        // Its names are those of our own tensors, to show that they may be.
        input: [valueInfo('images', style.type, [style.batch, 3, 32, 32])],
        output: [valueInfo(style.softmax ? 'answer' : 'scores', style.type, [style.batch, classes])],
        node: [
          node('Conv', ['images', 'conv.weight'], 'mean', [
            ints('kernel_shape', [3, 3]),
            ints('pads', [1, 1, 1, 1]),
          ]),
          node('Relu', ['mean'], 'k'),
          node('GlobalAveragePool', ['k'], 'pooled'),
          style.reshape === undefined
            ? node('Flatten', ['pooled'], 'embedding')
            : node('Reshape', ['pooled', 'shape'], 'embedding'),
          ...last,
          ...(style.softmax
            ? [node('Softmax', ['scores'], 'answer', [{ name: 'axis', type: 2, i: 1 }])]
            : []),
        ],
        initializer: [
          constant('conv.weight', [channels, 3, 3, 3]),
          constant('fc.weight', transposed ? [classes, channels] : [channels, classes]),
          constant('fc.bias', [classes]),
          shape,
        ],
      },
    }).finish(),
  );
}

test.each<[string, Partial<ExportStyle>]>([
  ['with a Gemm', {}],
  ['with MatMul and Add', { last: 'MatMul' }],
  ['that ends in a softmax', { softmax: true }],
  ['for a batch of one', { batch: 1 }],
  ['with a Reshape that keeps the batch', { batch: 1, reshape: 0 }],
  ['in float16', { type: 'float16' }],
])(
  'an ONNX classifier from elsewhere, %s, gives its own numbers through our inputs and outputs',
  async (name, change) => {
    const style = { ...plain, ...change };
    const path = join(folder, `${name}.onnx`);
    const bytes = exportClassifier(style);
    writeFileSync(path, bytes);
    const precision = style.type === 'float16' ? 'fp16' : 'fp32';
    const model = await resolveModel(path, { ...options, precision, preprocessing: {} });
    expect(model.identity).toMatchObject({
      architecture: 'onnx',
      dimension: channels,
      classes,
      untrained: false,
    });
    expect(model.identity.preprocessing).toMatchObject({ crop: 32, resize: 36 });
    expect(model.parameters).toBe(channels * 27 + channels * classes + classes);

    const pixels = paintPixels(2, 32);
    const wrapped = await runGraph(await buildOnnx(model, { topK: 3 }), pixels, 32);
    const images = new Tensor('float32', normalise(pixels.subarray(0, 32 * 32 * 3), 32), [1, 3, 32, 32]);
    const [answer = []] = Object.values(
      await runOnnx(exportClassifier({ ...style, type: 'float32' }), { images }),
    );
    const exps = Array.from(answer, (value) => (style.softmax ? value : Math.exp(value)));
    const sum = exps.reduce((a, b) => a + b, 0);
    const best = [...exps.entries()].toSorted((a, b) => b[1] - a[1]).slice(0, 3);
    expect([...(wrapped.labels?.slice(0, 3) ?? [])]).toEqual(best.map(([index]) => index));
    const scores = best.map(([, value]) => value / sum);
    // float16 has 11 bits, and a few roundings add up.
    expect(relativeError(wrapped.scores?.slice(0, 3) ?? [], scores)).toBeLessThan(
      style.type === 'float16' ? 5e-3 : 1e-5,
    );
    expect(wrapped.embedding).toBeInstanceOf(Float32Array);
    expect(wrapped.embedding).toHaveLength(2 * channels);
    expect(wrapped.embedding?.some((value) => value > 0)).toBe(true);
    expect(describeModel(model).ops).toMatchObject({ Conv: 1, Softmax: 1, TopK: 1 });
  },
);

test.each<[string, Partial<ExportStyle>, RegExp]>([
  ['no last matrix', { last: 'Relu' }, /made by Relu/],
  [
    'a batch fixed by a Reshape',
    { batch: 1, reshape: 1 },
    /Reshape to \[1,-1\]\); export it with dynamic_axes/,
  ],
  ['an old opset', { opset: 9 }, /opset 9/],
])(
  'an ONNX file that cannot be wrapped says what was found and what is needed: %s',
  async (name, change, message) => {
    const path = join(folder, `${name}.onnx`);
    writeFileSync(path, exportClassifier({ ...plain, ...change }));
    const resolving = resolveModel(path, { ...options, preprocessing: {} });
    await expect(resolving).rejects.toMatchObject({
      code: 'unsupported-onnx',
      message: expect.stringMatching(message),
    });
    await expect(resolving).rejects.toThrow('[N,3,S,S]');
  },
);

test('a foreign graph keeps its precision and its side', async () => {
  const path = join(folder, 'fixed.onnx');
  writeFileSync(path, exportClassifier(plain));
  const half = { ...options, precision: 'fp16', preprocessing: {} } as const;
  await expect(resolveModel(path, half)).rejects.toMatchObject({ code: 'wrong-precision' });
  await expect(resolveModel(path, options)).rejects.toMatchObject({ code: 'wrong-preprocessing' });
});

test('a file that is no ONNX says so', async () => {
  const path = join(folder, 'text.onnx');
  for (const content of ['', 'not an ONNX file', '{"json": true}']) {
    writeFileSync(path, content);
    await expect(resolveModel(path, options)).rejects.toMatchObject({ code: 'bad-onnx' });
  }
});

test('our own file with damaged metadata is refused, not wrapped', async () => {
  const path = join(folder, 'damaged.onnx');
  const model = await resolveModel(ref, options);
  await writeOnnx(model, path, { topK: 5 });
  const graph = model.build(5);
  graph.proto.metadataProps = [{ key: 'lensmill', value: '{"builder": 1}' }];
  writeFileSync(path, onnxProto.onnx.ModelProto.encode(graph.proto).finish());
  await expect(resolveModel(path, options)).rejects.toMatchObject({ code: 'bad-onnx' });
});

/** uint8 [side,side,3] → float32 [3,side,side], as torchvision's ToTensor and Normalize make it. */
function normalise(pixels: Uint8Array, length: number): Float32Array {
  const { mean, std } = imagenetPreprocessing;
  const area = length * length;
  return Float32Array.from({ length: 3 * area }, (_, at) => {
    const channel = Math.floor(at / area);
    return (
      ((pixels[3 * (at % area) + channel] as number) / 255 - (mean[channel] as number)) /
      (std[channel] as number)
    );
  });
}
