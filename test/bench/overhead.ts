/**
 * What the program costs beside the model.
 *
 *   raw         `session.run` on one batch of pixels again and again: nothing that uses this session is faster
 *   index       `lensmill index` over real photographs, from the loaded model to `_SUCCESS.json`
 *   index null  the same with a model that costs nothing: everything that is not the model, per core
 *
 * raw and index take turns, so that both meet the machine's moods; the ratio is of their medians.
 * node test/bench/overhead.ts [--images 480] [--rounds 3] [--model random:0] [FOLDER]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { cpu } from '../../src/devices/cpu.ts';
import { openSession } from '../../src/infer.ts';
import { buildOnnx, resolveModel } from '../../src/models/model.ts';
import { resolveSettings } from '../../src/settings.ts';
import { makePhotoArchive } from '../helpers/photo-archive.ts';

export interface IndexTimes {
  images: number;
  /** From the loaded model to `_SUCCESS.json`. */
  seconds: number;
  /** From typing the command to its end. */
  wholeSeconds: number;
  /** Summed over images. */
  fetchMs: number;
  decodeMs: number;
  inferMs: number;
  writeMs: number;
}

const main = join(import.meta.dirname, '../../src/cli/main.ts');
const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

export async function benchOverhead(options: {
  images: number;
  rounds: number;
  model: string;
  folder?: string | undefined;
}): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    const folder = options.folder ?? join(work, 'photos');
    if (!options.folder) await makePhotoArchive(folder, options.images);
    const { cacheDir } = resolveSettings({}, process.env, {}).values;
    const model = await resolveModel(options.model, { cacheDir, resizeMode: 'exact', precision: 'fp32' });
    const modelPath = await buildOnnx(model, { topK: 5 });

    const raw: number[] = [];
    const index: IndexTimes[] = [];
    const empty: IndexTimes[] = [];
    for (let round = 0; round < options.rounds; round++) {
      raw.push(await rawRate(modelPath, model.identity.preprocessing.crop));
      index.push(await timeIndex(folder, join(work, `index-${round}`), options.model));
      empty.push(await timeIndex(folder, join(work, `null-${round}`), 'null'));
      const { images, seconds } = index.at(-1) as IndexTimes;
      console.error(
        `round ${round + 1}: raw ${raw.at(-1)?.toFixed(2)}, index ${(images / seconds).toFixed(2)} images/s`,
      );
    }

    const rates = index.map(({ images, seconds }) => images / seconds);
    const whole = index.map(({ images, wholeSeconds }) => images / wholeSeconds);
    const nullRates = empty.map(({ images, seconds }) => images / seconds);
    const cores = availableParallelism();
    console.log(
      `${options.model}, ${model.identity.architecture} fp32, batch ${cpu.batch}, ${cores} cores; medians of ${options.rounds}`,
    );
    console.table({
      'raw session.run': { 'images/s': median(raw).toFixed(2), ratio: '1' },
      'lensmill index': {
        'images/s': median(rates).toFixed(2),
        ratio: (median(rates) / median(raw)).toFixed(3),
      },
      '… with start and model load': {
        'images/s': median(whole).toFixed(2),
        ratio: (median(whole) / median(raw)).toFixed(3),
      },
      'lensmill index, null model': { 'images/s': median(nullRates).toFixed(0), ratio: '' },
      '… per core': { 'images/s': (median(nullRates) / cores).toFixed(0), ratio: '' },
    });
    const stages = empty.at(-1) as IndexTimes;
    console.log(
      'stage by stage, null model, ms an image (a lane does several images at once, so waiting counts too):',
    );
    console.table(
      Object.fromEntries(
        (['fetchMs', 'decodeMs', 'inferMs', 'writeMs'] as const).map((stage) => [
          stage.slice(0, -2),
          { 'ms/image': (stages[stage] / stages.images).toFixed(2) },
        ]),
      ),
    );
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Images per second of the session that the worker also opens, for about 15 s. */
async function rawRate(modelPath: string, crop: number): Promise<number> {
  const session = await openSession({ modelPath, device: cpu, batch: cpu.batch, crop, threads: 0 });
  const pixels = new Uint8Array(cpu.batch * crop * crop * 3).map((_, i) => (i * 31) & 255);
  await session.run(pixels);
  const started = performance.now();
  let images = 0;
  while (performance.now() - started < 15_000) {
    await session.run(pixels);
    images += cpu.batch;
  }
  const rate = (images * 1000) / (performance.now() - started);
  await session.release();
  return rate;
}

/** Runs the command as a user would, and reads the rest off its log. */
export async function timeIndex(folder: string, output: string, model: string): Promise<IndexTimes> {
  const started = performance.now();
  const { stdout, stderr } = await execa(
    process.execPath,
    [
      main,
      'index',
      folder,
      '--output',
      output,
      '--model',
      model,
      '--device',
      'cpu',
      '--shard-size',
      '128',
      '--json',
    ],
    { env: { LENSMILL_LOG_LEVEL: 'info' } },
  );
  const wholeSeconds = (performance.now() - started) / 1000;
  const lines = stderr
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line): Record<string, number | string> => JSON.parse(line));
  const timeOf = (msg: string): number => Date.parse(String(lines.find((line) => line.msg === msg)?.time));
  const shards = lines.filter((line) => line.msg === 'shard done');
  const sum = (field: string): number => shards.reduce((total, line) => total + Number(line[field] ?? 0), 0);
  return {
    images: JSON.parse(stdout).items,
    seconds: (timeOf('run done') - timeOf('model loaded')) / 1000,
    wholeSeconds,
    fetchMs: sum('fetchMs'),
    decodeMs: sum('decodeMs'),
    inferMs: sum('inferMs'),
    writeMs: sum('writeMs'),
  };
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: {
      images: { type: 'string', default: '480' },
      rounds: { type: 'string', default: '3' },
      model: { type: 'string', default: 'random:0' },
    },
    allowPositionals: true,
  });
  const { images, rounds, model } = values;
  await benchOverhead({ images: Number(images), rounds: Number(rounds), model, folder: positionals[0] });
}
