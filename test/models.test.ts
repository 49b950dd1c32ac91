/** What models are made of: architectures, weights files, random weights, identities. */
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fromBfloat, fromHalf, toHalf } from '../src/models/half.ts';
import { identify } from '../src/models/identity.ts';
import { labelsOf } from '../src/models/labels.ts';
import {
  buildOnnx,
  describeModel,
  type ResolveOptions,
  resolveModel,
  writeOnnx,
  writeSafetensors,
} from '../src/models/model.ts';
import { findPreset, presets } from '../src/models/presets.ts';
import { randomTensors } from '../src/models/random.ts';
import { encodeSafetensors, openSafetensors } from '../src/models/safetensors.ts';
import { countParameters, listConvs, parseArchitecture, type Tensor } from '../src/models/spec.ts';
import { runGraph } from './helpers/graphs.ts';
import { tempFolder } from './helpers/temp.ts';

const folder = tempFolder();
const options: ResolveOptions = { cacheDir: join(folder, 'cache'), resizeMode: 'exact', precision: 'fp32' };
const small = parseArchitecture('1-1-1-1');

test.each([
  ['resnet50', 25_557_032, 53, 4.09],
  ['resnet101', 44_549_160, 104, 7.8],
  ['resnet152', 60_192_808, 155, 11.5],
])("%s has torchvision's parameters, convolutions and cost", async (name, parameters, convs, gmac) => {
  const model = await resolveModel(`random:0:${name}`, options);
  const described = describeModel(model);
  expect(described.parameters).toBe(parameters);
  expect(described.ops).toMatchObject({ Conv: convs, GlobalAveragePool: 1, Gemm: 1, Softmax: 1, TopK: 1 });
  expect(described.ops).not.toHaveProperty('BatchNormalization');
  expect(described.gmac).toBeCloseTo(gmac, 1);
});

test('the stride of a stage sits on its first 3×3 and on its shortcut', () => {
  const strided = listConvs(parseArchitecture('resnet50')).filter(({ stride }) => stride === 2);
  const stages = [2, 3, 4].flatMap((stage) => [`layer${stage}.0.conv2`, `layer${stage}.0.downsample.0`]);
  expect(strided.map(({ conv }) => conv)).toEqual(['conv1', ...stages]);
});

test('the labels are torchvision’s, name by name', () => {
  // `make.py labels` in test/reference prints both numbers.
  expect(labelsOf(1000)).toHaveLength(1000);
  const hash = createHash('sha256').update(labelsOf(1000).join('\n')).digest('hex');
  expect(hash).toBe('0b0f9fee7c952f257418d62aa701f023a9da13b443a14f5c4291e5724d92967c');
  expect(labelsOf(2)).toEqual(['class 0', 'class 1']);
});

test('float16 keeps what it can and rounds the rest to even', () => {
  const pairs: [number, number][] = [
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [65519.99, 0x7bff],
    [65520, 0x7c00],
    [2 ** -24, 1],
    [2 ** -25, 0],
    [1.5 * 2 ** -24, 2],
    [2 ** -14, 0x0400],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [-0, 0x8000],
    [Number.POSITIVE_INFINITY, 0x7c00],
  ];
  expect([...toHalf(Float32Array.from(pairs, ([value]) => value))]).toEqual(pairs.map(([, half]) => half));
  expect(toHalf(Float32Array.of(Number.NaN))[0]).toBe(0x7e00);
  const finite = Uint16Array.from({ length: 65536 }, (_, half) => half).filter(
    (half) => (half & 0x7c00) !== 0x7c00,
  );
  expect(toHalf(fromHalf(finite))).toEqual(finite);
  expect([...fromBfloat(Uint16Array.of(0x3f80, 0xc0a0))]).toEqual([1, -5]);
});

