/** What `lensmill verify` must find, and what it must let pass. Every case is a real run in a real store with one thing wrong. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { compareRow, toleranceOf } from '../src/checks/compare.ts';
import { chooseRows } from '../src/checks/sample.ts';
import { pageKey, partKey, requestKey, runKey, successKey } from '../src/layout.ts';
import { openPlan, readPage, writePage } from '../src/page.ts';
import { readPart } from '../src/parts/part.ts';
import { claimRun, createRun, readRun, readSuccess } from '../src/runs/run.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { isSound, type Verification, verifyRun } from '../src/verify.ts';
import { lensmill, smallModel } from './helpers/cli.ts';
import { finish, forgePart, itemsOf, makeFinishedRun, makePart } from './helpers/finished-run.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

/** Ten images in three parts; b and g failed. */
const ends = Object.fromEntries(
  [...'abcdefghij'].map((id) => [id, id === 'b' ? 'timeout' : id === 'g' ? 'truncated' : 'ok'] as const),
);

interface Place {
  folder: string;
  store: Store;
}

async function newPlace(): Promise<Place> {
  const folder = tempFolder();
  const store = openStore(folder, s3Defaults);
  await store.probe();
  return { folder, store };
}

async function verify(store: Store, id = 'r'): Promise<Verification> {
  return verifyRun(store, await readRun(store, id), await readSuccess(store, id));
}

async function itemsOfShard(store: Store, run: string, shard: number) {
  return openPlan(store)(await readRun(store, run), shard);
}

test('a good run is sound, and so is the retry of its failed images', async () => {
  const { store } = await newPlace();
  await makeFinishedRun(store, 'r', { ends });
  await makeFinishedRun(store, 'r.retry-1', { ends: { b: 'ok', g: 'truncated' }, request: { retryOf: 'r' } });
  await makeFinishedRun(store, 'r.retry-2', { ends: { g: 'ok' }, request: { retryOf: 'r' } });
  const found = await verify(store);
  expect(found).toMatchObject({
    items: 10,
    ok: 8,
    failed: 2,
    parts: 3,
    leftovers: 0,
    devices: ['cpu'],
    batches: [8],
    problems: [],
    retries: [
      { run: 'r.retry-1', items: 2, ok: 1, problems: [] },
      { run: 'r.retry-2', items: 1, ok: 1, problems: [] },
    ],
  });
  expect(isSound(found)).toBe(true);
});

