/**
 * One GPU, in one run: the bare model, the model as a worker has it, PyTorch on the same card, and the whole program.
 *
 *   raw           `session.run` in a loop, nothing around it
 *   1, 2 sessions inference threads and slots as in a worker, fed without a pause; `ms between` two batches of a session
 *                 nothing is computed
 *   torch         gpu-torch.py: channels-last, cudnn.benchmark; `amp` casts the weights each time, `half` once; pixels come
 *                 from pinned memory while the batch before is computed. `forward` is the network alone, on pixels that lie on
 *                 the card
 *   index         `lensmill index` over photographs, by the best arrangement of the above, and with a model that costs nothing
 *
 * The rows take turns, round after round; a figure is the median of its rounds, a ratio is to the best raw row.
 * node test/bench/gpu.ts [--device cuda:0] [--model random:0] [--batches 64,128,256] [--precisions fp32,fp16] [--rounds 3]
 *   [--seconds 3] [--images 20000] [--python python3] [FOLDER]
 * `--device cpu` tries the bench itself.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import type { Device } from '../../src/devices/device.ts';
import { describeHardware } from '../../src/devices/hardware.ts';
import { runtimeVersion } from '../../src/devices/libraries.ts';
import { resolveDevice } from '../../src/devices/resolve-device.ts';
import { tensorrt, whyNoTensorrt } from '../../src/devices/tensorrt.ts';
import { ConfigError, messageOf } from '../../src/errors.ts';
import { OutOfMemory, openSession } from '../../src/infer.ts';
import { buildOnnx, type Model, resolveModel } from '../../src/models/model.ts';
import { parseArchitecture } from '../../src/models/spec.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { percent } from '../../src/telemetry/throughput.ts';
import type { Precision } from '../../src/types.ts';
import { type ArrangedModel, openArrangement, type Pace } from '../../workers/arrangement.ts';
import { makeManyPhotos } from './many-photos.ts';
import { type IndexTimes, median, perSecond, timeIndex } from './timing.ts';

interface BenchOptions {
  device: Device;
  model: string;
  batches: readonly number[];
  precisions: readonly Precision[];
  rounds: number;
  seconds: number;
  images: number;
  python: string;
  folder: string | undefined;
}

/** One line of the table. */
interface Row {
  what: string;
  precision: string;
  batch: number;
  rates: number[];
  between: number[];
}

/** A row that is measured here, by an arrangement; 0 sessions: raw. */
interface OwnRow extends Row {
  model: ArrangedModel;
}

const topK = 5;

export async function benchGpu(options: BenchOptions): Promise<void> {
  const { device, model: ref, batches, precisions, rounds, seconds } = options;
  const { cacheDir } = resolveSettings({}, process.env, {}).values;
  const models: Model[] = [];
  for (const precision of precisions)
    models.push(await resolveModel(ref, { cacheDir, resizeMode: 'exact', precision }));
  console.log(`${device.name}: ${await describeHardware(device)}; ONNX Runtime ${runtimeVersion}`);

  const rows: OwnRow[] = [];
  for (const model of models)
    for (const batch of batches)
      for (const sessions of [0, 1, 2]) rows.push(await rowOf(model, { device, batch, sessions }));
  const [floats] = models.filter(({ identity }) => identity.precision === 'fp32');
  const whyNot = device.kind === 'cuda' ? whyNoTensorrt() : `${device.name} is no GPU`;
  if (whyNot !== undefined) console.log(`TensorRT is left out: ${whyNot}`);
  else if (floats) {
    const other = tensorrt(device.provider.deviceId ?? 0);
    for (const sessions of [0, 1])
      rows.push(await rowOf(floats, { device: other, batch: Math.max(...batches), sessions }));
  }

  const peers = new Map<string, Row>();
  for (let round = 0; round < rounds; round++) {
    for (const row of rows) await measureRow(row, seconds * 1_000);
    const missing = models[0] && (await measureTorch(peers, models[0], options));
    if (missing !== undefined && round === 0) console.log(`PyTorch is left out: ${missing}`);
    console.error(`round ${round + 1} of ${rounds}`);
  }
  const all = [...rows, ...peers.values()];
  const raw = Math.max(...rows.filter(({ model }) => model.sessions === 0).map(rateOf));
  console.log(`${ref}; medians of ${rounds} rounds of ${seconds} s each; ratios to the best raw row`);
  console.table(
    all.map((row) => ({
      what: row.what,
      precision: row.precision,
      batch: row.batch,
      'images/s': row.rates.length > 0 ? rateOf(row).toFixed(1) : 'failed',
      ratio: row.rates.length > 0 ? (rateOf(row) / raw).toFixed(3) : '',
      'ms between': row.between.length > 0 ? median(row.between).toFixed(2) : '',
    })),
  );

  const arranged = rows.filter(({ model }) => model.device === device && model.sessions > 0);
  const [best] = arranged.toSorted((a, b) => rateOf(b) - rateOf(a));
  if (best) await benchIndex(best, raw, options);
}

async function rowOf(
  { identity, ...model }: Model,
  { device, batch, sessions }: Pick<ArrangedModel, 'device' | 'batch' | 'sessions'>,
): Promise<OwnRow> {
  const { precision, preprocessing, dimension } = identity;
  const modelPath = await buildOnnx({ identity, ...model }, { topK });
  const threads = availableParallelism();
  const { crop } = preprocessing;
  const title = ['raw', '1 session', '2 sessions'][sessions] ?? '';
  return {
    what: device.kind === 'tensorrt' ? `TensorRT, ${title}` : title,
    precision,
    batch,
    rates: [],
    between: [],
    model: { modelPath, device, batch, sessions, crop, dimension, topK, threads },
  };
}

