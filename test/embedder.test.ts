/** Pictures to search by, embedded one at a time. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readRows, type SampledRow } from '../src/checks/sample.ts';
import { cpu } from '../src/devices/cpu.ts';
import type { Run } from '../src/runs/run.ts';
import { openView } from '../src/runs/view.ts';
import { openStore } from '../src/stores/open-store.ts';
import { type EmbeddedPicture, type Embedder, openEmbedder, type Picture } from '../workers/embedder.ts';
import { smallModel } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { crashes } from './helpers/crashing-decoder.ts';
import { indexHere } from './helpers/index-here.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';
import { serveWeb } from './helpers/web-server.ts';

const folder = tempFolder();
const store = openStore(tempFolder(), s3Defaults);
const context = contextOf({
  model: smallModel,
  device: 'cpu',
  lanes: 1,
  sessions: 1,
  cacheDir: tempFolder(),
  maxBytes: '200KB',
  // Where crashing-decoder.ts crashes.
  decoder: 'sharp',
});
const place = (name: string): string => join(folder, name);
let rows: SampledRow[];
let run: Run;
let embedder: Embedder;

function open(): Promise<Embedder> {
  return openEmbedder(store, run, { device: cpu, settings: context.settings, onNotice: () => undefined });
}

beforeAll(async () => {
  await makePhotoArchive(folder, 4);
  await store.probe();
  run = await indexHere(context, store, { id: 'day', sources: [folder] });
  rows = await Array.fromAsync(readRows(store, await openView(store, 'day'), [0, 1, 2, 3]));
  process.env.NODE_OPTIONS = `--import=${join(import.meta.dirname, 'helpers/crashing-decoder.ts')}`;
  embedder = await open();
});

afterAll(async () => {
  delete process.env.NODE_OPTIONS;
  await embedder.close();
  await embedder.close();
});

function requireEmbedded(
  picture: Awaited<ReturnType<Embedder['embed']>>[number] | undefined,
): EmbeddedPicture {
  if (!picture || 'error' in picture) throw new Error(`not embedded: ${picture?.message}`);
  return picture;
}

function expectRow(picture: Awaited<ReturnType<Embedder['embed']>>[number] | undefined, row = rows[0]): void {
  const { embedding, labels, scores, facts } = requireEmbedded(picture);
  expect(labels).toEqual([...(row?.labels ?? [])]);
  // One at a time and not eight: kernels may add in another order.
  for (const [at, score] of scores.entries()) expect(score).toBeCloseTo(row?.scores[at] ?? -1, 5);
  const farthest = Math.max(...embedding.map((value, at) => Math.abs(value - (row?.embedding[at] ?? 0))));
  expect(farthest).toBeLessThan(1e-4);
  expect(facts).toMatchObject({ sha256: row?.sha256, width: 500, height: 375, format: 'jpeg' });
}

test('a picture has the numbers that it has in the run, be it bytes, a file or on the web', async () => {
  const first = rows[0]?.item.id ?? '';
  const content = readFileSync(place(first));
  const server = await serveWeb((_, reply) => reply.end(content));
  const settings = { ...context.settings, allowHosts: [server.host] };
  const other = await openEmbedder(store, run, { device: cpu, settings, onNotice: () => undefined });
  try {
    const pictures: Picture[] = [{ content }, { file: place(first) }, { uri: `${server.url}/a.jpg` }];
    const embedded = await other.embed(pictures);
    expect(embedded).toHaveLength(3);
    for (const picture of embedded) expectRow(picture);
  } finally {
    await other.close();
  }
});

test('of calls that overlap, each has its own pictures', async () => {
  const contents = rows.map(({ item }) => ({ content: readFileSync(place(item.id)) }));
  const [all, last] = await Promise.all([embedder.embed(contents), embedder.embed(contents.slice(3))]);
  for (const [at, row] of rows.entries()) expectRow(all[at], row);
  expectRow(last[0], rows[3]);
});

test('what is no picture fails by itself, and those beside it are embedded', async () => {
  const good = readFileSync(place(rows[0]?.item.id ?? ''));
  writeFileSync(place('list.txt'), 'cat.jpg\ndog.jpg\n');
  const server = await serveWeb((_, reply) => reply.end(good));
  const bad: [Picture, string][] = [
    [{ file: place('list.txt') }, 'unsupported-format'],
    [{ content: new Uint8Array() }, 'empty'],
    [{ content: good.subarray(0, 3000) }, 'truncated'],
    [{ content: Buffer.concat([good, crashes]) }, 'crashed-worker'],
    [{ content: Buffer.alloc(200_001) }, 'too-many-bytes'],
    [{ file: place('nowhere.jpg') }, 'not-found'],
    // Nobody said that this host is allowed.
    [{ uri: `${server.url}/a.jpg` }, 'not-allowed'],
    [{ uri: `file://${place(rows[0]?.item.id ?? '')}` }, 'not-allowed'],
    [{ uri: place(rows[0]?.item.id ?? '') }, 'not-allowed'],
    [{ uri: 'ftp://example.org/a.jpg' }, 'bad-uri'],
  ];
  const embedded = await embedder.embed([...bad.map(([picture]) => picture), { content: good }]);
  expect(embedded.slice(0, -1).map((picture) => 'error' in picture && picture.error)).toEqual(
    bad.map(([, code]) => code),
  );
  expectRow(embedded.at(-1));
});

test('an aborted call throws its reason, and the next one is answered', async () => {
  const content = readFileSync(place(rows[0]?.item.id ?? ''));
  const abort = new AbortController();
  const embedding = embedder.embed([{ content }, { content }], { signal: abort.signal });
  abort.abort(new Error('gone home'));
  await expect(embedding).rejects.toThrow('gone home');
  expectRow((await embedder.embed([{ content }]))[0]);
});

test('a model that is not what the run was made by is refused', async () => {
  const changed = { ...run, model: { ...run.model, fingerprint: '0'.repeat(64) } };
  const options = { device: cpu, settings: context.settings, onNotice: () => undefined };
  await expect(openEmbedder(store, changed, options)).rejects.toMatchObject({ code: 'model-mismatch' });
});