type Damage = (place: Place) => void | Promise<void>;
const damages: [string, RegExp, Damage][] = [
  ['a part that is missing', /part-00001.*is missing/, ({ folder }) => rmSync(join(folder, partKey('r', 1)))],
  [
    'a byte that changed',
    /part-00001.*SHA-256/,
    ({ folder }) => changeFile(join(folder, partKey('r', 1)), (bytes) => bytes.fill(0x55, 100, 101)),
  ],
  [
    'a part of another run',
    /part-00001.*run "other", expected "r"/,
    async ({ folder, store }) => {
      const other = { ...(await readRun(store, 'r')), run: 'other' };
      forgePart(folder, 'r', 1, makePart(other, 1, await itemsOfShard(store, 'r', 1), ends));
    },
  ],
  [
    'a part of another version, model or source',
    /(?=[\s\S]*part-00001.*lensmill "0.0.1")(?=[\s\S]*part-00002.*topK)/,
    async ({ folder, store }) => {
      const run = await readRun(store, 'r');
      const [second, third] = await Promise.all([1, 2].map((shard) => itemsOfShard(store, 'r', shard)));
      forgePart(folder, 'r', 1, makePart(run, 1, second ?? [], ends, { lensmill: '0.0.1' }));
      forgePart(folder, 'r', 2, makePart({ ...run, topK: 4 }, 2, third ?? [], ends));
    },
  ],
  [
    'a row of another content than was planned',
    /part-00000.*row 2, c, is of .*etag of c.*/,
    async ({ folder, store }) => {
      const items = await itemsOfShard(store, 'r', 0);
      items.splice(2, 1, { ...itemsOf(['c'])[0], etag: 'another' } as (typeof items)[number]);
      forgePart(folder, 'r', 0, makePart(await readRun(store, 'r'), 0, items, ends));
    },
  ],
  [
    'a row too few',
    /part-00000.*3 rows for 4 items/,
    async ({ folder, store }) => {
      const items = (await itemsOfShard(store, 'r', 0)).slice(0, 3);
      forgePart(folder, 'r', 0, makePart(await readRun(store, 'r'), 0, items, ends));
    },
  ],
  [
    'a failed row that became ok',
    /part-00001.*_SUCCESS.json says otherwise/,
    async ({ folder, store }) => {
      const part = makePart(await readRun(store, 'r'), 1, await itemsOfShard(store, 'r', 1), {});
      forgePart(folder, 'r', 1, part);
    },
  ],
  [
    'sums that do not hold',
    /_SUCCESS.json says .*"ok":9.*the rows .*"ok":8/,
    ({ folder }) => changeJson(join(folder, successKey('r')), (success) => ({ ...success, ok: 9 })),
  ],
  [
    'a part that is named for two shards',
    /part-00000.*named for shard 0, expected 1/,
    ({ folder }) =>
      changeJson(join(folder, successKey('r')), (success) => {
        const [first, , third] = success.parts as unknown[];
        return { ...success, parts: [first, first, third] };
      }),
  ],
  [
    'a page of the plan that is missing',
    /page-00000.json: is missing/,
    ({ folder }) => rmSync(join(folder, pageKey('r', 0))),
  ],
  [
    'items that were changed after they were planned',
    /page-00000-.*it was changed/,
    ({ folder }) => {
      const plan = join(folder, 'runs/r/plan');
      const name = readdirSync(plan).find((each) => each.endsWith('.jsonl')) as string;
      changeFile(join(plan, name), (bytes) =>
        Buffer.from(bytes.toString().replace('etag of c', 'etag of C')),
      );
    },
  ],
  [
    'a run that is not what was asked for',
    /run.json is not what .*request.json asks for/,
    ({ folder }) => changeJson(join(folder, requestKey('r')), (request) => ({ ...request, maxBytes: 7 })),
  ],
  [
    'counts of the plan that do not hold',
    /run.json says 11 items, its pages 10/,
    ({ folder }) => changeJson(join(folder, runKey('r')), (run) => ({ ...run, items: 11 })),
  ],
  ...['part-00003.parquet', 'part-00001.parquet.part', 'deep/below/part-00001.parquet'].map(
    (name): [string, RegExp, Damage] => [
      `a stray parts/${name}`,
      new RegExp(`${name} belongs to no shard`),
      ({ folder }) => put(folder, `runs/r/parts/${name}`),
    ],
  ),
  ...['notes.txt', 'plan/page-00001.json', 'plan/page-00001-0123456789abcdef.jsonl', 'parts.old/x'].map(
    (name): [string, RegExp, Damage] => [
      `a stray ${name}`,
      new RegExp(`${name} belongs to nothing`),
      ({ folder }) => put(folder, `runs/r/${name}`),
    ],
  ),
];

test.each(damages)('%s is found', async (_what, expected, damage) => {
  const place = await newPlace();
  await makeFinishedRun(place.store, 'r', { ends });
  await damage(place);
  const found = await verify(place.store);
  expect(found.problems.join('\n')).toMatch(expected);
  expect(isSound(found)).toBe(false);
});

test.each([
  ['an id that is planned twice, side by side', ['a', 'b', 'b', 'c'], /'b' is there twice/],
  ['an id that is planned twice, far apart', ['a', 'b', 'c', 'd', 'a', 'e'], /'a' comes after 'd'/],
  ['ids in the order of UTF-16', ['\u{1F600}', '\uFFFD'], /'\uFFFD' comes after '\u{1F600}'/u],
])('%s is found', async (_what, ids, expected) => {
  const { store } = await newPlace();
  // planRun would refuse it.
  const request = makeRequest('r');
  await claimRun(store, request);
  await writePage(store, request, 0, { items: itemsOf(ids), skipped: 0 });
  const totals = {
    pages: 1,
    shards: Math.ceil(ids.length / 4),
    items: ids.length,
    bytes: 1000 * ids.length,
    skipped: 0,
    replaced: 0,
    gone: 0,
    kept: 0,
  };
  const run = await createRun(store, { ...request, ...totals });
  await finish(store, run, {});
  const { problems } = await verify(store);
  expect(problems).toHaveLength(1);
  expect(problems[0]).toMatch(expected);
});

