import { once } from 'node:events';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { shareLoaders } from '../src/pixels/loaders.ts';

/** Loads sharp when it is told to, then decodes one picture until all have, and tells how often that failed. */
const thread = `
  const { parentPort, workerData } = require('node:worker_threads');
  const { all, png, module } = workerData;
  import(module).then(async ({ decodeImage }) => {
    const options = { preprocessing: { resize: 8, crop: 8, interpolation: 'bilinear' }, resizeMode: 'exact', maxPixels: 1e6 };
    const decode = () => decodeImage(png, new Uint8Array(192), options);
    parentPort.postMessage('ready');
    await new Promise((resolve) => parentPort.once('message', resolve));
    let failed = 'error' in (await decode()) ? 1 : 0;
    Atomics.add(all, 0, 1);
    parentPort.postMessage('loaded');
    while (Atomics.load(all, 0) < workerData.threads) failed += 'error' in (await decode()) ? 1 : 0;
    parentPort.postMessage(failed);
    parentPort.close();
  });`;

test('a thread that loads sharp does not disturb those that decode', async () => {
  const size = { width: 8, height: 8, channels: 3 as const };
  const png = await sharp({ create: { ...size, background: 'red' } })
    .png()
    .toBuffer();
  const module = pathToFileURL(join(import.meta.dirname, '../src/decode.ts')).href;
  const all = new Int32Array(new SharedArrayBuffer(4));
  shareLoaders();
  const threads = Array.from(
    { length: 5 },
    () => new Worker(thread, { eval: true, workerData: { all, png, module, threads: 5 } }),
  );
  await Promise.all(threads.map((worker) => once(worker, 'message')));
  // One after the other: each loads while those before it decode.
  for (const worker of threads) {
    worker.postMessage('go');
    await once(worker, 'message');
  }
  const failures = await Promise.all(threads.map(async (worker) => (await once(worker, 'message'))[0]));
  expect(failures).toEqual([0, 0, 0, 0, 0]);
});