test('random weights follow from their seed alone', () => {
  const hash = (seed: string) => {
    const sum = createHash('sha256');
    for (const chunk of encodeSafetensors(randomTensors(seed, small))) sum.update(chunk);
    return sum.digest('hex');
  };
  expect(hash('0')).toBe(hash('0'));
  expect(hash('0')).not.toBe(hash('1'));
  const tensors = randomTensors('0', small);
  const weights = (tensors.get('layer4.0.conv2.weight') as Tensor).read();
  const variance = weights.reduce((sum, weight) => sum + weight ** 2, 0) / weights.length;
  expect(variance * 512 * 9).toBeCloseTo(3, 1); // 3/fan-in over 2.4 million weights
});

test('a safetensors file comes back as it was written', async () => {
  const path = join(folder, 'small.safetensors');
  await writeSafetensors(await resolveModel('random:3:1-1-1-1', options), path);
  const written = randomTensors('3', small);
  const found = openSafetensors(path);
  expect([...found.keys()].toSorted()).toEqual([...written.keys()].toSorted());
  for (const [name, { shape, read }] of written) {
    expect(found.get(name)?.shape, name).toEqual(shape);
    const bytes = new Uint8Array((found.get(name) as Tensor).read().buffer);
    expect(Buffer.compare(bytes, new Uint8Array(read().buffer)), name).toBe(0);
  }
  expect(readdirSync(folder).filter((name) => name.endsWith('.part'))).toEqual([]);
});

test('halves and bfloats are read as the numbers that they are', () => {
  const path = writeRaw('halves', { a: ['F16', [2], [0x3c00, 0xc000]], b: ['BF16', [1, 1], [0x3f80]] });
  const tensors = openSafetensors(path);
  expect([...(tensors.get('a') as Tensor).read()]).toEqual([1, -2]);
  expect(tensors.get('b')?.shape).toEqual([1, 1]);
  expect([...(tensors.get('b') as Tensor).read()]).toEqual([1]);
});

