/** The API over a real output: what it answers. */
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildIndex } from '../src/search/build.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import type { DuplicateGroups, FailedImages, Image, SearchResult } from '../src/web/api.ts';
import { contextOf } from './helpers/context.ts';
import { indexHere } from './helpers/index-here.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { ask, bearer, type IndexedOutput, makeIndexedOutput, serve } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const pictures = tempFolder();
const place = (name: string): string => join(pictures, 'part-0', name);
const photo = (n: number): Buffer => readFileSync(place(`0000${n}.jpg`));
let output: IndexedOutput;
let server: FastifyInstance;
let images: Image[];
const logged: string[] = [];

beforeAll(async () => {
  await makePhotoArchive(pictures, 8);
  copyFileSync(place('00001.jpg'), place('copy.jpg'));
  writeFileSync(place('broken.jpg'), photo(2).subarray(0, 9_000));
  output = await makeIndexedOutput(pictures);
  server = await serve(output, {}, logged);
  images = (await ask(server, '/api/images')).body.images;
});

afterAll(async () => {
  await server.close();
  await output.store.close();
});

function imageOf(name: string): Image {
  const found = images.find(({ id }) => id === `part-0/${name}`);
  if (!found) throw new Error(`no ${name} among the images`);
  return found;
}

/** A search as a browser sends it. */
async function search(
  files: Record<string, Uint8Array>,
  query?: object,
): Promise<{ status: number; body: SearchResult & { code?: string; message?: string } }> {
  const form = new FormData();
  if (query) form.append('query', JSON.stringify(query));
  for (const [name, content] of Object.entries(files))
    form.append('picture', new Blob([new Uint8Array(content)]), name);
  const encoded = new Response(form);
  return ask(server, '/api/search', {
    method: 'POST',
    payload: Buffer.from(await encoded.arrayBuffer()),
    headers: { 'content-type': encoded.headers.get('content-type') ?? '' },
  });
}

const idsOf = ({ hits }: SearchResult): string[] => hits.map(({ id }) => id);

test('the index tells what it holds, and whose numbers', async () => {
  expect(await ask(server, '/api/index')).toMatchObject({
    status: 200,
    body: {
      output: output.store.uri,
      images: 9,
      kind: 'exact',
      runs: ['day'],
      unindexed: [],
      model: { ref: 'random:0:1-1-1-1', untrained: true, precision: 'fp32', dimension: 2048 },
    },
  });
});

test('pages of images hold each of them once; a filter holds for images, labels and hits alike', async () => {
  const first = await ask(server, '/api/images?limit=5');
  const second = await ask(server, `/api/images?limit=5&after=${first.body.next}`);
  expect([...first.body.images, ...second.body.images]).toEqual(images);
  expect(second.body.next).toBeNull();
  const one = imageOf('00003.jpg');
  expect((await ask(server, `/api/images/${one.key}`)).body).toEqual(one);

  const [best] = one.labels;
  const filter = `label=${best?.label}&prefix=part-0/&run=day&minSide=300&since=2026-01-01T00:00:00Z`;
  const withLabel = images.filter(({ labels }) => labels.some(({ label }) => label === best?.label));
  expect((await ask(server, `/api/images?${filter}`)).body.images).toEqual(withLabel);
  const { body: counts } = await ask(server, `/api/labels?${filter}`);
  expect(counts.reduce((sum: number, { count }: { count: number }) => sum + count, 0)).toBe(withLabel.length);
  expect(counts).toContainEqual({ ...best, score: undefined, count: expect.any(Number) });
  const { body } = await ask(server, `/api/images/${one.key}/neighbours?${filter}`);
  expect(idsOf(body).toSorted()).toEqual(
    withLabel
      .map(({ id }) => id)
      .filter((id) => id !== one.id)
      .toSorted(),
  );
  for (const none of [
    'run=night',
    'label=999&label=998',
    'maxBytes=10',
    'before=2026-01-01T00:00:00Z',
    "prefix='--",
    'minSide=9007199254740991',
  ])
    expect((await ask(server, `/api/images?${none}`)).body.images).toEqual([]);
});

