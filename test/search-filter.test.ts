/** Filters: that what they say is what is found, whatever characters are in it. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { toHalf } from '../src/models/half.ts';
import { writeGeneration } from '../src/search/build.ts';
import { quote } from '../src/search/filter.ts';
import { takeLease } from '../src/search/lease.ts';
import { openIndex } from '../src/search/open-index.ts';
import { imageKey } from '../src/search/rows.ts';
import type { Filter, IndexedImage, SearchIndex } from '../src/search/search-index.ts';
import { openStore } from '../src/stores/open-store.ts';
import { uniform } from '../src/uniform.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { syntheticModel } from './helpers/synthetic-index.ts';
import { tempFolder } from './helpers/temp.ts';

const model = syntheticModel(8);
/** Of what a file may be called, and what SQL, LIKE and regular expressions make something of. */
const pieces = ["'", "''", '"', '%', '_', '\\', '--', '/*', ';', '\n', '\0', 'a', 'A', 'é', 'e\u0301', '😀', '/', ' ', '%27', '$1', '{0}', '?', 'x'] as const; // biome-ignore format: a table
const random = uniform(7);
const anyOf = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;

const images: IndexedImage[] = Array.from({ length: 400 }, (_, n) => {
  const id = `${Array.from({ length: 1 + (n % 5) }, () => anyOf(pieces)).join('')}${n}`;
  return {
    key: imageKey(`file:///${n}`, id),
    id,
    uri: `file:///${n}`,
    etag: '',
    run: anyOf(['one', "it's", 'three']),
    runAt: anyOf(['2026-01-01T00:00:00.000Z', '2026-02-01T12:00:00.500Z', '2026-03-01T00:00:00.000Z']),
    sha256: '',
    bytes: Math.floor(random() * 1000),
    width: 1 + Math.floor(random() * 100),
    height: 1 + Math.floor(random() * 100),
    format: 'jpeg',
    labels: [anyOf([0, 1, 2, 999]), anyOf([3, 4, 5])],
    scores: [0.5, 0.25],
  };
});

let index: SearchIndex;
beforeAll(async () => {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  const lease = await takeLease(store, model.fingerprint);
  const halves = toHalf(Float32Array.from({ length: images.length * 8 }, () => random() - 0.5));
  const batch = { keys: [], ids: [], rows: { images, halves }, taken: images.length, leftOut: {} };
  await writeGeneration(store, lease, {
    ...{ model, how: 'built', record: undefined, base: undefined, s3: s3Defaults, signal: undefined },
    allRuns: [{ run: 'one' }, { run: "it's" }, { run: 'three' }],
    batches: (async function* () {
      yield batch;
    })(),
    total: images.length,
  });
  await lease.release();
  index = await openIndex(store, { s3: s3Defaults });
});
afterAll(() => index?.close());

/** The contract, word by word. */
function passes(image: IndexedImage, filter: Filter): boolean {
  const { labels, prefix, runs, minBytes, maxBytes, minSide, since, before } = filter;
  return (
    (labels === undefined || labels.some((label) => image.labels.includes(label))) &&
    (prefix === undefined || image.id.startsWith(prefix)) &&
    (runs === undefined || runs.includes(image.run)) &&
    (minBytes === undefined || image.bytes >= minBytes) &&
    (maxBytes === undefined || image.bytes <= maxBytes) &&
    (minSide === undefined || Math.min(image.width, image.height) >= minSide) &&
    (since === undefined || Date.parse(image.runAt) >= Date.parse(since)) &&
    (before === undefined || Date.parse(image.runAt) < Date.parse(before))
  );
}

const prefix = fc.oneof(
  fc.array(fc.constantFrom(...pieces), { maxLength: 3 }).map((parts) => parts.join('')),
  fc.constantFrom(...images).map(({ id }) => id.slice(0, 2)),
  fc.string({ unit: 'binary', maxLength: 4 }),
);
const time = fc.constantFrom('2026-01-01T00:00:00Z', '2026-02-01T13:00:00.5+01:00', '2026-02-15T00:00:00Z');
const filters: fc.Arbitrary<Filter> = fc.record(
  {
    labels: fc.array(fc.constantFrom(0, 1, 3, 5, 7, 999), { maxLength: 3 }),
    prefix,
    runs: fc.array(fc.constantFrom('one', "it's", 'three', "' OR 1=1 --"), { maxLength: 3 }),
    minBytes: fc.nat(1000),
    maxBytes: fc.nat(1000),
    minSide: fc.nat(60),
    since: time,
    before: time,
  },
  { requiredKeys: [] },
);

test('a filter passes what its words say', async () => {
  await fc.assert(
    fc.asyncProperty(filters, async (filter) => {
      const expected = images.filter((image) => passes(image, filter)).map(({ key }) => key);
      const listed = await index.list({ filter, limit: 1000 });
      expect(listed.map(({ key }) => key)).toEqual(expected.toSorted());
      expect(await index.count(filter)).toBe(expected.length);
    }),
    { numRuns: 150 },
  );
});

test('a search with a filter finds as many as there are, best first, and none twice', async () => {
  const vector = Float32Array.from({ length: 8 }, () => random() - 0.5);
  const all = await index.search({ vectors: [vector], k: 400 });
  expect(all).toHaveLength(400);
  await fc.assert(
    fc.asyncProperty(filters, fc.integer({ min: 1, max: 20 }), async (filter, k) => {
      const wanted = all.filter((image) => passes(image, filter));
      const found = await index.search({ vectors: [vector], k, filter });
      expect(found).toEqual(wanted.slice(0, k));
      const [best, ...others] = wanted;
      if (!best) return;
      const without = await index.search({ vectors: [vector], k, filter, without: [best.key], minScore: 0 });
      expect(without).toEqual(others.filter(({ score }) => score >= 0).slice(0, k));
    }),
    { numRuns: 50 },
  );
});

test('an image is found by any name that it may have', async () => {
  for (const image of images.slice(0, 60)) {
    expect(await index.find(image.id)).toEqual(image);
    expect(await index.find(image.uri)).toEqual(image);
  }
  expect(await index.find("' OR 'a' = 'a")).toBeUndefined();
  expect(await index.get("' OR 'a' = 'a")).toBeUndefined();
  await expect(index.vectorsOf(["' OR 'a' = 'a"])).rejects.toMatchObject({ code: 'no-image' });
  expect(quote("it's")).toBe("'it''s'");
});

test('pages follow each other, and together are all', async () => {
  const keys: string[] = [];
  for (let after: string | undefined; ; after = keys.at(-1)) {
    const page = await index.list({ limit: 37, ...(after !== undefined && { after }) });
    if (page.length === 0) break;
    keys.push(...page.map(({ key }) => key));
  }
  expect(keys).toEqual(images.map(({ key }) => key).toSorted());
});

test('what cannot be searched for is refused', async () => {
  const search = (...vectors: Float32Array[]) => index.search({ vectors, k: 1 });
  await expect(search(new Float32Array(16).fill(1))).rejects.toMatchObject({ code: 'wrong-dimension' });
  await expect(search(new Float32Array(8))).rejects.toMatchObject({ code: 'no-direction' });
  await expect(search(new Float32Array(8).fill(Number.NaN))).rejects.toMatchObject({ code: 'no-direction' });
  const one = new Float32Array(8).fill(1);
  await expect(
    search(
      one,
      one.map((value) => -value),
    ),
  ).rejects.toMatchObject({ code: 'no-direction' });
});
