/**
 * The same images and the same weights through other programs: `node test/bench/peers.ts [--images 160] [--rounds 2]
 * [--model random:0] [--no-int8]`.
 *
 *   raw session.run   ONNX Runtime on ready pixels, the better of one and two sessions: the ceiling of fp32
 *   lensmill          `lensmill index`, in fp32 and in int8 (calibrated before, on the same images)
 *   transformers.js   @huggingface/transformers, on the same network in ONNX (peers-transformers.ts)
 *   PyTorch           torchvision and a DataLoader, as written and tuned (peers-torch.py)
 *
 * Each in a process of its own, with a thread a core and batches of 8, timed from the model warm to the last embedding; of
 * lensmill that includes parts and `_SUCCESS.json`. CPU time is that of all its processes. They take turns; a ratio is the
 * median of the rounds' own ratios. Cosines are to lensmill's fp32 embedding of the same image, the mean of all images
 * taken off both, which random weights give most of every image.
 *
 * transformers.js is no dependency: it is installed by npm into the cache the first time (no scripts; 470 MB). PyTorch is
 * what `python3` has; without it its rows are missing, and that is said.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { cpu } from '../../src/devices/cpu.ts';
import { partsPrefix } from '../../src/layout.ts';
import { buildOnnx, type Model, resolveModel, writeSafetensors } from '../../src/models/model.ts';
import { readPart } from '../../src/parts/part.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { cosine } from '../helpers/graphs.ts';
import { makePhotoArchive } from '../helpers/photo-archive.ts';
import { installTransformers, type TransformersOptions, writeForTransformers } from './peers-transformers.ts';
import { main, median, perCoreSecond, perSecond, runBare, timeIndex, type Work } from './timing.ts';

const { batch } = cpu;

export interface PeersOptions {
  images: number;
  rounds: number;
  model: string;
  int8: boolean;
}

interface Program {
  name: string;
  /** Its embeddings, where it has any, are then in `embeddingsOf`. */
  run(round: number): Promise<Work>;
}