/** A row that fails, or whose model does not fit, stays empty: the others go on. */
async function measureRow(row: OwnRow, forMs: number): Promise<void> {
  const { model, rates, between } = row;
  try {
    const pace = model.sessions === 0 ? await runRaw(model, forMs) : await runArranged(model, forMs);
    if (!pace) return;
    rates.push(pace.imagesPerSecond);
    between.push(pace.betweenMs);
  } catch (error) {
    if (!(error instanceof ConfigError || error instanceof OutOfMemory)) throw error;
    console.error(`${row.what}, ${row.precision}, batch ${row.batch}: ${error.message}`);
  }
}

async function runArranged(model: ArrangedModel, forMs: number): Promise<Pace | undefined> {
  const running = await openArrangement(model);
  try {
    return await running?.measure(forMs);
  } finally {
    await running?.close();
  }
}

async function runRaw(model: ArrangedModel, forMs: number): Promise<Pace> {
  const { batch, crop } = model;
  const session = await openSession(model);
  try {
    const pixels = new Uint8Array(batch * crop ** 2 * 3).map(() => Math.random() * 256);
    await session.run(pixels);
    const started = performance.now();
    let images = 0;
    for (; performance.now() - started < forMs; images += batch) await session.run(pixels);
    return { imagesPerSecond: (images * 1_000) / (performance.now() - started), betweenMs: 0 };
  } finally {
    await session.release();
  }
}

/** A line of gpu-torch.py. */
type TorchLine =
  | { missing: string }
  | { what: string; precision: string; batch: number; imagesPerSecond: number | null };

/** Why there is nothing of it, or undefined. */
async function measureTorch(
  peers: Map<string, Row>,
  { identity }: Model,
  options: BenchOptions,
): Promise<string | undefined> {
  const { device, batches, seconds, python } = options;
  const torchDevice = device.kind === 'cpu' ? 'cpu' : `cuda:${device.provider.deviceId ?? 0}`;
  const measure = async (): Promise<string> => {
    const { depths } = parseArchitecture(identity.architecture);
    const { stdout } = await execa(python, [
      join(import.meta.dirname, 'gpu-torch.py'),
      ...['--device', torchDevice, '--depths', depths.join(), '--crop', `${identity.preprocessing.crop}`],
      ...['--batches', batches.join(), '--seconds', `${seconds}`],
    ]);
    return stdout;
  };
  const stdout = await measure().catch((error: unknown) => JSON.stringify({ missing: messageOf(error) }));
  for (const line of stdout.split('\n').filter((text) => text.startsWith('{'))) {
    const measured = JSON.parse(line) as TorchLine;
    if ('missing' in measured) return measured.missing;
    const { what, precision, batch, imagesPerSecond } = measured;
    const name = `${what} ${precision} ${batch}`;
    const row = peers.get(name) ?? { what, precision, batch, rates: [], between: [] };
    peers.set(name, row);
    if (imagesPerSecond !== null) row.rates.push(imagesPerSecond);
  }
  return undefined;
}

async function benchIndex(best: OwnRow, raw: number, options: BenchOptions): Promise<void> {
  const { device, model: ref, rounds, images, folder } = options;
  const { batch, sessions } = best.model;
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    const source = folder ?? join(work, 'photos');
    if (folder === undefined) await makeManyPhotos(source, images);
    const flags = ['--batch', `${batch}`, '--sessions', `${sessions}`, '--reuse', 'off'];
    const subjects = [
      { what: `index, ${best.precision}`, model: ref, precision: best.precision },
      { what: 'index, null model', model: 'null', precision: 'fp32' },
    ].map((subject) => ({ ...subject, rounds: [] as IndexTimes[] }));
    for (let round = 0; round < rounds; round++) {
      for (const [at, { model, precision, rounds: done }] of subjects.entries()) {
        const output = join(work, `index-${at}-${round}`);
        const index = { model, device: device.name, flags: ['--precision', precision, ...flags] };
        await timeIndex(source, output, index).then(
          (times) => done.push(times),
          (error: unknown) => console.error(`index by ${model}: ${messageOf(error)}`),
        );
      }
    }
    const table = subjects.map(({ what, model, rounds: done }) => {
      const rate = median(done.map(perSecond));
      const waited = done.map(({ throughput }) => throughput?.waitedShare ?? Number.NaN);
      return {
        what,
        'images/s': rate.toFixed(1),
        'a core': (rate / availableParallelism()).toFixed(1),
        ratio: model === ref ? (rate / raw).toFixed(3) : '',
        'device waited': percent(median(waited)),
        limit: done.at(-1)?.throughput?.limit,
      };
    });
    console.log(
      `lensmill index by batch ${batch}, ${best.what}, over photographs of 500×375, ${availableParallelism()} cores; from the loaded model to _SUCCESS.json`,
    );
    console.table(table);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

const rateOf = ({ rates }: Row): number => (rates.length > 0 ? median(rates) : 0);

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: {
      device: { type: 'string', default: 'cuda:0' },
      model: { type: 'string', default: 'random:0' },
      batches: { type: 'string', default: '64,128,256' },
      precisions: { type: 'string', default: 'fp32,fp16' },
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '3' },
      images: { type: 'string', default: '20000' },
      python: { type: 'string', default: 'python3' },
    },
    allowPositionals: true,
  });
  try {
    await benchGpu({
      device: resolveDevice(values.device).device,
      model: values.model,
      batches: values.batches.split(',').map(Number),
      precisions: values.precisions.split(',') as Precision[], // an unknown one ends in an error of the model
      rounds: Number(values.rounds),
      seconds: Number(values.seconds),
      images: Number(values.images),
      python: values.python,
      folder: positionals[0],
    });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(`gpu bench: ${error.message}`);
    process.exitCode = 2;
  }
}
