/** The API over a real output: what it answers, and to whom. */
import type { FastifyInstance } from 'fastify';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { ask, bearer, type IndexedOutput, makeIndexedOutput, serve } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const pictures = tempFolder();
let output: IndexedOutput;
let server: FastifyInstance;

beforeAll(async () => {
  await makePhotoArchive(pictures, 12);
  output = await makeIndexedOutput(pictures);
  server = await serve(output);
});

afterAll(async () => {
  await server.close();
  await output.store.close();
});

test('the index tells what it holds and whose numbers', async () => {
  const { status, body } = await ask(server, '/api/index');
  expect(status).toBe(200);
  expect(body).toMatchObject({
    output: output.store.uri,
    images: 12,
    runs: ['day'],
    unindexed: [],
    model: { ref: 'random:0:1-1-1-1', untrained: true, dimension: 2048 },
  });
});

test('pages of images hold each once, and an image has neighbours and a thumbnail', async () => {
  const first = await ask(server, '/api/images?limit=7');
  const second = await ask(server, `/api/images?limit=7&after=${first.body.next}`);
  expect(second.body.next).toBeNull();
  const all = [...first.body.images, ...second.body.images];
  expect(new Set(all.map(({ id }) => id)).size).toBe(12);

  const [one] = all;
  expect((await ask(server, `/api/images/${one.key}`)).body).toEqual(one);
  const { body } = await ask(server, `/api/images/${one.key}/neighbours?k=3`);
  expect(body.hits).toHaveLength(3);
  expect(body.hits.map(({ key }: { key: string }) => key)).not.toContain(one.key);

  const thumbnail = await server.inject({
    url: `/api/images/${one.key}/thumbnail?size=64`,
    headers: { host: 'localhost', ...bearer },
  });
  expect(thumbnail.headers['content-type']).toBe('image/webp');
});
