/** Models in bytes: what they are made of, how near they are, and where their calibration comes from. */
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { beforeAll, expect, test } from 'vitest';
import { calibrate } from '../src/calibrate.ts';
import { decodeImage } from '../src/decode.ts';
import { cpu } from '../src/devices/cpu.ts';
import { cuda } from '../src/devices/cuda.ts';
import { requirePrecision } from '../src/devices/device.ts';
import { type Calibration, encodeCalibration, hashCalibration } from '../src/models/calibration.ts';
import { identify, identitySchema } from '../src/models/identity.ts';
import {
  buildOnnx,
  type Model,
  quantiseModel,
  type ResolveOptions,
  resolveModel,
} from '../src/models/model.ts';
import { countOps, decodeOnnx, encodeOnnx } from '../src/models/onnx.ts';
import { imagenetPreprocessing } from '../src/models/presets.ts';
import { quantiseConv } from '../src/models/quantize.ts';
import { findCalibration } from '../src/producer/calibrate.ts';
import { loadModel } from '../src/producer/choose-model.ts';
import { planNewRun, sourceSpecOf } from '../src/producer/plan-run.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { obtainModel } from '../src/weights.ts';
import { smallModel } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { cosine, runGraph } from './helpers/graphs.ts';
import { photographs } from './helpers/photographs.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const folder = tempFolder();
const cacheDir = join(folder, 'cache');
const side = 96;
const options: ResolveOptions = { cacheDir, resizeMode: 'exact', preprocessing: { resize: 110, crop: side } };
const known = 8;
const heldOut = 4;

let smallPhotographs: string[];
let crops: Uint8Array[];
let floats: Model;
let calibration: Calibration;
let bytes: Model;

beforeAll(async () => {
  const preprocessing = { ...imagenetPreprocessing, ...options.preprocessing };
  const paths = (await photographs()).toSorted((a, b) => statSync(a).size - statSync(b).size);
  smallPhotographs = paths.slice(0, known + heldOut);
  crops = await Promise.all(
    smallPhotographs.map(async (path) => {
      const crop = new Uint8Array(side * side * 3);
      await decodeImage(readFileSync(path), crop, { preprocessing, resizeMode: 'exact', maxPixels: 1e7 });
      return crop;
    }),
  );
  floats = await resolveModel(smallModel, options);
  calibration = await calibrate(floats, crops.slice(0, known), { threads: 2 });
  bytes = quantiseModel(floats, calibration);
});

test('every convolution and addition runs on bytes, and nothing between them goes back to floats', async () => {
  const optimizedModelFilePath = join(folder, 'optimised.onnx');
  const path = await buildOnnx(bytes, { topK: 5 });
  const session = await InferenceSession.create(path, { optimizedModelFilePath, logSeverityLevel: 3 });
  await session.release();
  const ops = countOps(decodeOnnx(readFileSync(optimizedModelFilePath), optimizedModelFilePath));
  // One into bytes behind the pixels, one out of them before the mean.
  expect(ops).toMatchObject({ QLinearConv: 17, QLinearAdd: 4, QuantizeLinear: 1, DequantizeLinear: 1 });
  expect(ops).not.toHaveProperty('Conv');
  expect(ops).not.toHaveProperty('Add');
});

test('photographs that were not calibrated on are embedded nearly as in fp32, and alone as in a batch', async () => {
  const pixels = Buffer.concat(crops.slice(known));
  const exact = await runGraph(await buildOnnx(floats, { topK: 5 }), pixels, side);
  const path = await buildOnnx(bytes, { topK: 5 });
  const quick = await runGraph(path, pixels, side);
  const rowOf = (values: ArrayLike<number> = [], row: number) =>
    Array.from(values).slice(row * 2048, (row + 1) * 2048);
  const cosines = crops
    .slice(known)
    .map((_, row) => cosine(rowOf(exact.embedding, row), rowOf(quick.embedding, row)))
    .sort((a, b) => a - b);
  expect(cosines[heldOut >> 1]).toBeGreaterThan(0.99);
  expect(cosines[0]).toBeGreaterThan(0.98); // eight pictures are few

  const alone = await runGraph(path, crops[known + 3] ?? new Uint8Array(), side);
  // Sums of integers are the same in any order.
  expect(Array.from(alone.embedding ?? [])).toEqual(rowOf(quick.embedding, 3));
});

test('ranges do not depend on the order of the images; the same ranges make the same file', async () => {
  const again = await calibrate(floats, crops.slice(0, known).reverse(), { threads: 1 });
  expect(again).toEqual(calibration);
  const graph = readFileSync(await buildOnnx(bytes, { topK: 5 }));
  expect(Buffer.concat([...encodeOnnx(quantiseModel(floats, again).build(5))]).equals(graph)).toBe(true);
});