test('ids in the order of UTF-8 are none', async () => {
  const { store } = await newPlace();
  await makeFinishedRun(store, 'r', { ends: { '\uFFFD': 'ok', '\u{1F600}': 'ok' } });
  expect((await verify(store)).problems).toEqual([]);
});

describe('of a retry', () => {
  test.each([
    ['an image that had not failed', { b: 'ok', c: 'ok' }, /c was not failed in run r/],
    ['an image that the run never had', { b: 'ok', bb: 'ok' }, /bb was not failed in run r/],
  ] as const)('%s is found', async (_what, retried, expected) => {
    const { store } = await newPlace();
    await makeFinishedRun(store, 'r', { ends });
    await makeFinishedRun(store, 'r.retry-1', { ends: retried, request: { retryOf: 'r' } });
    const found = await verify(store);
    expect(found.problems).toEqual([]);
    expect(found.retries[0]?.problems).toEqual([expect.stringMatching(expected)]);
    expect(isSound(found)).toBe(false);
    expect((await verify(store, 'r.retry-1')).problems).toEqual([expect.stringMatching(expected)]);
  });

  test('an image that an earlier one had mended is found', async () => {
    const { store } = await newPlace();
    await makeFinishedRun(store, 'r', { ends });
    for (const n of [1, 2])
      await makeFinishedRun(store, `r.retry-${n}`, { ends: { b: 'ok' }, request: { retryOf: 'r' } });
    const { retries } = await verify(store);
    expect(retries.map(({ problems }) => problems)).toEqual([[], ['b was not failed in run r']]);
  });

  test('another model or source is found', async () => {
    const { store } = await newPlace();
    await makeFinishedRun(store, 'r', { ends });
    const source = { ...makeRequest('r').source, uris: ['file:///elsewhere'] };
    await makeFinishedRun(store, 'r.retry-1', {
      ends: { b: 'ok' },
      request: { retryOf: 'r', topK: 3, source },
    });
    const [retry] = (await verify(store)).retries;
    expect(retry?.problems).toEqual([
      'r.retry-1 and r differ in their source',
      'r.retry-1 and r differ in their topK',
    ]);
  });

  test('one that is not finished is named, and is no problem', async () => {
    const { store } = await newPlace();
    await makeFinishedRun(store, 'r', { ends });
    await claimRun(store, makeRequest('r.retry-1', { retryOf: 'r' }));
    const found = await verify(store);
    expect(found).toMatchObject({ retries: [], unfinished: ['r.retry-1'] });
    expect(isSound(found)).toBe(true);
  });

  test('a run of a like name is none of its retries', async () => {
    const { store } = await newPlace();
    await makeFinishedRun(store, 'r', { ends });
    await makeFinishedRun(store, 'r.retry-1', { ends: { z: 'ok' } });
    await makeFinishedRun(store, 'r.retry-x', { ends: { z: 'ok' }, request: { retryOf: 'r' } });
    expect(await verify(store)).toMatchObject({ retries: [], unfinished: [], problems: [] });
  });
});

test('what a killed planner left is counted, and is no problem', async () => {
  const { folder, store } = await newPlace();
  await makeFinishedRun(store, 'r', { ends });
  put(folder, 'runs/r/plan/page-00000-0123456789abcdef.jsonl');
  expect(await verify(store)).toMatchObject({ leftovers: 1, problems: [] });
});

test('attempts that were not chosen may stand where the store cannot create atomically, and only there', async () => {
  const { folder, store } = await newPlace();
  await makeFinishedRun(store, 'r', { ends });
  await makeFinishedRun(wrapStore(store, { conditional: false }), 's', { ends });
  for (const run of ['r', 's']) put(folder, `runs/${run}/parts/part-00001.0a1b2c3d.parquet`);
  expect((await verify(store)).problems).toEqual([expect.stringContaining('belongs to no shard')]);
  // Who only reads knows no more of the store.
  expect(await verify(store, 's')).toMatchObject({ leftovers: 1, problems: [] });
});