export async function benchPeers({ images, rounds, model: ref, int8 }: PeersOptions): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    const { cacheDir } = resolveSettings({}, process.env, {}).values;
    const folder = join(work, 'photos');
    await makePhotoArchive(folder, images);
    const ids = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((id) =>
      id.endsWith('.jpg'),
    );
    const list = join(work, 'images.json');
    writeFileSync(list, JSON.stringify(ids.sort().map((id) => join(folder, id))));
    const model = await resolveModel(ref, { cacheDir, resizeMode: 'exact', precision: 'fp32' });

    const embeddingsOf = new Map<string, Map<string, Float32Array>>();
    const index = (name: string, flags: readonly string[]): Program => ({
      name,
      async run(round) {
        const output = join(work, `${name}, ${round}`);
        const times = await timeIndex(folder, output, { model: ref, flags: [...flags, '--run', 'bench'] });
        embeddingsOf.set(name, readParts(output));
        return times;
      },
    });
    const embeddings = join(work, 'embeddings.f32');
    const external = (name: string, start: () => Promise<Work>): Program => ({
      name,
      async run() {
        const times = await start();
        embeddingsOf.set(name, splitRows(embeddings, ids));
        return times;
      },
    });

    const fp32 = index('lensmill, fp32', ['--precision', 'fp32']);
    const programs = [{ name: 'raw session.run, fp32', run: () => runCeiling(model) }, fp32];
    const prefix = await installTransformers(cacheDir);
    await writeForTransformers(model, join(work, 'models/resnet'));
    programs.push(
      external('transformers.js, fp32', () =>
        startTransformers({
          prefix,
          models: join(work, 'models'),
          model: 'resnet',
          images: list,
          batch,
          to: embeddings,
        }),
      ),
    );
    const python = await findTorch();
    if (python !== undefined) {
      const weights = join(work, 'weights.safetensors');
      await writeSafetensors(model, weights);
      const common = ['--weights', weights, '--images', list, '--batch', `${batch}`, '--to', embeddings];
      for (const manner of ['tuned', 'eager'])
        programs.push(
          external(`PyTorch ${manner}, fp32`, () =>
            lastLine(python, [join(import.meta.dirname, 'peers-torch.py'), ...common, '--manner', manner]),
          ),
        );
    }
    if (int8) {
      const ranges = join(work, 'ranges.json');
      await execa(process.execPath, [main, 'model', 'calibrate', ref, folder, '--to', ranges]);
      programs.push(index('lensmill, int8', ['--precision', 'int8', '--calibration', ranges]));
    }

    const times = new Map<string, Work[]>(programs.map(({ name }) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      for (const { name, run } of programs) {
        const measured = await run(round);
        times.get(name)?.push(measured);
        console.error(`round ${round + 1}: ${name} ${perSecond(measured).toFixed(2)} images/s`);
      }
    }
    const { architecture } = model.identity;
    console.log(
      `${ref}, ${architecture}, ${images} images of 500 × 375, batch ${batch}; medians of ${rounds} rounds`,
    );
    printTable(times, embeddingsOf);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function printTable(
  times: ReadonlyMap<string, readonly Work[]>,
  embeddingsOf: ReadonlyMap<string, ReadonlyMap<string, Float32Array>>,
): void {
  const reference = embeddingsOf.get('lensmill, fp32') ?? new Map();
  const rows: Record<string, Record<string, string>> = {};
  for (const [name, works] of times) {
    const isOver = (program: string, of: (work: Work) => number): string => {
      const ours = times.get(program);
      return ours ? median(ours.map((work, round) => of(work) / of(works[round] as Work))).toFixed(2) : ''; // a round has all
    };
    const cosines = cosinesOf(reference, embeddingsOf.get(name) ?? new Map());
    rows[name] = {
      'images/s': median(works.map(perSecond)).toFixed(2),
      'lensmill is': isOver('lensmill, fp32', perSecond),
      'lensmill int8 is': isOver('lensmill, int8', perSecond),
      'images/core-s': median(works.map(perCoreSecond)).toFixed(2),
      'lensmill is ': isOver('lensmill, fp32', perCoreSecond),
      'cosine, median': cosines.length > 0 ? median(cosines).toFixed(5) : '',
      least: cosines.length > 0 ? Math.min(...cosines).toFixed(5) : '',
    };
  }
  console.table(rows);
}

/** Without the reference's mean; by image. */
function cosinesOf(
  reference: ReadonlyMap<string, Float32Array>,
  found: ReadonlyMap<string, Float32Array>,
): number[] {
  const mean = new Float64Array(reference.values().next().value?.length ?? 0);
  for (const row of reference.values())
    for (const [at, value] of row.entries()) mean[at] = (mean[at] ?? 0) + value / reference.size;
  const centred = (row: Float32Array): Float32Array => row.map((value, at) => value - (mean[at] ?? 0));
  return [...found].map(([id, row]) => cosine(centred(row), centred(reference.get(id) ?? row.map(() => 0))));
}

async function runCeiling(model: Model): Promise<Work> {
  const modelPath = await buildOnnx(model, { topK: 5 });
  const { crop } = model.identity.preprocessing;
  const works = [];
  for (const count of [1, 2]) works.push(await runBare(modelPath, { crop, count, seconds: 4 }));
  return works.reduce((best, other) => (perSecond(other) > perSecond(best) ? other : best));
}

function readParts(output: string): Map<string, Float32Array> {
  const folder = join(output, partsPrefix('bench'));
  const rows = new Map<string, Float32Array>();
  for (const name of readdirSync(folder)) {
    const { ids, embeddings } = readPart(readFileSync(join(folder, name)), name);
    for (const [id, row] of rowsOf(embeddings, ids)) rows.set(id, row);
  }
  return rows;
}

function splitRows(path: string, ids: readonly string[]): Map<string, Float32Array> {
  const { buffer, byteOffset, byteLength } = readFileSync(path);
  return new Map(rowsOf(new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength)), ids));
}

function rowsOf(embeddings: Float32Array, ids: readonly string[]): [string, Float32Array][] {
  const dimension = embeddings.length / ids.length;
  return ids.map((id, row) => [id, embeddings.slice(row * dimension, (row + 1) * dimension)]);
}

function startTransformers(options: TransformersOptions): Promise<Work> {
  return lastLine(process.execPath, [
    join(import.meta.dirname, 'peers-transformers.ts'),
    JSON.stringify(options),
  ]);
}

/** A Python that has PyTorch and torchvision. */
async function findTorch(): Promise<string | undefined> {
  for (const python of ['python3', '/usr/bin/python3']) {
    const { failed } = await execa(python, ['-c', 'import torch, torchvision'], { reject: false });
    if (!failed) return python;
  }
  console.error('NO PYTORCH: its rows are missing (apt-get install -y python3-torchvision)');
  return undefined;
}

async function lastLine(program: string, args: readonly string[]): Promise<Work> {
  const { stdout } = await execa(program, args);
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      images: { type: 'string', default: '160' },
      rounds: { type: 'string', default: '2' },
      model: { type: 'string', default: 'random:0' },
      int8: { type: 'boolean', default: true },
    },
    allowNegative: true,
  });
  const { images, rounds, model, int8 } = values;
  await benchPeers({ images: Number(images), rounds: Number(rounds), model, int8 });
}
