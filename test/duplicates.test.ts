/** Groups of images that look alike. */
import { describe, expect, test } from 'vitest';
import { buildIndex } from '../src/search/build.ts';
import { type Duplicates, findDuplicates } from '../src/search/duplicates.ts';
import { openIndex } from '../src/search/open-index.ts';
import type { IndexedImage, SearchIndex } from '../src/search/search-index.ts';
import { openStore } from '../src/stores/open-store.ts';
import { uniform } from '../src/uniform.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { type EmbeddedImage, makeEmbeddedRun, modelOf } from './helpers/embedded-run.ts';
import { s3Defaults as s3 } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const closing = closeAfterEach<SearchIndex>();

async function indexOf(...runs: (readonly EmbeddedImage[])[]): Promise<SearchIndex> {
  const store = openStore(tempFolder(), s3);
  await store.probe();
  for (const [day, images] of runs.entries())
    await makeEmbeddedRun(store, `day-${day}`, images, { createdAt: `2026-01-0${day + 1}T00:00:00.000Z` });
  const { fingerprint } = modelOf(runs[0]?.[0]?.embedding.length ?? 0);
  await buildIndex(store, { fingerprint, s3 });
  return closing(await openIndex(store, { s3 }));
}

/** A direction in a plane. */
const towards = (degrees: number): number[] => [
  Math.cos((degrees * Math.PI) / 180),
  Math.sin((degrees * Math.PI) / 180),
];
const cosineOf = (degrees: number): number => Math.cos((degrees * Math.PI) / 180);

function idsOf({ groups }: Duplicates): string[][] {
  return groups.map(({ images }) => images.map(({ id }) => id));
}

describe('a group', () => {
  test('is what is near the image with the most pixels, and the others go by their cosine to it', async () => {
    const index = await indexOf([
      { id: 'small', embedding: towards(1), width: 100 },
      { id: 'large', embedding: towards(0), width: 900 },
      { id: 'middle', embedding: towards(4), width: 500 },
      { id: 'other', embedding: towards(90), width: 2000 },
    ]);
    const found = await findDuplicates(index, { threshold: cosineOf(5) });
    expect(idsOf(found)).toEqual([['large', 'small', 'middle']]);
    expect(found).toMatchObject({ images: 4, found: 1, surplus: { images: 2, bytes: 2000 } });
    const scores = found.groups[0]?.images.map(({ score }) => score);
    expect(scores).toEqual([1, expect.closeTo(cosineOf(1), 3), expect.closeTo(cosineOf(4), 3)]);
  });

  test('is no chain: pictures that each resemble the next are parted where they are far from the one that is kept', async () => {
    const chain = Array.from({ length: 9 }, (_, n) => ({
      id: `frame-${n}`,
      embedding: towards(4 * n),
      bytes: 9000 - n,
    }));
    const found = await findDuplicates(await indexOf(chain), { threshold: cosineOf(9) });
    expect(idsOf(found)).toEqual([
      ['frame-0', 'frame-1', 'frame-2'],
      ['frame-3', 'frame-4', 'frame-5'],
      ['frame-6', 'frame-7', 'frame-8'],
    ]);
  });

  test('keeps of equals the larger file, then the one of the older run, then the first by id', async () => {
    const pair = (place: number, name: string, bytes = 1000) => ({
      id: name,
      embedding: towards(place),
      bytes,
    });
    const index = await indexOf(
      [pair(0, 'b'), pair(0, 'a'), pair(40, 'old'), pair(80, 'light')],
      [pair(40, 'new'), pair(80, 'heavy', 1001)],
    );
    const found = await findDuplicates(index, { threshold: 0.99 });
    expect(idsOf(found).toSorted()).toEqual([
      ['a', 'b'],
      ['heavy', 'light'],
      ['old', 'new'],
    ]);
  });

  test('says which are the same to the byte, and has those too that no threshold would let in', async () => {
    const index = await indexOf([
      { id: 'first', embedding: towards(0), content: 'x', width: 900 },
      { id: 'second', embedding: towards(0), content: 'x', width: 900 },
      { id: 'near', embedding: towards(1), content: 'y' },
      { id: 'near too', embedding: towards(1), content: 'y' },
    ]);
    const { groups } = await findDuplicates(index, { threshold: 0.99 });
    expect(groups[0]?.images.map(({ id, isCopy }) => [id, isCopy])).toEqual([
      ['first', false],
      ['second', true],
      ['near', false],
      ['near too', false],
    ]);
    const exact = await findDuplicates(index, { threshold: 1 });
    expect(idsOf(exact)).toEqual([
      ['first', 'second'],
      ['near', 'near too'],
    ]);
  });

  test('is made of what the filter lets through, and the largest come first', async () => {
    const index = await indexOf([
      { id: 'a/1', embedding: towards(0) },
      { id: 'a/2', embedding: towards(0), width: 999 },
      { id: 'a/3', embedding: towards(50) },
      { id: 'b/1', embedding: towards(0), width: 5000 },
      { id: 'b/2', embedding: towards(50), labels: [3, 4] },
      { id: 'b/3', embedding: towards(50), labels: [4, 3] },
    ]);
    const found = (filter: object, limit = 9) => findDuplicates(index, { threshold: 0.99, filter, limit });
    expect(idsOf(await found({ prefix: 'a/' }))).toEqual([['a/2', 'a/1']]);
    expect(idsOf(await found({ labels: [3] }))).toEqual([['b/2', 'b/3']]);
    expect(idsOf(await found({ labels: [9] }))).toEqual([]);
    const one = await found({}, 1);
    expect(one).toMatchObject({ found: 2, surplus: { images: 4 } });
    expect(idsOf(one)).toEqual([['b/1', 'a/2', 'a/1']]);
  });
});

