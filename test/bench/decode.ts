/**
 * What a picture costs before the model sees it: CPU-milliseconds, and pictures a second on all cores.
 *
 *   bare sharp           to raw RGB of full size, and nothing else
 *   sharp, JavaScript    the crop: decoded by sharp, resampled by the reference
 *   sharp, kernel        by the WebAssembly kernel: what `decodeImage` does with sharp
 *   native, kernel       decoded by libjpeg-turbo: what it does where that is built
 *   fast                 `--resize fast`: libvips shrinks while it decodes
 *
 * Each is done by a thread for every core, sharp with several pictures in flight in each; the kinds take turns.
 *
 * node test/bench/decode.ts [FOLDER …]     JPEGs of 500 × 375 and of 12 megapixels, unless folders are given
 */
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import pMap from 'p-map';
import sharp from 'sharp';
import { type DecodeOptions, decodeImage, describeDecoder } from '../../src/decode.ts';
import { javascriptPasses, resampleCrop, rowsOf } from '../../src/pixels/resample.ts';
import { makePhotoArchive } from '../helpers/photo-archive.ts';
import { photographs } from '../helpers/photographs.ts';

const preprocessing = {
  resize: 256,
  crop: 224,
  interpolation: 'bilinear',
  mean: [0, 0, 0],
  std: [1, 1, 1],
} as const;
const options: DecodeOptions = { preprocessing, resizeMode: 'exact', maxPixels: 1e9 };
const rounds = 5;
const inFlight = 3;

type Way = (bytes: Uint8Array, target: Uint8Array) => Promise<unknown>;

const ways: Record<string, Way> = {
  'bare sharp': (bytes) => sharp(bytes).raw().toBuffer(),
  async 'sharp, JavaScript'(bytes, target) {
    const { decodePlainJpeg } = await import('../../src/pixels/sharp.ts');
    const { pixels, width, height } = await decodePlainJpeg(bytes);
    resampleCrop(rowsOf(pixels, width, height), target, preprocessing, javascriptPasses);
  },
  'sharp, kernel': (bytes, target) => decodeImage(bytes, target, { ...options, decoder: 'sharp' }),
  'native, kernel': (bytes, target) => decodeImage(bytes, target, { ...options, decoder: 'native' }),
  fast: (bytes, target) => decodeImage(bytes, target, { ...options, resizeMode: 'fast' }),
};

interface Cost {
  cpuMs: number;
  perSecond: number;
}

/** Measures each way over a folder's JPEGs. */
async function benchDecode(folder: string): Promise<void> {
  const paths = await jpegsIn(folder);
  const bytes = (await Promise.all(paths.map((path) => readFile(path)))).reduce(
    (sum, { length }) => sum + length,
    0,
  );
  const { width, height } = await sharp(await readFile(paths[0] ?? '')).metadata();
  const kilobytes = Math.round(bytes / paths.length / 1e3);
  console.log(`${paths.length} JPEGs of ${kilobytes} kB, the first of ${width} × ${height}`);

  const threads = Array.from({ length: availableParallelism() }, () => {
    const thread = new Worker(new URL(import.meta.url), { workerData: paths });
    thread.setMaxListeners(0);
    return thread;
  });
  const decodeAll = (name: string) =>
    Promise.all(
      threads.map(async (thread) => {
        thread.postMessage(name);
        await once(thread, 'message');
      }),
    );
  const done = paths.length * threads.length;
  const costs = new Map<string, Cost[]>(Object.keys(ways).map((name) => [name, []]));
  for (const name of costs.keys()) await decodeAll(name); // warm
  for (let round = 0; round < rounds; round++) {
    for (const [name, of] of costs) {
      const [before, started] = [process.cpuUsage(), performance.now()];
      await decodeAll(name);
      const { user, system } = process.cpuUsage(before);
      of.push({
        cpuMs: (user + system) / 1e3 / done,
        perSecond: (done / (performance.now() - started)) * 1e3,
      });
    }
  }
  await Promise.all(threads.map((thread) => thread.terminate()));

  const bare = summary(costs.get('bare sharp'));
  console.table(
    Object.fromEntries(
      [...costs].map(([name, of]) => {
        const { cpuMs, perSecond } = summary(of);
        return [
          name,
          {
            'CPU-ms a picture': Number(cpuMs.toFixed(2)),
            'pictures/s a core': Math.round(1e3 / cpuMs),
            'pictures/s': Math.round(perSecond),
            // By CPU time: other work on the machine slows all of them, but not alike.
            '× bare sharp': Number((bare.cpuMs / cpuMs).toFixed(2)),
          },
        ];
      }),
    ),
  );
}

/** The medians of the rounds. */
function summary(costs: readonly Cost[] = []): Cost {
  const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
  return {
    cpuMs: median(costs.map(({ cpuMs }) => cpuMs)),
    perSecond: median(costs.map(({ perSecond }) => perSecond)),
  };
}

async function jpegsIn(folder: string): Promise<string[]> {
  const names = await readdir(folder, { recursive: true });
  return names.filter((name) => /\.jpe?g$/i.test(name)).map((name) => join(folder, name));
}

/** The large photographs at the size of a telephone's camera. */
async function makeCameraPhotos(folder: string, count: number): Promise<void> {
  const large = (await photographs()).filter((path) => path.endsWith('.jpg')).slice(-count);
  for (const [n, path] of large.entries()) {
    const jpeg = sharp(await readFile(path))
      .resize(4000, 3000)
      .jpeg({ quality: 90 });
    await writeFile(join(folder, `${n}.jpg`), await jpeg.toBuffer());
  }
}

async function serve(): Promise<void> {
  const pictures = await Promise.all((workerData as string[]).map((path) => readFile(path)));
  sharp.concurrency(1);
  sharp.cache(false);
  const target = new Uint8Array(new SharedArrayBuffer(preprocessing.crop ** 2 * 3));
  parentPort?.on('message', async (name: string) => {
    await pMap(pictures, (bytes) => ways[name]?.(bytes, target), { concurrency: inFlight });
    parentPort?.postMessage(name);
  });
}

if (!isMainThread) await serve();
else if (import.meta.main) {
  const work = await mkdtemp(join(tmpdir(), 'lensmill-bench-'));
  try {
    const folders = process.argv.slice(2);
    if (folders.length === 0) {
      folders.push(await mkdtemp(join(work, 'web')), await mkdtemp(join(work, 'camera')));
      await makePhotoArchive(folders[0] ?? '', 100);
      await makeCameraPhotos(folders[1] ?? '', 4);
    }
    // After the pictures are made: sharp.ts takes sharp the loaders that they come from.
    const { decoder, passes, notices } = await describeDecoder('auto', 'exact');
    console.log([`${decoder}, ${passes}, ${availableParallelism()} cores`, ...notices].join('; '));
    if (!decoder.startsWith('libjpeg')) delete ways['native, kernel'];
    for (const folder of folders) await benchDecode(folder);
  } finally {
    await rm(work, { recursive: true });
  }
}