test.each([
  ['/api/images?limit=501', 'query, limit'],
  ['/api/images?label=cat', 'query, label.0'],
  ['/api/images?minBytes=-1', 'query, minBytes'],
  ['/api/images?since=yesterday', 'query, since'],
  ['/api/images?lable=1', 'lable'],
  ['/api/images/cat.jpg', 'params, key'],
  [`/api/images/${'0'.repeat(32)}/neighbours?k=1000`, 'query, k'],
  [`/api/images/${'0'.repeat(32)}/thumbnail?size=9999`, 'query, size'],
  ['/api/duplicates?threshold=0.1', 'query, threshold'],
  ['/api/map?images=1000000', 'query, images'],
])('%s is refused, and the field named', async (url, field) => {
  const { status, body } = await ask(server, url);
  expect([status, body.code]).toEqual([400, 'bad-request']);
  expect(body.message).toContain(field);
});

test('an image that the index has not is told so, wherever it is named', async () => {
  const key = 'f'.repeat(32);
  for (const url of [`/api/images/${key}`, `/api/images/${key}/neighbours`, `/api/images/${key}/thumbnail`])
    expect(await ask(server, url)).toMatchObject({ status: 404, body: { code: 'no-image' } });
  const { status, body } = await ask(server, '/api/search', { method: 'POST', payload: { keys: [key] } });
  expect([status, body.code]).toEqual([404, 'no-image']);
  expect(body.message).toContain(key);
});

test('a search by keys leaves those images out, as asking for neighbours does', async () => {
  const { key } = imageOf('00001.jpg');
  const byKey = await ask(server, '/api/search', { method: 'POST', payload: { keys: [key], k: 3 } });
  const neighbours = await ask(server, `/api/images/${key}/neighbours?k=3`);
  expect(byKey.body.hits).toEqual(neighbours.body.hits);
  expect(byKey.body.hits[0]).toMatchObject({ id: 'part-0/copy.jpg' });
  expect(byKey.body.hits[0].score).toBeCloseTo(1, 5);
  const near = { keys: [key], minScore: 0.9999 };
  expect(idsOf((await ask(server, '/api/search', { method: 'POST', payload: near })).body)).toEqual([
    'part-0/copy.jpg',
  ]);
});

test('a picture that is sent finds itself, and one that is none costs the others nothing', async () => {
  const alone = await search({ 'mine.jpg': photo(4) }, { k: 1 });
  expect([idsOf(alone.body), alone.body.refused]).toEqual([['part-0/00004.jpg'], []]);
  expect(alone.body.pictures).toEqual([{ name: 'mine.jpg', labels: expect.any(Array) }]);
  expect(alone.body.pictures[0]?.labels[0]?.label).toBe(imageOf('00004.jpg').labels[0]?.label);

  const beside = await search({ 'notes.txt': Buffer.from('a text'), 'mine.jpg': photo(4) }, { k: 1 });
  expect(beside.body.hits).toEqual(alone.body.hits);
  expect(beside.body.refused).toEqual([
    { name: 'notes.txt', code: 'unsupported-format', message: expect.stringContaining('JPEG') },
  ]);

  const both = await search({ 'mine.jpg': photo(4) }, { k: 2, keys: [imageOf('00004.jpg').key] });
  expect(both.body.hits[0]?.score).toBeCloseTo(
    (await ask(server, `/api/images/${imageOf('00004.jpg').key}/neighbours?k=1`)).body.hits[0].score,
    4,
  );
});

test.each<[string, number, string, () => Record<string, Uint8Array>]>([
  ['a text', 415, 'unsupported-format', () => ({ 'notes.txt': Buffer.from('a text') })],
  ['half a picture', 422, 'truncated', () => ({ 'half.jpg': photo(2).subarray(0, 9_000) })],
  ['nothing', 422, 'empty', () => ({ 'empty.jpg': new Uint8Array() })],
])('who sends %s is told by name', async (_, status, code, files) => {
  const { status: answered, body } = await search(files());
  expect([answered, body.code]).toEqual([status, code]);
  expect(body.message).toMatch(new RegExp(`^${Object.keys(files())[0]}: `));
});

