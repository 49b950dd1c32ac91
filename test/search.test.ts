/** `lensmill search` and `lensmill duplicates` as their user meets them, and what they understand. */
import { mkdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { filterOf } from '../src/cli/filters.ts';
import { findQuery } from '../src/cli/queries.ts';
import { columnsOf } from '../src/cli/text-table.ts';
import { cpu } from '../src/devices/cpu.ts';
import { findLabels } from '../src/models/labels.ts';
import type { Run } from '../src/runs/run.ts';
import { buildIndex } from '../src/search/build.ts';
import { openIndex } from '../src/search/open-index.ts';
import { embedQueries } from '../src/search/queries.ts';
import type { IndexedImage, SearchIndex } from '../src/search/search-index.ts';
import { openStore } from '../src/stores/open-store.ts';
import { openEmbedder } from '../workers/embedder.ts';
import { lensmill, smallModel } from './helpers/cli.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { contextOf } from './helpers/context.ts';
import { indexHere } from './helpers/index-here.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { s3Defaults as s3 } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';
import { serveWeb } from './helpers/web-server.ts';

const folder = tempFolder();
const outside = tempFolder();
const cache = tempFolder();
const store = openStore(tempFolder(), s3);
const original = 'part-0/00002.jpg';
const closing = closeAfterEach<SearchIndex>();
let run: Run;

beforeAll(async () => {
  // Each of another photograph.
  await makePhotoArchive(folder, 12);
  mkdirSync(join(folder, 'part-1'));
  writeFileSync(join(folder, 'part-1/copy.jpg'), readFileSync(join(folder, original)));
  await sharp(join(folder, original))
    .extract({ left: 15, top: 10, width: 470, height: 355 })
    .resize(300)
    .webp({ quality: 70 })
    .toFile(join(outside, 'seen-elsewhere.webp'));
  await store.probe();
  const context = contextOf({ model: smallModel, device: 'cpu', lanes: 1, sessions: 1, cacheDir: cache });
  run = await indexHere(context, store, { id: 'day', sources: [folder] });
  await buildIndex(store, { fingerprint: run.model.fingerprint, s3 });
});

const place = (name: string): string => join(folder, name);
const open = async (): Promise<SearchIndex> => closing(await openIndex(store, { s3 }));

describe('lensmill search', () => {
  test('finds the original of a picture that was cropped, scaled and encoded anew', async () => {
    const html = join(outside, 'hits.html');
    const { exitCode, stdout, stderr } = await lensmill([
      'search', store.uri, join(outside, 'seen-elsewhere.webp'), '-k', '3', '--cache', cache, '--json', '--html', html,
    ]); // biome-ignore format: a command
    expect([exitCode, stderr]).toEqual([0, '']);
    const result = JSON.parse(stdout);
    // Twice: it is there twice.
    expect(
      result.hits
        .map(({ id }: IndexedImage) => id)
        .slice(0, 2)
        .toSorted(),
    ).toEqual([original, 'part-1/copy.jpg']);
    expect(result.hits).toHaveLength(3);
    expect(result.hits[0].score).toBeGreaterThan(result.hits[2].score);
    const { label, name } = result.hits[0].labels[0];
    expect(findLabels(String(label), 1000)).toEqual(findLabels(name, 1000).slice(-1));
    expect(result).toMatchObject({
      query: [{ name: join(outside, 'seen-elsewhere.webp'), key: null, labels: { length: 5 } }],
      index: { fingerprint: run.model.fingerprint, untrained: true, images: 13 },
      k: 3,
      filter: {},
      html,
    });
    const page = readFileSync(html, 'utf8');
    expect(page.match(/src="data:image\/webp/g)).toHaveLength(4);
    expect(page).toContain('Untrained weights');
    expect(page).toContain('part-1/copy.jpg');
  });

  test('by images of the index finds others, near all of them, without a model', async () => {
    const words = [original, 'part-1/copy.jpg', 'id:part-0/00005.jpg'];
    // Nothing could be embedded by this device.
    const { stdout, exitCode } = await lensmill([
      'search',
      store.uri,
      ...words,
      '--device',
      'cuda:9',
      '-k',
      '20',
    ]);
    expect(exitCode).toBe(0);
    const [banner = '', table = ''] = stdout.split(/(?=query )/);
    expect(banner).toContain('UNTRAINED');
    expect(stdout).toMatch(
      /found {2}10 of 13 images\n\nrank +score +label +id +run +size\n {3}1 {2}0\.\d{4} /,
    );
    expect(table + stdout.slice(banner.length)).not.toMatch(/\d\.\d{4} .*part-1\/copy\.jpg/);
  });
});

test('lensmill duplicates tells what is there twice, and what it would keep', async () => {
  const html = join(outside, 'groups.html');
  const { exitCode, stdout, stderr } = await lensmill([
    'duplicates', store.uri, '--threshold', '0.9999', '--cache', cache, '--html', html,
  ]); // biome-ignore format: a command
  expect([exitCode, stderr]).toEqual([0, '']);
  expect(stdout).toMatch(/1 group among 13 images\n1 images beside those kept/);
  expect(stdout).toMatch(/1 {2}keep +part-0\/00002\.jpg +day +500×375 .*\n +same +part-1\/copy\.jpg/);
  expect(readFileSync(html, 'utf8')).toMatch(/>keep<[\s\S]*>same bytes</);
});

describe('a word to search by is', () => {
  test('a file, where one lies there; an image of the index; or what its beginning says', async () => {
    const index = await open();
    const image = await index.find(original);
    if (!image) throw new Error('it was indexed');
    const other = join(outside, 'seen-elsewhere.webp');
    const found = async (word: string) => {
      const query = await findQuery(index, word);
      return 'image' in query ? query.image.id : query.picture;
    };
    expect(await found(other)).toEqual({ file: other });
    expect(await found(`file:${other}`)).toEqual({ file: other });
    expect(await found(`file://${other}`)).toEqual({ file: other });
    for (const word of [
      original,
      `id:${original}`,
      image.key,
      `id:${image.key}`,
      image.uri,
      `id:${image.uri}`,
    ])
      expect(await found(word)).toBe(original);
    expect(await found('https://example.org/a.jpg?X-Amz-Signature=TopSecret')).toEqual({
      uri: 'https://example.org/a.jpg?X-Amz-Signature=TopSecret',
    });
    expect(
      (await findQuery(index, 'https://example.org/a.jpg?X-Amz-Signature=TopSecret')).name,
    ).not.toContain('Top');
    expect(await found('s3://photos/a.jpg')).toEqual({ uri: 's3://photos/a.jpg' });
  });

  test('an indexed image where it is a file that is as it was indexed, and else a picture', async () => {
    const index = await open();
    const path = place('part-0/00009.jpg');
    expect(await findQuery(index, path)).toMatchObject({ image: { id: 'part-0/00009.jpg' } });
    utimesSync(path, 1, 1);
    expect(await findQuery(index, path)).toEqual({ name: path, picture: { file: path } });
  });

  test.each([
    ['part-0/00099.jpg', 'no-image', 'begin alike: part-0/'],
    ['zebra', 'no-image', 'its ids are such as part-'],
    ['id:README.md', 'no-image', 'no image of the index'],
    ['file:nowhere.jpg', 'no-file', 'nowhere.jpg is no file'],
    ['README.md', 'unsupported-format', 'not a JPEG'],
  ])('nothing it knows: %s', async (word, code, message) => {
    const error = await findQuery(await open(), word).then(
      () => undefined,
      (thrown) => thrown,
    );
    expect(error).toMatchObject({ code, message: expect.stringContaining(message) });
  });

  test('a URL, unless its host is not allowed, or what it gives is no picture', async () => {
    const server = await serveWeb((_, reply) => reply.end('Dear reader'));
    const index = await open();
    const search = async (flags: object) => {
      const { settings, interrupted } = contextOf({ device: 'cpu', cacheDir: cache, ...flags });
      const query = await findQuery(index, `${server.url}/a.jpg`);
      const embedder = await openEmbedder(store, run, { device: cpu, settings, onNotice: () => undefined });
      return embedQueries(index, [query], embedder.embed, interrupted).finally(embedder.close);
    };
    await expect(search({})).rejects.toMatchObject({ name: 'ConfigError', code: 'not-allowed' });
    await expect(search({ allowHosts: [server.host] })).rejects.toMatchObject({
      code: 'unsupported-format',
      message: expect.stringContaining(`'${server.url}/a.jpg' cannot be searched by: not a JPEG`),
    });
  });
});

describe('a filter', () => {
  const filter = (options: object, runs: string[] = []) => {
    const notices: string[] = [];
    const record = { runs, model: run.model } as unknown as SearchIndex['record']; // what a filter asks of it
    return { filter: filterOf({ ...options }, record, (notice) => notices.push(notice)), notices };
  };

  test('holds what was given, in its units', () => {
    const given = { prefix: 'a/', minBytes: '500KB', maxBytes: '2MB', minSide: '300', since: '2026-11-24' };
    expect(filter({ ...given, before: '2026-11-25T01:00:00+01:00' }).filter).toEqual({
      prefix: 'a/',
      minBytes: 500_000,
      maxBytes: 2_000_000,
      minSide: 300,
      since: '2026-11-24T00:00:00.000Z',
      before: '2026-11-25T00:00:00.000Z',
    });
    expect(filter({}).filter).toEqual({});
  });

  test('by a run means its retries too', () => {
    const runs = ['day', 'day.retry-1', 'day-2', 'night'];
    expect(filter({ run: ['day'] }, runs).filter).toEqual({ runs: ['day', 'day.retry-1'] });
    expect(() => filter({ run: ['noon'] }, runs)).toThrow(/no run noon; it holds day, /);
  });

  test('by a name that two classes have means both, and says so', () => {
    const { filter: made, notices } = filter({ label: ['Crane', 'tabby', '638'] });
    expect(made).toEqual({ labels: [134, 517, 281, 638] });
    expect(notices).toEqual(["'Crane' names classes 134 and 517: both are meant"]);
  });

  test.each([
    [{ minBytes: 'large' }, '--min-bytes: expected a size'],
    [{ minSide: '0' }, '--min-side'],
    [{ since: 'yesterday' }, '--since: expected such as 2026-11-24'],
  ])('of nonsense is refused: %j', (options, message) => {
    expect(() => filter(options)).toThrow(message);
  });
});

describe('a label', () => {
  test('is an index, a name in any case, or a part of one name only', () => {
    expect(findLabels('7', 1000)).toEqual([7]);
    expect(findLabels('Golden Retriever', 1000)).toEqual([207]);
    expect(findLabels('lesser pan', 1000)).toEqual([387]);
    expect(findLabels('maillot', 1000)).toEqual([638, 639]);
    expect(findLabels('class 3', 12)).toEqual([3]);
  });

  test.each([
    ['1000', 'the model has 0 to 999'],
    ['terrier', 'in several labels: toy terrier (158), Staffordshire bullterrier (179), '],
    ['goldn retriever', 'the nearest are golden retriever (207)'],
    ['', 'no label'],
  ])("is not '%s', and what is meant is told", (text, message) => {
    expect(() => findLabels(text, 1000)).toThrow(message);
  });
});

test('a table is cut in the middle of its longest column to fit a terminal, and nowhere else', () => {
  const rows = [
    ['1', 'a/very/long/path/to/ünïcödé/picture.jpg', '5,000×3,000'],
    ['10', 'b.jpg', '5×3'],
  ];
  const wide = columnsOf(['rank', 'id', 'size'], rows, { flexible: 1, width: undefined });
  expect(wide).toEqual([
    'rank  id                                              size',
    '   1  a/very/long/path/to/ünïcödé/picture.jpg  5,000×3,000',
    '  10  b.jpg                                            5×3',
  ]);
  const narrow = columnsOf(['rank', 'id', 'size'], rows, { flexible: 1, width: 40 });
  expect(narrow[1]).toBe('   1  a/very/lon…icture.jpg  5,000×3,000');
  expect(Math.max(...narrow.map((line) => line.length))).toBe(40);
});