/** What the promise is, in the plainest words. */
function plainGroups(images: IndexedImage[], vectors: Map<string, Float32Array>, threshold: number) {
  const cosine = (a: IndexedImage, b: IndexedImage): number => {
    const q = vectors.get(b.key);
    return (vectors.get(a.key) ?? new Float32Array()).reduce(
      (sum, value, at) => sum + value * (q?.[at] ?? 0),
      0,
    );
  };
  const ranked = images.toSorted(
    (a, b) => b.width * b.height - a.width * a.height || b.bytes - a.bytes || (a.id < b.id ? -1 : 1),
  );
  const keepers: IndexedImage[] = [];
  const groups = new Map<string, Set<string>>();
  for (const image of ranked) {
    const twin = ranked.find(({ sha256 }) => sha256 === image.sha256) ?? image;
    const near = keepers
      .map((keeper) => ({ keeper, score: twin === keeper ? 2 : cosine(twin, keeper) }))
      .filter(({ score }) => score >= threshold)
      .sort((a, b) => b.score - a.score)[0];
    if (near) groups.get(near.keeper.id)?.add(image.id);
    else {
      keepers.push(image);
      groups.set(image.id, new Set([image.id]));
    }
  }
  return new Map([...groups].filter(([, members]) => members.size > 1));
}

test.each([
  ['all with all', Number.POSITIVE_INFINITY],
  ['by the index', 0],
])('groups are those of plain arithmetic, however many there are: %s', async (_, mostBytes) => {
  const random = uniform(5);
  const normal = (): number => random() + random() + random() - 1.5;
  const direction = (): number[] => Array.from({ length: 16 }, normal);
  const centres = Array.from({ length: 700 }, direction);
  // More than one block of rows and columns where all are compared; the index is asked once for each.
  const count = mostBytes === 0 ? 400 : 2500;
  const images = Array.from({ length: count }, (_, n): EmbeddedImage => {
    const centre = centres[Math.floor(random() * (count / 3.5))] ?? direction();
    const embedding = centre.map((value) => value + 0.12 * normal());
    return { id: `${n}`, embedding, width: 100 + Math.floor(random() * 40), bytes: 1000 + (n % 7) };
  });
  for (let n = 10; n < count; n += 50)
    Object.assign(images[n] as EmbeddedImage, { ...images[n - 9], id: `${n}`, content: `${n - 9}` });

  const index = await indexOf(images);
  const vectors = new Map<string, Float32Array>();
  const all: IndexedImage[] = [];
  for await (const batch of index.scan()) {
    all.push(...batch.images);
    for (const [at, { key }] of batch.images.entries())
      vectors.set(key, batch.vectors.subarray(at * 16, (at + 1) * 16));
  }
  const seen: number[] = [];
  const threshold = 0.975;
  const found = await findDuplicates(index, {
    threshold,
    mostBytes,
    onProgress: ({ done }) => seen.push(done),
  });
  const plain = plainGroups(all, vectors, threshold);
  expect(plain.size).toBeGreaterThan(50);
  expect(
    new Map(found.groups.map(({ images }) => [images[0]?.id, new Set(images.map(({ id }) => id))])),
  ).toEqual(plain);
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  // Of the same bytes only one is compared.
  expect(seen.at(-1)).toBe(count - Math.ceil((count - 10) / 50));
});

test('where every picture looks alike, as to an untrained model, there is one group, soon', async () => {
  const images = Array.from({ length: 600 }, (_, n) => ({ id: `${n}`, embedding: towards(n / 600) }));
  const index = await indexOf(images);
  for (const mostBytes of [1e9, 0]) {
    const found = await findDuplicates(index, { threshold: 0.97, mostBytes });
    expect(found.groups.map(({ images }) => images.length)).toEqual([600]);
  }
});

test('an interrupted search for them ends with the reason', async () => {
  const index = await indexOf([
    { id: 'a', embedding: towards(0) },
    { id: 'b', embedding: towards(0) },
  ]);
  for (const mostBytes of [1e9, 0]) {
    const signal = AbortSignal.abort(new Error('stopped here'));
    await expect(findDuplicates(index, { threshold: 0.9, mostBytes, signal })).rejects.toThrow(
      'stopped here',
    );
  }
});