test('a form is held against what a search takes', async () => {
  const nine = Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`${n}.jpg`, photo(1)]));
  expect(await search(nine)).toMatchObject({ status: 413, body: { code: 'too-many-pictures' } });
  expect((await search({}, { k: 3 })).body.message).toContain('nothing to search by');
  expect((await search({ 'a.jpg': photo(1) }, { k: 0 })).body.message).toContain('body, k');
  expect((await search({ 'a.jpg': photo(1) }, { filter: { label: [1] } })).body.message).toContain('label');
  const other = new FormData();
  other.append('file', new Blob(['x']), 'a.jpg');
  const encoded = new Response(other);
  const { body } = await ask(server, '/api/search', {
    method: 'POST',
    payload: Buffer.from(await encoded.arrayBuffer()),
    headers: { 'content-type': encoded.headers.get('content-type') ?? '' },
  });
  expect(body.message).toContain("got 'file'");
});

test.each([
  ['ends early', '--x\r\ncontent-disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\nhalf'],
  ['is no form at all', 'a text'],
  ['has no boundary', '--x--\r\n', 'multipart/form-data'],
  ['has a boundary without end', '--x--\r\n', `multipart/form-data; boundary=${'x'.repeat(300)}`],
])('a form that %s is told so', async (_, payload, type = 'multipart/form-data; boundary=x') => {
  const headers = { 'content-type': type };
  const { status, body } = await ask(server, '/api/search', { method: 'POST', payload, headers });
  expect([status, body.code]).toEqual([400, 'bad-request']);
  expect(body.message).toMatch(/^body/);
});

test('a thumbnail is asked for again by its etag, kept for good by its content, and gone with its source', async () => {
  const { key, sha256 } = imageOf('00005.jpg');
  const get = (query: string, headers = {}) =>
    server.inject({
      url: `/api/images/${key}/thumbnail?${query}`,
      headers: { host: 'localhost', ...bearer, ...headers },
    });
  const made = await get('size=64');
  expect([made.statusCode, made.headers['content-type']]).toEqual([200, 'image/webp']);
  expect(made.rawPayload.subarray(8, 12).toString()).toBe('WEBP');
  const { etag } = made.headers;
  expect((await get('size=64', { 'if-none-match': etag })).statusCode).toBe(304);
  expect((await get('size=128', { 'if-none-match': etag })).statusCode).toBe(200);
  expect(made.headers['cache-control']).toBe('private, no-cache');
  expect((await get(`size=64&v=${sha256}`)).headers['cache-control']).toContain('immutable');

  // One that has failed is asked for by its run, and shown as far as it goes.
  const broken = await server.inject({
    url: '/api/runs/day/thumbnail?id=part-0/broken.jpg',
    headers: { host: 'localhost', ...bearer },
  });
  expect([broken.statusCode, broken.headers['content-type']]).toEqual([200, 'image/webp']);
  const other = await serve(output);
  try {
    rmSync(place('copy.jpg'));
    const gone = await ask(other, `/api/images/${imageOf('copy.jpg').key}/thumbnail`);
    expect([gone.status, gone.body.code]).toEqual([410, 'not-found']);
  } finally {
    copyFileSync(place('00001.jpg'), place('copy.jpg'));
    await other.close();
  }
});

test('copies are a group of duplicates; who asks at the same time gets the same answer', async () => {
  const answers: { body: DuplicateGroups }[] = await Promise.all(
    Array.from({ length: 3 }, () => ask(server, '/api/duplicates?threshold=0.9999')),
  );
  const [one] = answers;
  expect(one?.body).toMatchObject({ images: 9, found: 1, surplus: { images: 1, bytes: photo(1).length } });
  expect(one?.body.groups[0]).toMatchObject({ size: 2, keeper: imageOf('00001.jpg').key });
  expect(one?.body.groups[0]?.images.map(({ id, isCopy }) => [id, isCopy])).toEqual([
    ['part-0/00001.jpg', false],
    ['part-0/copy.jpg', true],
  ]);
  for (const answer of answers) expect(answer).toEqual(one);
  expect((await ask(server, '/api/duplicates?threshold=0.9999&prefix=none')).body).toMatchObject({
    found: 0,
    groups: [],
  });
});

