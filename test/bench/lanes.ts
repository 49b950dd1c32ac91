/**
 * Everything but the model, against a decoder alone: `node test/bench/lanes.ts [--images 3000] [--rounds 3] [--lanes 1,2]
 * [--objects 1600]`; one lane to as many as there are cores, unless `lanes` are named.
 *
 *   bare sharp   sharp decodes the same files to raw pixels of full size, as fast as it can: one thread a picture, a picture
 *                in flight a core and more, the allocator set as our workers have it; a process that does nothing else
 *   index        `lensmill index --model null` over them: fetch, hash, decode, resize, batch, write, commit, by each decoder
 *                that is here and with each number of lanes; from the loaded model to `_SUCCESS.json`
 *   … from S3    `objects` of them again, from files and from a private radosgw on this machine: what an object costs our
 *                processes beyond a file, in CPU time and without any start, as the difference of a run over all of them
 *                and one over a quarter; the server takes cores too, so images/s says little. --objects 0 leaves it out
 *
 * The rows take turns, a round has each of them once, and a ratio is the median of the rounds' own ratios.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { CreateBucketCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import pMap from 'p-map';
import { type DecoderChoice, describeDecoder } from '../../src/decode.ts';
import { messageOf } from '../../src/errors.ts';
import { startRadosgw } from '../helpers/servers.ts';
import { makeManyPhotos } from './many-photos.ts';
import {
  type IndexTimes,
  median,
  perCoreSecond,
  perSecond,
  timeIndex,
  type Work,
  workSince,
} from './timing.ts';

export interface LanesOptions {
  images: number;
  rounds: number;
  lanes: readonly number[];
  objects: number;
}

const cores = availableParallelism();
/** As in workers/supervisor.ts. */
const mallocSettings = { MALLOC_MMAP_THRESHOLD_: '67108864', MALLOC_TRIM_THRESHOLD_: '268435456' };
const bucket = 'bench';
/** One object in so many is among the few. */
const fewPart = 4;