test('workers on several devices make one run', async () => {
  const { folder, store } = await newPlace();
  await makeFinishedRun(store, 'r', { ends });
  const made = { device: 'cuda', batch: 64 };
  forgePart(
    folder,
    'r',
    1,
    makePart(await readRun(store, 'r'), 1, await itemsOfShard(store, 'r', 1), ends, made),
  );
  expect(await verify(store)).toMatchObject({ devices: ['cpu', 'cuda'], batches: [8, 64], problems: [] });
});

test('a run of several pages is proven page by page', async () => {
  const { folder, store } = await newPlace();
  const ids = Array.from({ length: 450 }, (_, n) => String(n).padStart(5, '0'));
  await makeFinishedRun(store, 'r', {
    ends: Object.fromEntries(ids.map((id) => [id, 'ok'])),
    request: { shardSize: 2 },
  });
  const progress: number[] = [];
  const run = await readRun(store, 'r');
  const found = await verifyRun(store, run, await readSuccess(store, 'r'), {
    onProgress: (parts) => progress.push(parts),
  });
  expect(found).toMatchObject({ items: 450, parts: 225, problems: [] });
  expect(progress.at(-1)).toBe(225);

  // The second page's items exchanged for the third's, with an index that fits them.
  const third = await readPage(store, 'r', 2);
  renameSync(join(folder, pageKey('r', 2)), join(folder, pageKey('r', 1)));
  expect(third).toBeDefined();
  expect((await verify(store)).problems.join('\n')).toMatch(
    /page-00001.json.*not what its name says|page-00002.json: is missing/,
  );
});