test('the map is made meanwhile, and the next server has it at once', async () => {
  let map = (await ask(server, '/api/map?images=10')).body;
  while (map.state === 'computing') map = (await ask(server, '/api/map?images=10')).body;
  expect(map.points.map(({ key }: { key: string }) => key)).toEqual(images.map(({ key }) => key));
  for (const { x, y } of map.points) expect(x >= 0 && x <= 1 && y >= 0 && y <= 1).toBe(true);
  expect(Math.max(...map.points.map(({ x, y }: { x: number; y: number }) => Math.max(x, y)))).toBeCloseTo(
    1,
    5,
  );
  const other = await serve(output);
  try {
    expect((await ask(other, '/api/map?images=10')).body).toEqual(map);
  } finally {
    await other.close();
  }
});

test('who sends more than a picture may have is stopped, and the server goes on', async () => {
  const small = await serve({ ...output, settings: { ...output.settings, maxUploadBytes: 50_000 } });
  try {
    await small.listen({ host: '127.0.0.1', port: 0 });
    const { port } = small.server.address() as AddressInfo; // it listens at a port
    const send = (body: FormData | Uint8Array<ArrayBuffer>, headers = {}) =>
      fetch(`http://127.0.0.1:${port}/api/search`, {
        method: 'POST',
        body,
        headers: { ...bearer, ...headers },
      });
    const form = new FormData();
    form.append('picture', new Blob([new Uint8Array(60_000)]), 'huge.jpg');
    const refused = await send(form);
    expect([refused.status, (await refused.json()) as unknown]).toEqual([
      413,
      {
        status: 413,
        code: 'too-large',
        message: expect.stringMatching(/^huge\.jpg: .*0\.05 MB.*--max-upload/),
      },
    ]);
    // By what it says of itself, before a byte of it is read.
    const claimed = await send(new Uint8Array(2_000_000), {
      'content-type': 'multipart/form-data; boundary=x',
    });
    expect(claimed.status).toBe(413);
    expect((await fetch(`http://127.0.0.1:${port}/api/index`, { headers: bearer })).status).toBe(200);
  } finally {
    await small.close();
  }
});

test('a failed image is listed with its reason until a retry has mended it', async () => {
  const list = async (query = ''): Promise<FailedImages> =>
    (await ask(server, `/api/runs/day/failures${query}`)).body;
  const { images: failed, next } = await list();
  expect([failed, next]).toEqual([
    [
      {
        id: 'part-0/broken.jpg',
        uri: `file://${place('broken.jpg')}`,
        error: 'truncated',
        message: expect.any(String),
        bytes: 9_000,
      },
    ],
    null,
  ]);
  expect((await list('?code=timeout')).images).toEqual([]);
  expect((await list('?code=truncated&limit=1')).images).toHaveLength(1);
  expect((await list('?after=part-0/broken.jpg')).images).toEqual([]);
});

test('an index that is built meanwhile takes the place of the other, and no request is dropped', async () => {
  writeFileSync(place('new.jpg'), photo(3));
  const context = contextOf({
    model: 'random:0:1-1-1-1',
    device: 'cpu',
    lanes: 1,
    sessions: 1,
    cacheDir: output.settings.cacheDir,
    include: ['**/new.jpg'],
  });
  const run = await indexHere(context, output.store, { id: 'evening', sources: [pictures] });
  let isOver = false;
  const statuses = new Set<number>();
  const asking = (async () => {
    const { key } = imageOf('00001.jpg');
    while (!isOver) statuses.add((await ask(server, `/api/images/${key}/neighbours`)).status);
  })();
  await buildIndex(output.store, { fingerprint: run.model.fingerprint, s3: s3OptionsOf(context.settings) });
  while ((await ask(server, '/api/index')).body.images !== 10) await sleep(50);
  isOver = true;
  await asking;
  expect([...statuses]).toEqual([200]);
  expect((await ask(server, '/api/index')).body.runs).toEqual(['day', 'evening']);
  expect(logged.filter((line) => line.includes('"index opened"'))).toHaveLength(1);
  expect(logged.filter((line) => line.includes('"level":"error"'))).toEqual([]);
});