export async function benchLanes({ images, rounds, lanes, objects }: LanesOptions): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  try {
    const folder = join(work, 'photos');
    const paths = await makeManyPhotos(folder, images);
    const decoders = await builtDecoders();
    const indexes = decoders.flatMap((decoder) =>
      lanes.map((count) => ({ decoder, count, what: `index, ${decoder}, ${plural(count, 'lane')}` })),
    );
    const bare: Work[] = [];
    const runs = new Map<string, IndexTimes[]>(indexes.map(({ what }) => [what, []]));
    for (let round = 0; round < rounds; round++) {
      bare.push(await decodeBare(folder));
      for (const { decoder, count, what } of indexes) {
        const times = await indexNull(folder, join(work, `${round} ${what}`), decoder, [
          '--lanes',
          `${count}`,
        ]);
        runs.get(what)?.push(times);
      }
      console.error(`round ${round + 1} of ${rounds}`);
    }

    console.log(`${images} JPEGs of 500 × 375, ${cores} cores; medians of ${plural(rounds, 'round')}`);
    const rows = { 'bare sharp': rowOf(bare, bare) };
    for (const [what, times] of runs) Object.assign(rows, { [what]: rowOf(times, bare) });
    console.table(rows);
    if (objects > 0) await compareS3({ work, paths: paths.slice(-objects), rounds, decoders });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Those that `--decoder` has here, the quicker one first. */
async function builtDecoders(): Promise<DecoderChoice[]> {
  try {
    await describeDecoder('native', 'exact');
    return ['native', 'sharp'];
  } catch (error) {
    console.error(`NO NATIVE DECODER: its rows are missing (${messageOf(error)})`);
    return ['sharp'];
  }
}

function indexNull(
  source: string,
  output: string,
  decoder: DecoderChoice,
  flags: readonly string[] = [],
): Promise<IndexTimes> {
  return timeIndex(source, output, { model: 'null', flags, env: { LENSMILL_DECODER: decoder } });
}

/** `times` and `bare` by round. */
function rowOf(times: readonly (Work & Partial<IndexTimes>)[], bare: readonly Work[]) {
  const ratio = (of: (work: Work) => number): string =>
    median(times.map((work, round) => of(work) / of(bare[round] as Work))).toFixed(2); // a round has both
  const mainMicroseconds = times.flatMap(
    ({ throughput }) => throughput?.mainThreadMicrosecondsPerImage ?? [],
  );
  return {
    'images/s': Math.round(median(times.map(perSecond))),
    'of bare sharp': ratio(perSecond),
    'images/core-s': Math.round(median(times.map(perCoreSecond))),
    'of bare sharp ': ratio(perCoreSecond),
    'main thread, µs an image': mainMicroseconds.length > 0 ? Math.round(median(mainMicroseconds)) : '',
    limit: times.at(-1)?.throughput?.limit ?? '',
  };
}

interface Marginal {
  few: IndexTimes;
  all: IndexTimes;
}

async function compareS3(options: {
  work: string;
  paths: readonly string[];
  rounds: number;
  decoders: readonly DecoderChoice[];
}): Promise<void> {
  const { work, paths, rounds, decoders } = options;
  const decoder = decoders[0] ?? 'auto';
  const radosgw = await startRadosgw();
  try {
    Object.assign(process.env, {
      AWS_ACCESS_KEY_ID: radosgw.accessKeyId,
      AWS_SECRET_ACCESS_KEY: radosgw.secretAccessKey,
      AWS_ENDPOINT_URL_S3: radosgw.endpoint,
      AWS_REGION: radosgw.region,
    });
    const keys = paths.map((path, n) => `${n % fewPart === 0 ? 'few' : 'more'}/${basename(path)}`);
    const files = join(work, 'some');
    for (const folder of ['few', 'more']) mkdirSync(join(files, folder), { recursive: true });
    for (const [n, key] of keys.entries()) linkSync(paths[n] ?? '', join(files, key));
    await putObjects(radosgw.endpoint, files, keys);

    const places = { file: files, s3: `s3://${bucket}` };
    const times = { file: [] as Marginal[], s3: [] as Marginal[] };
    for (let round = 0; round < rounds; round++) {
      for (const place of ['file', 's3'] as const) {
        const index = (part: string) =>
          indexNull(`${places[place]}/${part}`, join(work, `${place} ${part} ${round}`), decoder);
        times[place].push({ few: await index('few'), all: await index('') });
      }
    }
    console.log(
      `${paths.length} of them from files and from a local S3, ${decoder}; CPU-ms of each image beyond the first ${times.file[0]?.few.images}`,
    );
    const row = (runs: readonly Marginal[]) => ({
      'images/s': Math.round(median(runs.map(({ all }) => perSecond(all)))),
      'CPU-ms an image': median(runs.map(marginalMs)).toFixed(2),
    });
    console.table({ file: row(times.file), s3: row(times.s3) });
    const extra = median(
      times.s3.map((s3, round) => marginalMs(s3) - marginalMs(times.file[round] as Marginal)),
    );
    console.log(`S3 costs our processes ${extra.toFixed(2)} CPU-ms an object more than a file`);
  } finally {
    await radosgw.close();
  }
}

/** Of two runs, the second over the first one's images and more: what each of those more took, without any start. */
const marginalMs = ({ few, all }: Marginal): number =>
  (1000 * (all.coreSeconds - few.coreSeconds)) / (all.images - few.images);

async function putObjects(endpoint: string, folder: string, keys: readonly string[]): Promise<void> {
  const client = new S3Client({ endpoint, forcePathStyle: true });
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  const put = async (Key: string) =>
    client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: await readFile(join(folder, Key)) }));
  await pMap(keys, put, { concurrency: 8 });
  client.destroy();
}

async function decodeBare(folder: string): Promise<Work> {
  const env = { ...process.env, ...mallocSettings, UV_THREADPOOL_SIZE: String(cores) };
  const child = fork(import.meta.filename, ['decode', folder], { env });
  const [work] = (await once(child, 'message')) as [Work];
  await once(child, 'exit');
  return work;
}

/** In a process of its own: every file below `folder` to raw pixels. */
async function decodeFolder(folder: string): Promise<void> {
  const { default: sharp } = await import('sharp');
  const { readdir } = await import('node:fs/promises');
  sharp.concurrency(1);
  sharp.cache(false);
  const entries = await readdir(folder, { recursive: true });
  const paths = entries.filter((name) => name.endsWith('.jpg')).map((name) => join(folder, name));
  const decode = (path: string) => sharp(path).raw().toBuffer();
  await pMap(paths.slice(0, 50), decode, { concurrency: 3 * cores });
  const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
  await pMap(paths, decode, { concurrency: 3 * cores });
  process.send?.({ images: paths.length, ...workSince(started, cpuBefore) } satisfies Work);
  process.disconnect();
}

/** 1, 2, 4 … */
function upToCores(): number[] {
  return Array.from({ length: Math.floor(Math.log2(cores)) + 1 }, (_, power) => 2 ** power);
}

const plural = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;

if (import.meta.main) {
  const [role, folder = ''] = process.argv.slice(2);
  if (role === 'decode') await decodeFolder(folder);
  else {
    const { values } = parseArgs({
      options: {
        images: { type: 'string', default: '3000' },
        rounds: { type: 'string', default: '3' },
        lanes: { type: 'string', default: upToCores().join(',') },
        objects: { type: 'string', default: '1600' },
      },
    });
    const { images, rounds, lanes, objects } = values;
    await benchLanes({
      images: Number(images),
      rounds: Number(rounds),
      lanes: lanes.split(',').map(Number),
      objects: Number(objects),
    });
  }
}
