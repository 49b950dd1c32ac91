/**
 * Maps of an index: a sample of its images as points of a plane. A map is made in a thread of its own, once for all who ask, one
 * at a time, and is kept in memory and in the cache folder until the index changes.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pLimit from 'p-limit';
import { z } from 'zod';
import type { ProjectionOptions, ProjectionReply } from '../../workers/projection.ts';
import { openThread, type Thread } from '../../workers/thread.ts';
import { messageOf } from '../errors.ts';
import type { IndexRecord, SearchIndex } from '../search/search-index.ts';
import type { Logger } from '../telemetry/log.ts';
import { type MapPoints, mapPoints } from './api.ts';
import type { CurrentIndex } from './current-index.ts';

export interface MapMaker {
  /** As far as it is: whoever wants the points asks again. Throws what ended the making of it. */
  get(images: number): Promise<MapPoints>;
  /** Ends what is under way. Safe to call twice. */
  close(): Promise<void>;
}

interface Making {
  progress: number;
  points: Promise<MapPoints['points']>;
}

/** Maps in memory, of the newest index: a megabyte each at most. */
const kept = 4;
/** Embeddings that are asked for at once. */
const atOnce = 500;

const storedMap = z.object({
  v: z.literal(1),
  generation: z.int(),
  builtAt: z.string(),
  points: mapPoints.shape.points,
});

/** `cacheDir`: where maps outlive the server. */
export function openMapMaker(
  { output, index, log }: { output: string; index: CurrentIndex; log: Logger },
  cacheDir: string,
): MapMaker {
  const makings = new Map<string, Making>();
  const oneAtATime = pLimit(1);
  const closing = new AbortController();

  function begin(record: IndexRecord, images: number): Making {
    const path = join(cacheDir, 'maps', `${nameOf(output, record, images)}.json`);
    const making: Making = { progress: 0, points: Promise.resolve([]) };
    making.points = oneAtATime(async () => {
      const stored = await readMap(path, record);
      if (stored) return stored;
      const started = performance.now();
      const points = await index.use((opened) => make(opened, images, making, closing.signal));
      log.info({ images: points.length, ms: Math.round(performance.now() - started) }, 'map made');
      await writeMap(path, record, points).catch((error) =>
        log.warn({ error: messageOf(error) }, 'the map is not kept'),
      );
      return points;
    });
    making.points.then(
      () => {
        making.progress = 1;
      },
      () => undefined,
    );
    return making;
  }

  /** Of those that are done. */
  function forgetOldest(): void {
    for (const [key, { progress }] of makings) if (makings.size > kept && progress === 1) makings.delete(key);
  }

  return {
    get: (asked) =>
      index.use(async ({ record }) => {
        const images = Math.min(asked, record.images);
        const key = `${record.generation}/${images}`;
        let making = makings.get(key);
        if (!making) {
          making = begin(record, images);
          makings.set(key, making);
          forgetOldest();
        }
        // One that was read from its file is there at once.
        const points = await Promise.race([making.points, patience()]).catch((error) => {
          makings.delete(key);
          throw error;
        });
        return points
          ? { state: 'done', progress: 1, points }
          : { state: 'computing', progress: making.progress, points: [] };
      }),
    async close() {
      closing.abort(new Error('the server is closed'));
      await Promise.allSettled([...makings.values()].map(({ points }) => points));
    },
  };
}

/** How long whoever asks may wait: the next question costs more than that. */
const patienceMs = 200;
const patience = (): Promise<undefined> =>
  new Promise((resolve) => {
    setTimeout(() => resolve(undefined), patienceMs).unref();
  });

async function make(
  index: SearchIndex,
  images: number,
  making: Making,
  signal: AbortSignal,
): Promise<MapPoints['points']> {
  const { dimension } = index.record.model;
  // Keys are hashes: the first of them are a sample, and the same one each time.
  const sample = await index.list({ limit: images });
  const vectors = new SharedArrayBuffer(sample.length * dimension * Float32Array.BYTES_PER_ELEMENT);
  for (let first = 0; first < sample.length; first += atOnce) {
    signal.throwIfAborted();
    const keys = sample.slice(first, first + atOnce).map(({ key }) => key);
    for (const [at, vector] of (await index.vectorsOf(keys)).entries())
      new Float32Array(vectors).set(vector, (first + at) * dimension);
  }
  const options: ProjectionOptions = { vectors, count: sample.length, dimension };
  const thread = openThread<'advance', ProjectionReply>('projection', options);
  try {
    const points = await advance(thread, making, signal);
    return sample.map(({ key, labels }, at) => ({
      key,
      x: points[2 * at] ?? 0,
      y: points[2 * at + 1] ?? 0,
      label: labels[0] ?? -1,
    }));
  } finally {
    await thread.close();
  }
}

async function advance(
  thread: Thread<'advance', ProjectionReply>,
  making: Making,
  signal: AbortSignal,
): Promise<Float32Array> {
  for (;;) {
    signal.throwIfAborted();
    const reply = await thread.call('advance');
    if ('points' in reply) return reply.points;
    making.progress = reply.progress;
  }
}

/** One file for every size of map of an output's index: a newer one takes its place. */
function nameOf(output: string, { model }: IndexRecord, images: number): string {
  return createHash('sha256').update(`${output}\n${model.fingerprint}\n${images}`).digest('hex').slice(0, 32);
}

async function readMap(path: string, record: IndexRecord): Promise<MapPoints['points'] | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    const { generation, builtAt, points } = storedMap.parse(JSON.parse(text));
    return generation === record.generation && builtAt === record.builtAt ? points : undefined;
  } catch {
    // Written by another version, or not to its end: it is made anew.
    return undefined;
  }
}

async function writeMap(
  path: string,
  { generation, builtAt }: IndexRecord,
  points: MapPoints['points'],
): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  await writeFile(
    unfinished,
    JSON.stringify({ v: 1, generation, builtAt, points } satisfies z.input<typeof storedMap>),
  );
  await rename(unfinished, path);
}
