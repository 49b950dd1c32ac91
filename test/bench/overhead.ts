/**
 * What the program costs beside the model.
 *
 *   raw         `session.run` on ready pixels, again and again: one session with all cores, and two with half of them each
 *   index       `lensmill index` over real photographs, from the loaded model to `_SUCCESS.json`
 *   index null  the same with a model that costs nothing: everything that is not the model, per core
 *
 * A machine's speed drifts from minute to minute. So raw is measured before and after each index, the ratio is taken to
 * the mean of the two (of the better arrangement), and the median ratio is what counts.
 * node test/bench/overhead.ts [--images 480] [--rounds 5] [--model random:0] [FOLDER]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { cpu } from '../../src/devices/cpu.ts';
import { buildOnnx, resolveModel } from '../../src/models/model.ts';
import { resolveSettings } from '../../src/settings.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from '../../workers/inference.ts';
import { makeSlot } from '../../workers/slot.ts';
import { openThreads } from '../../workers/thread.ts';
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

    const rawRates = async (): Promise<Rates> => ({
      one: await rawRate(modelPath, model.identity.preprocessing.crop, 1),
      two: await rawRate(modelPath, model.identity.preprocessing.crop, 2),
    });
    const rounds: { one: number; two: number; index: number; whole: number; ratio: number }[] = [];
    let times: IndexTimes | undefined;
    let before = await rawRates();
    for (let round = 0; round < options.rounds; round++) {
      times = await timeIndex(folder, join(work, `index-${round}`), options.model);
      const after = await rawRates();
      const one = (before.one + after.one) / 2;
      const two = (before.two + after.two) / 2;
      const index = times.images / times.seconds;
      rounds.push({
        one,
        two,
        index,
        whole: times.images / times.wholeSeconds,
        ratio: index / Math.max(one, two),
      });
      console.error(
        `round ${round + 1}: raw ${one.toFixed(2)} | ${two.toFixed(2)}, index ${index.toFixed(2)} images/s`,
      );
      before = after;
    }
    const empty = await timeIndex(folder, join(work, 'null'), 'null');

    const cores = availableParallelism();
    const of = (field: keyof (typeof rounds)[number]): number => median(rounds.map((round) => round[field]));
    const row = (rate: number, ratio?: number) => ({
      'images/s': rate.toFixed(1),
      ratio: ratio?.toFixed(3) ?? '',
    });
    console.log(
      `${options.model}, ${model.identity.architecture} fp32, batch ${cpu.batch}, ${cores} cores; medians of ${options.rounds} rounds`,
    );
    console.table({
      'raw session.run, 1 session': row(of('one')),
      'raw session.run, 2 sessions': row(of('two')),
      'lensmill index': row(of('index'), of('ratio')),
      '… from typing it to the prompt': row(of('whole')),
      'lensmill index, null model': row(empty.images / empty.seconds),
      '… per core': row(empty.images / empty.seconds / cores),
    });
    console.log(
      'stage by stage, null model, ms an image (a lane does several images at once, so waiting counts too):',
    );
    console.table(
      Object.fromEntries(
        (['fetchMs', 'decodeMs', 'inferMs', 'writeMs'] as const).map((stage) => [
          stage.slice(0, -2),
          { 'ms/image': (empty[stage] / empty.images).toFixed(2) },
        ]),
      ),
    );
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

interface Rates {
  one: number;
  two: number;
}

/** Images per second of `count` sessions that share the cores, each fed without a pause, for about 8 s. */
async function rawRate(modelPath: string, crop: number, count: number): Promise<number> {
  const shape = { batch: cpu.batch, crop, dimension: 2048, topK: 5 };
  const slots = Array.from({ length: count }, () => makeSlot(shape));
  for (const { pixels } of slots) crypto.getRandomValues(new Uint8Array(pixels).subarray(0, 65_536));
  const threads = Math.max(1, Math.floor(availableParallelism() / count));
  const options: InferenceOptions = { slots, modelPath, device: cpu, batch: cpu.batch, crop, threads };
  const sessions = openThreads<InferenceRequest, InferenceReply>('inference', count, options);
  await sessions.callAll({ kind: 'open' });
  const started = performance.now();
  let images = 0;
  const feed = async (): Promise<void> => {
    while (performance.now() - started < 8_000) {
      await sessions.callOne({ kind: 'infer', slot: 0 });
      images += cpu.batch;
    }
  };
  // Two calls a session, so that one waits while the other runs.
  await Promise.all(Array.from({ length: 2 * count }, feed));
  const rate = (images * 1000) / (performance.now() - started);
  await sessions.close();
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
      rounds: { type: 'string', default: '5' },
      model: { type: 'string', default: 'random:0' },
    },
    allowPositionals: true,
  });
  const { images, rounds, model } = values;
  await benchOverhead({ images: Number(images), rounds: Number(rounds), model, folder: positionals[0] });
}