test('a fingerprint tells calibrations apart, and is what it was where there is none', async () => {
  const [tensor = '', [low, high] = [0, 1]] = Object.entries(calibration.ranges)[0] ?? [];
  const wider = { ...calibration, ranges: { ...calibration.ranges, [tensor]: [low, 2 * high] as const } };
  const prints = [floats, bytes, quantiseModel(floats, wider)].map(({ identity }) => identity.fingerprint);
  expect(new Set(prints).size).toBe(3);
  const more = quantiseModel(floats, { ...calibration, images: 99 });
  expect(more.identity.fingerprint).toBe(bytes.identity.fingerprint);

  // As lensmill wrote it before there was int8.
  const { calibration: _, ...old } = makeRequest('old').model;
  const { fingerprint, ...read } = identitySchema.parse(old);
  expect(identify(read).fingerprint).toBe(fingerprint);
  expect(fingerprint).toBe('9c46a46557523ae002247a7feac380fd0aebb438b25e1f9f9be49b9916e4a3e7');
});

test('what cannot be quantised is refused, and says what can', async () => {
  const int8 = { ...options, precision: 'int8' } as const;
  await expect(resolveModel('null', int8)).rejects.toMatchObject({ code: 'wrong-precision' });
  await expect(resolveModel(smallModel, int8)).rejects.toMatchObject({ code: 'no-calibration' });
  const other = { ...int8, calibration };
  await expect(resolveModel('random:1:1-1-1-1', other)).rejects.toMatchObject({ code: 'wrong-calibration' });
  const few = calibrate(floats, crops.slice(0, 7), { threads: 1 });
  await expect(few).rejects.toMatchObject({ code: 'few-images' });
  expect(() => requirePrecision(cuda(0), 'int8')).toThrow(expect.objectContaining({ code: 'wrong-device' }));
  requirePrecision(cpu, 'int8');

  const damaged = join(folder, 'damaged.json');
  writeFileSync(damaged, encodeCalibration({ ...calibration, ranges: { relu: [0, 0] } }));
  const context = contextOf({ model: smallModel, precision: 'int8', calibration: damaged, cacheDir });
  await expect(loadModel(context)).rejects.toMatchObject({ code: 'bad-calibration' });
});

test('an .onnx keeps its own precision and needs no calibration', async () => {
  const path = await buildOnnx(bytes, { topK: 5 });
  const own = await loadModel(contextOf({ model: path, cacheDir }));
  expect(own.identity).toEqual({ ...bytes.identity, ref: path });
  await expect(loadModel(contextOf({ model: path, precision: 'fp32', cacheDir }))).rejects.toMatchObject({
    code: 'wrong-precision',
  });
});

test('a channel that training has switched off keeps its bias', () => {
  const weights = Float32Array.of(1e-20, -2e-20, 0.5, -1, 0, 0);
  const {
    weights: packed,
    bias,
    biasScales,
  } = quantiseConv('conv', weights, Float32Array.of(3, -0.25, 0), 0.02);
  expect([...packed]).toEqual([0, 0, 64, -127, 0, 0]);
  const kept = Array.from(bias, (value, output) => value * (biasScales[output] ?? 0));
  expect(kept[0]).toBeCloseTo(3, 5);
  expect(kept[1]).toBeCloseTo(-0.25, 3); // half a step of 1/127 · 0.02
  expect(kept[2]).toBe(0);
});

test('a run is calibrated on its source; the next one of the output goes by the same ranges', async () => {
  const photos = tempFolder();
  for (const path of smallPhotographs.slice(0, 8)) copyFileSync(path, join(photos, basename(path)));
  writeFileSync(join(photos, 'broken.jpg'), 'not a picture');
  const store = await newStore();
  const lines: string[] = [];
  const flags = { model: smallModel, precision: 'int8', device: 'cpu', cacheDir };
  const first = await planNewRun(contextOf(flags, lines), store, [photos], { run: 'first' });
  expect(first.model).toMatchObject({
    precision: 'int8',
    calibration: expect.stringMatching(/^[0-9a-f]{64}$/),
  });
  expect(lines.join('')).toMatch(/"images":8,"skipped":1,.*"calibrated"/);

  const second = await planNewRun(contextOf(flags, lines), store, [photos], { run: 'second' });
  expect(second.model).toEqual(first.model);
  expect(lines.join('')).toMatch(/"from":"run first".*"calibration found"/);

  // A worker elsewhere has the store and nothing else.
  await obtainModel(store, first, { cacheDir: tempFolder() }); // throws where its model is another one

  // A file that is given goes before what the output has.
  const file = join(folder, 'ranges.json');
  writeFileSync(file, encodeCalibration(calibration));
  const asked = contextOf({ ...flags, calibration: file });
  const source = await sourceSpecOf(asked.settings, [photos]);
  expect(hashCalibration(await findCalibration(asked, floats, { source, store }))).toBe(
    bytes.identity.calibration,
  );
});

async function newStore(): Promise<Store> {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  return store;
}
