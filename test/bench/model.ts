/**
 * The bare model in each precision: how near it comes to fp32, on how many images of calibration, and how fast it is by sessions,
 * threads and batch. Speeds of a row are taken in turns, and a ratio is of one turn; the medians are printed.
 * node test/bench/model.ts [--model random:0] [--precisions fp32,int8] [--rounds 3] [--seconds 4] [FOLDER]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { calibrate } from '../../src/calibrate.ts';
import { decodeImage } from '../../src/decode.ts';
import { cpu } from '../../src/devices/cpu.ts';
import { openSession } from '../../src/infer.ts';
import { buildOnnx, type Model, quantiseModel, resolveModel } from '../../src/models/model.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { cosine } from '../helpers/graphs.ts';
import { makePhotoArchive } from '../helpers/photo-archive.ts';
import { median, perCoreSecond, perSecond, runBare } from './timing.ts';

const heldOut = 32;
const calibratedOn = [8, 32, 64];
const cores = availableParallelism();
const arrangements = [
  { count: 1, threads: 1, batch: 8 },
  { count: 1, threads: cores, batch: 8 },
  ...[1, 8, 32].map((batch) => ({ count: Math.min(2, cores), threads: cores, batch })),
];

interface BenchOptions {
  model: string;
  precisions: readonly string[];
  rounds: number;
  seconds: number;
  folder: string | undefined;
}

export async function benchModel({
  model: ref,
  precisions,
  rounds,
  seconds,
  folder,
}: BenchOptions): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    if (!folder) await makePhotoArchive(work, Math.max(...calibratedOn) + heldOut);
    const { cacheDir } = resolveSettings({}, process.env, {}).values;
    const options = { cacheDir, resizeMode: 'exact' } as const;
    const floats = await resolveModel(ref, { ...options, precision: 'fp32' });
    const crops = await cropAll(folder ?? work, floats);
    const unseen = crops.slice(0, heldOut);
    const seen = crops.slice(heldOut);
    if (seen.length < 8) throw new Error(`${crops.length} images are too few: ${heldOut + 8} are needed`);
    const models = new Map<string, Model>([['fp32', floats]]);
    const embeddings = await embed(floats, unseen);

    console.log(`${ref}: cosine to fp32 on ${heldOut} images that were not calibrated on`);
    const agreement: Record<string, Record<string, string>> = {};
    const agree = async (name: string, model: Model): Promise<void> => {
      const cosines = cosinesOf(await embed(model, unseen), embeddings);
      agreement[name] = {
        median: median(cosines).toFixed(5),
        least: Math.min(...cosines).toFixed(5),
      };
    };
    if (precisions.includes('int8')) {
      for (const images of calibratedOn.filter((count) => count <= seen.length)) {
        const calibration = await calibrate(floats, spread(seen, images), { threads: cores });
        const quantised = quantiseModel(floats, calibration);
        await agree(`int8, calibrated on ${images}`, quantised);
        models.set('int8', quantised);
      }
    }
    if (precisions.includes('fp16')) {
      models.set('fp16', await resolveModel(ref, { ...options, precision: 'fp16' }));
      await agree('fp16', models.get('fp16') as Model); // set above
    }
    console.table(agreement);

    const { crop } = floats.identity.preprocessing;
    const speeds: Record<string, Record<string, string>> = {};
    for (const arrangement of arrangements) {
      const turns: Record<string, { rate: number; perCore: number }>[] = [];
      for (let round = 0; round < rounds; round++) {
        const turn: (typeof turns)[number] = {};
        for (const [precision, model] of models) {
          const bare = await runBare(await buildOnnx(model, { topK: 5 }), { crop, seconds, ...arrangement });
          turn[precision] = { rate: perSecond(bare), perCore: perCoreSecond(bare) };
        }
        turns.push(turn);
      }
      const of = (figure: 'rate' | 'perCore', precision: string, by?: string): number =>
        median(turns.map((turn) => (turn[precision]?.[figure] ?? 0) / (by ? (turn[by]?.[figure] ?? 0) : 1)));
      const { count, threads, batch } = arrangement;
      const row: Record<string, string> = {};
      for (const precision of models.keys()) {
        row[`${precision} images/s`] = of('rate', precision).toFixed(1);
        if (precision === 'fp32') continue;
        row[`${precision} ÷ fp32`] = of('rate', precision, 'fp32').toFixed(2);
        row[`a core-second`] = of('perCore', precision, 'fp32').toFixed(2);
      }
      const name = `${count} × ${Math.max(1, Math.floor(threads / count))}, batch ${batch}`;
      speeds[name] = row;
      console.error(name, row);
    }
    console.log(`sessions × threads; ${cores} cores, medians of ${rounds} rounds of ${seconds} s each`);
    console.table(speeds);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function cropAll(folder: string, { identity }: Model): Promise<Uint8Array[]> {
  const { preprocessing, resizeMode } = identity;
  const names = (await readdir(folder, { recursive: true })).filter((name) => /\.(jpe?g|png)$/i.test(name));
  const crops: Uint8Array[] = [];
  for (const name of names.sort()) {
    const crop = new Uint8Array(preprocessing.crop ** 2 * 3);
    const options = { preprocessing, resizeMode, maxPixels: 1e8 };
    if (!('error' in (await decodeImage(await readFile(join(folder, name)), crop, options))))
      crops.push(crop);
  }
  return crops;
}

/** `count` of them, evenly. */
function spread<T>(values: readonly T[], count: number): T[] {
  return Array.from({ length: count }, (_, n) => values[Math.floor((n * values.length) / count)] as T); // below length
}

async function embed(model: Model, crops: readonly Uint8Array[]): Promise<Float32Array[]> {
  const { crop } = model.identity.preprocessing;
  const modelPath = await buildOnnx(model, { topK: 5 });
  const session = await openSession({ modelPath, device: cpu, batch: 1, crop, threads: cores });
  const rows: Float32Array[] = [];
  for (const image of crops) rows.push((await session.run(image)).embeddings);
  await session.release();
  return rows;
}

function cosinesOf(found: readonly Float32Array[], expected: readonly Float32Array[]): number[] {
  return found.map((row, image) => cosine(row, expected[image] ?? []));
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: {
      model: { type: 'string', default: 'random:0' },
      precisions: { type: 'string', default: 'fp32,int8' },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '4' },
    },
    allowPositionals: true,
  });
  const { model, precisions, rounds, seconds } = values;
  await benchModel({
    model,
    precisions: precisions.split(','),
    rounds: Number(rounds),
    seconds: Number(seconds),
    folder: positionals[0],
  });
}
