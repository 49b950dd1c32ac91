/** What an index finds of what is there, and when there is one. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { attemptsFor, fewImages, isUntidy, partitionsFor, upkeepOf } from '../src/search/kind.ts';
import { openIndex } from '../src/search/open-index.ts';
import { answerByScan, answerQueries, checkIndex, drawQueries, recallOf } from '../src/search/recall.ts';
import type { Filter, SearchIndex } from '../src/search/search-index.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { s3Defaults as s3 } from './helpers/s3-options.ts';
import { makeSyntheticIndex, syntheticModel } from './helpers/synthetic-index.ts';
import { tempFolder } from './helpers/temp.ts';
import { clusteredVectors } from './helpers/vectors.ts';

const dimension = 2048;
const images = 2400;
const vectors = clusteredVectors({ dimension, seed: 5, clusters: 40 });

let store: Store;
let index: SearchIndex;
beforeAll(async () => {
  store = openStore(tempFolder(), s3);
  await store.probe();
  await makeSyntheticIndex(store, { images, dimension, vectors, s3 });
  index = await openIndex(store, { s3 });
});
afterAll(() => index?.close());

async function recall(opened: SearchIndex, k: number, filter?: Filter): Promise<number> {
  const filtered: Pick<SearchIndex, 'search'> = {
    search: (request) => opened.search({ ...request, ...(filter && { filter }) }),
  };
  const queries = await drawQueries(opened, 30);
  const truths = await answerQueries(filtered, queries, { k, exact: true });
  const answers = await answerQueries(filtered, queries, { k, exact: false });
  for (const [at, { scores }] of truths.entries()) expect(answers[at]?.scores).toHaveLength(scores.length);
  return recallOf(truths, answers, k);
}

test('an index of many images finds 99 of 100 of what comparing all finds', async () => {
  expect(index.record).toMatchObject({ kind: 'ivf-rq', images, parameters: { trainedFor: images } });
  expect(index.record.parameters.recall).toBeGreaterThanOrEqual(0.995);
  const check = await checkIndex(index, { queries: 80 });
  expect(check.queries).toBe(80);
  expect(check.recallAt10).toBeGreaterThanOrEqual(0.99);
  expect(await recall(index, 100)).toBeGreaterThanOrEqual(0.99);
});

test('one scan finds for many images what comparing each with all does', async () => {
  const queries = await drawQueries(index, 40);
  const truths = await answerQueries(index, queries, { k: 10, exact: true });
  const answers = await answerByScan(index, queries, { k: 10 });
  for (const [at, { scores }] of truths.entries())
    for (const [place, score] of scores.entries()) expect(answers[at]?.scores[place]).toBeCloseTo(score, 5);
});

test('so it does among the images that a filter passes, be they many or few', async () => {
  const many: Filter = { minSide: 300 };
  const few: Filter = { prefix: '2026/07/' };
  const one: Filter = { prefix: '2026/07/photo-107.' };
  expect(await index.count(many)).toBeGreaterThan(fewImages(dimension));
  expect(await index.count(few)).toBe(images / 100);
  expect(await recall(index, 10, many)).toBeGreaterThanOrEqual(0.99);
  expect(await recall(index, 50, few)).toBe(1);
  expect(await recall(index, 10, one)).toBe(1);
  expect(await recall(index, 10, { labels: [5] })).toBe(1);
});

test('so it does where all that a filter passes lies far from what is searched for, and for a single hit', async () => {
  const [wide, images] = [8192, 1100];
  const [some, others] = [6, 7].map((seed) => clusteredVectors({ dimension: wide, seed, clusters: 6 }));
  const halves = (rows: number): Float32Array => {
    const both = new Float32Array(rows * wide);
    for (const [at, half] of [some, others].entries())
      both.set(half?.(rows / 2) ?? [], (at * rows * wide) / 2);
    return both;
  };
  const apart = openStore(tempFolder(), s3);
  await apart.probe();
  const { kind } = await makeSyntheticIndex(apart, { images, dimension: wide, vectors: halves, s3 });
  expect(kind).toBe('ivf-rq');
  const opened = await openIndex(apart, { s3 });
  try {
    // The sizes of files count up: these are the images of the first half.
    const first: Filter = { maxBytes: 10_000 + images / 2 - 1 };
    expect(await opened.count(first)).toBeGreaterThan(fewImages(wide));
    expect(await recall(opened, 10, first)).toBeGreaterThanOrEqual(0.99);
    expect(await recall(opened, 1)).toBe(1);
  } finally {
    await opened.close();
  }
});

test('images that were added are found, and those that were there still are', async () => {
  const before = index.record.parameters;
  await makeSyntheticIndex(store, { images: 200, dimension, vectors, s3 });
  const later = await openIndex(store, { s3 });
  try {
    expect(later.record).toMatchObject({
      images: images + 200,
      parameters: { trainedFor: images, addedSince: 200, nprobes: before.nprobes },
    });
    const added = await later.find('2026/50/photo-2550.jpg');
    const [vector] = await later.vectorsOf([added?.key as string]);
    const [hit] = await later.search({ vectors: [vector as Float32Array], k: 1 });
    expect(hit).toMatchObject({ key: added?.key, score: expect.closeTo(1, 4) });
    expect(await recall(later, 10)).toBeGreaterThanOrEqual(0.99);
    expect(await index.find('2026/50/photo-2550.jpg')).toBeUndefined();
  } finally {
    await later.close();
  }
});

test('few images need no index, and one is trained again when there are half as many more', () => {
  const model = syntheticModel(dimension);
  const few = fewImages(dimension);
  expect(upkeepOf({ images: few, model }, undefined, few)).toBe('none');
  expect(upkeepOf({ images: few + 1, model }, undefined, few + 1)).toBe('train');
  const base = { kind: 'ivf-rq' as const, parameters: { trainedFor: 10_000, addedSince: 0 } };
  const upkeep = (size: number, added: number) => upkeepOf({ images: size, model }, base, added);
  expect([upkeep(10_100, 100), upkeep(12_000, 2_000), upkeep(15_001, 5_001)]).toEqual([
    'keep',
    'measure',
    'train',
  ]);
  // Replaced ones count: the partitions were not found for them.
  expect(upkeep(10_000, 6_000)).toBe('train');
  expect(upkeep(4_000, 0)).toBe('train');
  const exact = { kind: 'exact' as const, parameters: { trainedFor: 10_000, addedSince: 0 } };
  expect(upkeepOf({ images: 12_000, model }, exact, 2_000)).toBe('keep');
  expect(isUntidy({ images: 10_000, model }, { loose: 100, files: 3 })).toBe(false);
  expect(isUntidy({ images: 10_000, model }, { loose: 100, files: 30 })).toBe(true);
  expect(isUntidy({ images: 10_000, model }, { loose: 3_000, files: 3 })).toBe(true);
});

test('what costs least is tried first, and in the end every partition', () => {
  const attempts = attemptsFor(100_000, partitionsFor(100_000));
  expect(attempts[0]).toEqual({ nprobes: 5, refineFactor: 4 });
  expect(attempts.at(-1)).toEqual({ nprobes: 79, refineFactor: 64 });
  expect(attempts).toHaveLength(25);
});
