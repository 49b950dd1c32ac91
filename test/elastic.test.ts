/** What becomes of a batch that is too large for the device's memory. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, test } from 'vitest';
import { cpu } from '../src/devices/cpu.ts';
import { openElasticSession } from '../src/elastic.ts';
import { isOutOfMemory, OutOfMemory, openSession, type Session } from '../src/infer.ts';
import { buildOnnx, resolveModel } from '../src/models/model.ts';
import type { BatchResult } from '../src/types.ts';
import { paintPixels, relativeError } from './helpers/graphs.ts';
import { tempFolder } from './helpers/temp.ts';

const crop = 224;
const batch = 10;
const arenaSays =
  "Non-zero status code returned while running Conv node. Name:'relu' Status Message: bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 939524096";

let modelPath: string;
let pixels: Uint8Array;
let expected: BatchResult;

beforeAll(async () => {
  const model = await resolveModel('random:0:1-1-1-1', {
    cacheDir: tempFolder(),
    resizeMode: 'exact',
    precision: 'fp32',
  });
  modelPath = await buildOnnx(model, { topK: 5 });
  pixels = paintPixels(batch, crop);
  const session = await open(batch);
  expected = await session.run(pixels);
  await session.release();
});

function open(size: number): Promise<Session> {
  return openSession({ modelPath, device: cpu, batch: size, crop, threads: 1 });
}

/** A session that has `fits(run)` images' worth of memory in its `run`th run of all. */
function openOnSmallDevice(fits: (run: number) => number) {
  const notices: string[] = [];
  const sizes: number[] = [];
  let openSessions = 0;
  const elastic = openElasticSession({
    batch,
    deviceName: 'cuda:0',
    onSmaller: (notice) => notices.push(notice),
    async open(size) {
      const session = await open(size);
      openSessions += 1;
      return {
        async run(images) {
          if (size > fits(sizes.length)) throw new OutOfMemory(new Error(arenaSays));
          sizes.push(size);
          return session.run(images);
        },
        async release() {
          openSessions -= 1;
          await session.release();
        },
      };
    },
  });
  return { elastic, notices, sizes, openSessions: () => openSessions };
}

/** Other sizes of batch add in another order: float32 keeps about seven digits. */
function expectSame(result: BatchResult): void {
  expect(relativeError(result.embeddings, expected.embeddings)).toBeLessThan(1e-5);
  expect(relativeError(result.scores, expected.scores)).toBeLessThan(1e-5);
  expect(result.labels).toEqual(expected.labels);
}

test('a batch that is too large for the device is done in pieces, to the same result', async () => {
  const { elastic, notices, sizes, openSessions } = openOnSmallDevice(() => 4);
  const session = await elastic;
  expect(session.batch).toBe(10);
  expectSame(await session.run(pixels));
  expectSame(await session.run(pixels));
  expect(session.batch).toBe(2);
  expect(sizes).toEqual(Array(10).fill(2));
  expect(notices).toEqual([
    'cuda:0 has too little memory for 10 images at a time, going on with 5: --batch 5 starts so',
    'cuda:0 has too little memory for 10 images at a time, going on with 2: --batch 2 starts so',
  ]);
  expect(openSessions()).toBe(1);
  await session.release();
  await session.release();
  expect(openSessions()).toBe(0);
});

test('where memory runs out in the middle of a batch, what is done stays done', async () => {
  const { elastic, sizes } = openOnSmallDevice((run) => (run === 0 ? 5 : 3));
  const session = await elastic;
  expectSame(await session.run(pixels));
  expect(sizes).toEqual([5, 2, 2, 2]);
  await session.release();
});

test('a session too large to be opened is opened smaller', async () => {
  const session = await openElasticSession({
    batch,
    deviceName: 'cuda:0',
    onSmaller: () => undefined,
    open: (size) =>
      size > 3
        ? Promise.reject(new OutOfMemory(new Error('CUDA failure 2: out of memory ; GPU=0')))
        : open(size),
  });
  expect(session.batch).toBe(2);
  expectSame(await session.run(pixels));
  await session.release();
});

test('a device that cannot hold one image is an error that says what to type', async () => {
  const { elastic, openSessions } = openOnSmallDevice(() => 0);
  await expect((await elastic).run(pixels)).rejects.toMatchObject({
    code: 'device-failed',
    message: expect.stringMatching(/Failed to allocate.*--batch.*--sessions 1.*--precision fp16/),
  });
  expect(openSessions()).toBe(0);
});

test('any other failure is not taken for a lack of memory', async () => {
  const session = await openElasticSession({
    batch,
    deviceName: 'cpu',
    onSmaller: () => undefined,
    open: async () => ({ run: () => Promise.reject(new Error('a bug')), release: async () => undefined }),
  });
  await expect(session.run(pixels)).rejects.toThrow('a bug');
  expect(session.batch).toBe(batch);
});

test('every way in which ONNX Runtime says that memory is short is known', () => {
  for (const message of [
    arenaSays,
    'CUDA failure 2: out of memory ; GPU=0 ; expr=cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);',
    'CUDA_ERROR_OUT_OF_MEMORY',
    'CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);',
    'CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED',
    'CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED',
    'Exception during initialization: std::bad_alloc',
    'Exception during initialization: bad allocation',
    'Array buffer allocation failed',
  ]) {
    expect(isOutOfMemory(new Error(message)), message).toBe(true);
  }
  for (const message of [
    'CUDA failure 700: an illegal memory access was encountered',
    'Invalid rank for input',
  ])
    expect(isOutOfMemory(new Error(message)), message).toBe(false);
  expect(new OutOfMemory(new Error(arenaSays)).message).toBe(
    'Failed to allocate memory for requested buffer of size 939524096',
  );
});

const prlimit = ['/usr/bin/prlimit', '/bin/prlimit'].find((path) => existsSync(path));

test.skipIf(!prlimit)(
  'an inference thread that may not have its memory goes on with less (needs prlimit)',
  async () => {
    const script = join(import.meta.dirname, 'helpers/short-of-memory.ts');
    const { stdout } = await promisify(execFile)(process.execPath, [script, tempFolder()]);
    const { batch: left, notice, difference } = JSON.parse(stdout) as Record<string, unknown>;
    expect(left).toBeGreaterThanOrEqual(1);
    expect(left).toBeLessThanOrEqual(512);
    expect(notice).toBe(
      `cpu has too little memory for 1024 images at a time, going on with ${left}: --batch ${left} starts so`,
    );
    expect(difference).toBeLessThan(1e-5);
  },
);