describe('the images done again', () => {
  test('are chosen evenly, each once, and the same for the same seed', () => {
    expect(chooseRows(10, 20, 1)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(chooseRows(1_000_000, 50, 7)).toEqual(chooseRows(1_000_000, 50, 7));
    expect(chooseRows(1_000_000, 50, 7)).not.toEqual(chooseRows(1_000_000, 50, 8));
    const hits = new Array<number>(20).fill(0);
    for (let seed = 0; seed < 4_000; seed++) {
      const rows = chooseRows(20, 5, seed);
      expect(new Set(rows).size).toBe(5);
      for (const row of rows) hits[row] = (hits[row] ?? 0) + 1;
    }
    // 1000 each, with a deviation of 27: five of them are missed by chance once in two million.
    for (const hit of hits) expect(Math.abs(hit - 1_000)).toBeLessThan(140);
  });

  test('are compared with a tolerance that knows devices, precision and how embeddings are stored', () => {
    const run = makeRequest('r');
    const half = { ...run, model: { ...run.model, precision: 'fp16' as const } };
    expect(toleranceOf(run, ['cpu', 'cpu']).distance).toBe(1e-4);
    expect(toleranceOf({ ...run, embedding: 'float16' }, ['cpu', 'cpu']).distance).toBeCloseTo(1.1e-3);
    expect(toleranceOf(run, ['cpu', 'cuda']).distance).toBe(5e-3);
    expect(toleranceOf(half, ['cpu', 'cpu']).distance).toBe(5e-3);
  });

  test('may exchange labels of nearly the same score, and no others', () => {
    const numbers = {
      labels: Int32Array.of(3, 5, 9),
      scores: Float32Array.of(0.5, 0.2, 0.19999),
      embedding: Float32Array.of(1, 2),
    };
    const row = {
      item: itemsOf(['a'])[0] as ReturnType<typeof itemsOf>[number],
      error: null,
      sha256: 'x',
      device: 'cpu',
      ...numbers,
      whole: numbers,
    };
    const making = { topK: 3, model: { dimension: 2 } };
    const outcome = { status: 'ok', sha256: 'x', bytes: 1, width: 1, height: 1, format: 'jpeg' } as const;
    const tolerance = { distance: 1e-4, reason: '' };
    const verdict = (labels: number[]) =>
      compareRow(row, { ...row, outcome, labels: Int32Array.from(labels) }, tolerance, making).verdict;
    expect(verdict([3, 5, 9])).toBe('same');
    expect(verdict([3, 9, 5])).toBe('same');
    expect(verdict([3, 5, 77])).toBe('same'); // just below the last one, by all that is known
    expect(verdict([5, 3, 9])).toBe('differs');
    expect(verdict([77, 5, 9])).toBe('differs');
  });
});

describe('verify --deep', () => {
  const photos = join(tempFolder(), 'photos');
  const output = tempFolder();
  beforeAll(async () => {
    await makePhotoArchive(photos, 24);
    await index('r');
    await index('half', '--embedding', 'float16');
  });

  async function index(run: string, ...flags: string[]): Promise<void> {
    const small = ['--model', smallModel, '--shard-size', '8', '--run', run];
    const { exitCode } = await lensmill(['index', photos, '--output', output, ...small, ...flags]);
    expect(exitCode).toBe(0);
  }

  async function deep(run: string, ...flags: string[]) {
    const { exitCode, stdout, stderr } = await lensmill([
      'verify',
      run,
      '--output',
      output,
      '--json',
      ...flags,
    ]);
    return { exitCode, result: stdout ? JSON.parse(stdout) : {}, stderr };
  }

  test.each(['r', 'half'])('finds the same numbers again, in other batches (%s)', async (run) => {
    const { exitCode, result } = await deep(run, '--deep', '10', '--seed', '3', '--batch', '3');
    expect(result.deep).toMatchObject({
      sampled: 10,
      seed: 3,
      device: 'cpu',
      same: 10,
      different: [],
      unknown: [],
    });
    expect(result.deep.distance).toBeLessThan(result.deep.tolerance.distance);
    expect(exitCode).toBe(0);
  });

  test('what was typed wrong is one line, and exit code 2', async () => {
    const wrong = [
      ['--deep', 'all'],
      ['--deep', '3', '--seed', 'x'],
      ['--deep', '3', '--device', 'cuda:9'],
    ];
    for (const flags of wrong) {
      const { exitCode, stderr } = await deep('r', ...flags);
      expect({ flags, exitCode }).toEqual({ flags, exitCode: 2 });
      expect(stderr).toMatch(new RegExp(flags.at(-2) as string));
    }
  });

  test('finds an embedding that is not that of its image, and says of a changed image that it cannot tell', async () => {
    const store = openStore(output, s3Defaults);
    const [first, second] = await openPlan(store)(await readRun(store, 'r'), 0);
    if (!first || !second) throw new Error('two images, at least');
    writeFileSync(join(photos, first.id), readFileSync(join(photos, second.id)));
    const changed = {
      id: first.id,
      why: expect.stringMatching(/was ok, is changed now: .*than when listed/),
    };
    const afterwards = await deep('r', '--deep', '100');
    expect(afterwards.exitCode).toBe(3);
    expect(afterwards.result.deep).toMatchObject({ same: 23, different: [], unknown: [changed] });

    const key = partKey('r', 1);
    const part = Buffer.from((await store.read(key)) as Uint8Array);
    const { ids, embeddings } = readPart(part, key);
    const [mine, other] = [0, 1].map((row) =>
      Buffer.from(embeddings.slice(row * 2048, (row + 1) * 2048).buffer),
    );
    // Embeddings lie in the part as they are.
    part.set(other as Buffer, part.indexOf(mine as Buffer));
    forgePart(output, 'r', 1, part);
    const { exitCode, result } = await deep('r', '--deep', '100');
    expect(exitCode).toBe(1);
    expect(result).toMatchObject({ sound: true, deep: { sampled: 24, same: 22, unknown: [changed] } });
    expect(result.deep.different).toEqual([
      { id: ids[0], why: expect.stringMatching(/its embedding is .*e-1 away|its embedding is .*e\+0 away/) },
    ]);
  });
});

function put(folder: string, key: string): void {
  mkdirSync(dirname(join(folder, key)), { recursive: true });
  writeFileSync(join(folder, key), 'x');
}

function changeFile(path: string, change: (bytes: Buffer) => Uint8Array): void {
  writeFileSync(path, change(readFileSync(path)));
}

function changeJson(path: string, change: (value: Record<string, unknown>) => object): void {
  changeFile(path, (bytes) => Buffer.from(JSON.stringify(change(JSON.parse(bytes.toString())))));
}