test.each<[string, Buffer, RegExp]>([
  ['empty', Buffer.alloc(0), /0 bytes/],
  ['a header longer than the file', safetensorsBytes('{}', 0, 1000n), /truncated/],
  ['an endless header', safetensorsBytes('{}', 0, 1n << 60n), /claims/],
  ['no JSON', safetensorsBytes('{"a"', 0), /not JSON/],
  ['no object', safetensorsBytes('[1]', 0), /not an object/],
  ['no shape', safetensorsBytes('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), /'a'/],
  ['an unknown type', safetensorsBytes('{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', 4), /F31/],
  [
    'a range that does not fit the shape',
    safetensorsBytes('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', 4),
    /needs 8/,
  ],
  [
    'truncated data',
    safetensorsBytes('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 7),
    /truncated/,
  ],
  ['a hole', safetensorsBytes('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8), /hole/],
])('a file that is no safetensors says why: %s', (name, bytes, reason) => {
  const path = join(folder, `${name}.safetensors`);
  writeFileSync(path, bytes);
  expect(() => openSafetensors(path)).toThrow(expect.objectContaining({ code: 'bad-safetensors' }));
  expect(() => openSafetensors(path)).toThrow(reason);
  expect(() => openSafetensors(path)).toThrow(path);
});

test.each<[string, string, (tensors: Map<string, Tensor>) => void, RegExp]>([
  [
    'missing-tensor',
    'a tensor is missing',
    (tensors) => tensors.delete('layer3.0.bn2.running_var'),
    /'layer3\.0\.bn2\.running_var' \[256\]/,
  ],
  [
    'missing-tensor',
    'a stage is missing',
    (tensors) => tensors.delete('layer4.0.conv1.weight'),
    /'layer4\.0\.conv1\.weight' \[512,1024,1,1\]/,
  ],
  [
    'misshapen-tensor',
    'a basic block',
    (tensors) => tensors.set('layer1.0.conv1.weight', tensorOf([64, 64, 3, 3])),
    /'layer1\.0\.conv1\.weight' \[64,64,1,1\]; found \[64,64,3,3\]/,
  ],
  [
    'unexpected-tensor',
    'another network',
    (tensors) => tensors.set('layer1.0.se.fc1.weight', tensorOf([4])),
    /'layer1\.0\.se\.fc1\.weight'; found one \[4\]/,
  ],
])('%s names the tensor and both shapes: %s', async (code, name, damage, message) => {
  const tensors = new Map(randomTensors('0', small));
  damage(tensors);
  const path = join(folder, `${name}.safetensors`);
  writeFileSync(path, Buffer.concat([...encodeSafetensors(tensors)]));
  const resolving = resolveModel(path, options);
  await expect(resolving).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
});

test('depths and classes are read off the tensors; batch counters are ignored', async () => {
  const tensors = new Map(randomTensors('0', { ...parseArchitecture('1-2-1-1'), classes: 7 }));
  tensors.set('bn1.num_batches_tracked', tensorOf([]));
  const path = join(folder, 'seven.safetensors');
  writeFileSync(path, Buffer.concat([...encodeSafetensors(tensors)]));
  const model = await resolveModel(path, options);
  expect(model.identity).toMatchObject({ architecture: 'resnet-1-2-1-1', classes: 7, untrained: false });
  expect(model.parameters).toBe(countParameters({ ...parseArchitecture('1-2-1-1'), classes: 7 }));
  expect(model.identity.weights).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'));
  expect(() => model.build(8)).toThrow(expect.objectContaining({ code: 'bad-top-k' }));
});

test.each(['fp32', 'fp16'] as const)(
  'a number that %s cannot hold names its tensor when the graph is written',
  async (precision) => {
    const tensors = new Map(randomTensors('0', small));
    const norm = tensors.get('layer2.0.bn1.weight') as Tensor;
    const value = precision === 'fp16' ? 1e8 : Number.NaN;
    tensors.set('layer2.0.bn1.weight', { ...norm, read: () => norm.read().fill(value, 3, 4) });
    const path = join(folder, `bad-${precision}.safetensors`);
    writeFileSync(path, Buffer.concat([...encodeSafetensors(tensors)]));
    const model = await resolveModel(path, { ...options, precision });
    const built = buildOnnx(model, { topK: 1 });
    await expect(built).rejects.toMatchObject({
      code: 'bad-weights',
      message: expect.stringMatching(/layer2\.0\.conv1/),
    });
    expect(readdirSync(join(options.cacheDir, 'graphs')).filter((name) => name.endsWith('.part'))).toEqual(
      [],
    );
  },
);

test('a fingerprint tells apart what makes other numbers, and nothing else', async () => {
  const fingerprint = async (ref: string, changes: Partial<ResolveOptions> = {}) =>
    (await resolveModel(ref, { ...options, ...changes })).identity.fingerprint;
  const base = await fingerprint('random:0:1-1-1-1');
  expect(await fingerprint('random:0:resnet-1-1-1-1', { cacheDir: '/elsewhere' })).toBe(base);
  const others = await Promise.all([
    fingerprint('random:1:1-1-1-1'),
    fingerprint('random:0:1-1-1-2'),
    fingerprint('random:0:1-1-1-1', { precision: 'fp16' }),
    fingerprint('random:0:1-1-1-1', { resizeMode: 'fast' }),
    fingerprint('random:0:1-1-1-1', { preprocessing: { interpolation: 'bicubic' } }),
  ]);
  expect(new Set([base, ...others]).size).toBe(6);
  const { identity } = await resolveModel('random:0:1-1-1-1', options);
  const { ref, fingerprint: _, weights, ...rest } = identity;
  expect(identify({ ...rest, ref: 'any', weights }).fingerprint).toBe(base); // the order of fields does not count
});

test('a graph is built once and named by what is in it', async () => {
  const model = await resolveModel('random:0:1-1-1-1', options);
  const path = await buildOnnx(model, { topK: 5 });
  const { mtimeMs } = statSync(path);
  expect(await buildOnnx(await resolveModel('random:0:1-1-1-1', options), { topK: 5 })).toBe(path);
  expect(statSync(path).mtimeMs).toBe(mtimeMs);
  expect(await buildOnnx(model, { topK: 3 })).not.toBe(path);
});

test('an .onnx file of ours is recognised: same numbers, same fingerprint, any top-k', async () => {
  const model = await resolveModel('random:5:1-1-1-1', { ...options, preprocessing: { crop: 64 } });
  const path = join(folder, 'mine.onnx');
  await writeOnnx(model, path, { topK: 5 });

  const again = await resolveModel(path, options);
  expect(again.identity).toEqual({ ...model.identity, ref: path });
  expect(again.parameters).toBe(model.parameters);
  expect(again.fileSha256).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'));
  expect(await buildOnnx(again, { topK: 5 })).toBe(path);

  const other = await buildOnnx(again, { topK: 2 });
  const pixels = new Uint8Array(64 * 64 * 3).map((_, index) => (index * index) % 251);
  const [five, two] = [await runGraph(path, pixels, 64), await runGraph(other, pixels, 64)];
  expect(two.embedding).toEqual(five.embedding);
  expect(two.labels).toEqual(five.labels?.slice(0, 2));

  const fast = await resolveModel(path, { ...options, resizeMode: 'fast' });
  expect(fast.identity.fingerprint).not.toBe(model.identity.fingerprint);
  expect(await buildOnnx(fast, { topK: 5 })).not.toBe(path);
  await expect(resolveModel(path, { ...options, precision: 'fp16' })).rejects.toMatchObject({
    code: 'wrong-precision',
  });
  const crop = { ...options, preprocessing: { crop: 224 } };
  await expect(resolveModel(path, crop)).rejects.toMatchObject({ code: 'wrong-preprocessing' });
});

test.each([
  ['resnext', 'unknown-model', /timm\/resnet152\.tv_in1k.*random:SEED/],
  ['random:x', 'unknown-model', /random:SEED/],
  ['random:0:resnet18', 'unknown-architecture', /resnet152/],
  ['nowhere/weights.safetensors', 'no-model-file', /nowhere/],
  ['nowhere/model.onnx', 'no-model-file', /nowhere/],
])('%s is refused with the choices', async (ref, code, message) => {
  await expect(resolveModel(ref, options)).rejects.toMatchObject({
    code,
    message: expect.stringMatching(message),
  });
});

test('a folder is not a weights file', async () => {
  const path = join(folder, 'folder.safetensors');
  mkdirSync(path);
  await expect(resolveModel(path, options)).rejects.toMatchObject({ code: 'no-model-file' });
});

test('a cache that cannot be written is named', async () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  const model = await resolveModel('random:0:1-1-1-1', { ...options, cacheDir: file });
  const message = expect.stringContaining(file);
  await expect(buildOnnx(model, { topK: 1 })).rejects.toMatchObject({ code: 'unwritable', message });
});

test('presets go by their names and aliases, each by one preset only', () => {
  expect(findPreset('resnet152')).toBe(presets[0]);
  expect(findPreset('timm/resnet152.a1h_in1k')?.preprocessing).toMatchObject({
    resize: 235,
    interpolation: 'bicubic',
  });
  const names = presets.flatMap(({ name, aliases }) => [name, ...aliases]);
  expect(new Set(names).size).toBe(names.length);
});

function tensorOf(shape: number[]): Tensor {
  return { shape, read: () => new Float32Array(shape.reduce((product, length) => product * length, 1)) };
}

function safetensorsBytes(header: string, dataBytes: number, length = BigInt(header.length)): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(length);
  return Buffer.concat([head, Buffer.from(header), Buffer.alloc(dataBytes)]);
}

function writeRaw(
  name: string,
  tensors: Record<string, [dtype: string, shape: number[], words: number[]]>,
): string {
  let offset = 0;
  const entries = Object.entries(tensors).map(([key, [dtype, shape, words]]) => {
    const data_offsets = [offset, offset + 2 * words.length];
    offset += 2 * words.length;
    return [key, { dtype, shape, data_offsets }];
  });
  const path = join(folder, `${name}.safetensors`);
  const words = Object.values(tensors).flatMap(([, , values]) => values);
  const bytes = Buffer.from(Uint16Array.from(words).buffer);
  writeFileSync(
    path,
    Buffer.concat([safetensorsBytes(JSON.stringify(Object.fromEntries(entries)), 0), bytes]),
  );
  return path;
}
