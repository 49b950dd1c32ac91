/**
 * What the program costs beside the model.
 *
 *   raw         `session.run` on ready pixels, again and again: one session with all cores, and two with half of them each
 *   index       `lensmill index` over real photographs, from the loaded model to `_SUCCESS.json`
 *   index null  the same with a model that costs nothing: everything that is not the model, per core
 *
 * A machine's speed drifts from minute to minute. So raw is measured before and after each index, the ratio is taken to
 * the mean of the two (of the better arrangement), and the median ratio is what counts.
 * node test/bench/overhead.ts [--images 480] [--rounds 5] [--model random:0] [--precision fp32 | int8] [FOLDER]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { cpu } from '../../src/devices/cpu.ts';
import { buildOnnx, resolveModel } from '../../src/models/model.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { makePhotoArchive } from '../helpers/photo-archive.ts';
import { type IndexTimes, main, median, perSecond, runBare, timeIndex } from './timing.ts';

export async function benchOverhead(options: {
  images: number;
  rounds: number;
  model: string;
  precision: string;
  folder?: string | undefined;
}): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    const folder = options.folder ?? join(work, 'photos');
    if (!options.folder) await makePhotoArchive(folder, options.images);
    const { cacheDir } = resolveSettings({}, process.env, {}).values;
    const ref = options.precision === 'int8' ? await quantise(options.model, folder, work) : options.model;
    const model = await resolveModel(ref, { cacheDir, resizeMode: 'exact' });
    const modelPath = await buildOnnx(model, { topK: 5 });

    const rawRates = async (): Promise<Rates> => ({
      one: await rawRate(modelPath, model.identity.preprocessing.crop, 1),
      two: await rawRate(modelPath, model.identity.preprocessing.crop, 2),
    });
    const rounds: { one: number; two: number; index: number; whole: number; ratio: number }[] = [];
    let times: IndexTimes | undefined;
    let before = await rawRates();
    for (let round = 0; round < options.rounds; round++) {
      times = await timeIndex(folder, join(work, `index-${round}`), { model: ref });
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
    const empty = await timeIndex(folder, join(work, 'null'), { model: 'null' });

    const cores = availableParallelism();
    const of = (field: keyof (typeof rounds)[number]): number => median(rounds.map((round) => round[field]));
    const row = (rate: number, ratio?: number) => ({
      'images/s': rate.toFixed(1),
      ratio: ratio?.toFixed(3) ?? '',
    });
    console.log(
      `${options.model}, ${model.identity.architecture} ${model.identity.precision}, batch ${cpu.batch}, ${cores} cores; medians of ${options.rounds} rounds`,
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

/** A model's int8 graph, calibrated on the folder: a file. */
async function quantise(model: string, folder: string, work: string): Promise<string> {
  const ranges = join(work, 'ranges.json');
  const graph = join(work, 'int8.onnx');
  await execa(process.execPath, [main, 'model', 'calibrate', model, folder, '--to', ranges]);
  const flags = ['--precision', 'int8', '--calibration', ranges, '--onnx', graph];
  await execa(process.execPath, [main, 'model', 'build', model, ...flags]);
  return graph;
}

interface Rates {
  one: number;
  two: number;
}

async function rawRate(modelPath: string, crop: number, count: number): Promise<number> {
  return perSecond(await runBare(modelPath, { crop, count }));
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: {
      images: { type: 'string', default: '480' },
      rounds: { type: 'string', default: '5' },
      model: { type: 'string', default: 'random:0' },
      precision: { type: 'string', default: 'fp32' },
    },
    allowPositionals: true,
  });
  const { images, rounds, model, precision } = values;
  const counts = { images: Number(images), rounds: Number(rounds) };
  await benchOverhead({ ...counts, model, precision, folder: positionals[0] });
}
