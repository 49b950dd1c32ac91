import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { indexPrefix } from '../src/layout.ts';
import { buildIndex } from '../src/search/build.ts';
import { openIndex } from '../src/search/open-index.ts';
import { listIndexes, unindexedRuns } from '../src/search/record.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { makeBucket, testS3Options } from './helpers/s3.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

const s3 = testS3Options();
const fingerprint = makeRequest('any').model.fingerprint;
const closing = closeAfterEach();

/** What URIs and paths make something of. */
const name = "it's a #1 of 100% %20 & ü?";

async function newStore(kind: 'file' | 's3'): Promise<Store> {
  const store = openStore(
    kind === 'file' ? join(tempFolder(), name) : `s3://${await makeBucket()}/${name}`,
    s3,
  );
  await store.probe();
  return store;
}

describe.each(['file', 's3'] as const)('an index on %s', (kind) => {
  test('holds the ok rows of a run, and of the next one what it changed', async () => {
    const store = closing(await newStore(kind));
    await makeFinishedRun(store, 'one', {
      ends: { a: 'ok', b: 'ok', c: 'corrupt', d: 'ok', e: 'ok', f: 'ok' },
    });
    const { record, how } = await buildIndex(store, { fingerprint, s3 });
    expect([record.images, how]).toEqual([5, 'built']);
    // The table lies where the records do, whatever its library makes of the name.
    const stored = (await Array.fromAsync(store.list(indexPrefix(fingerprint)))).map(({ key }) => key);
    expect(stored.filter((key) => key.includes('/images.lance/')).length).toBeGreaterThan(2);
    const index = closing(await openIndex(store, { s3 }));
    expect((await index.list({ limit: 10 })).map(({ id }) => id).toSorted()).toEqual([
      'a',
      'b',
      'd',
      'e',
      'f',
    ]);
    const a = await index.find('a');
    expect(a).toMatchObject({
      id: 'a',
      uri: 'file:///nowhere/a',
      labels: [7, 7, 7, 7, 7],
      width: 10,
      bytes: 1000,
    });
    const [vector] = await index.vectorsOf([a?.key ?? '']);
    const hits = await index.search({ vectors: [vector as Float32Array], k: 3, without: [a?.key ?? ''] });
    expect(hits).toHaveLength(3);
    expect(hits[0]?.score).toBeCloseTo(1, 3);
    expect(await index.count({ prefix: 'a' })).toBe(1);
    expect(await index.countLabels()).toEqual([{ label: 7, count: 5 }]);

    await makeFinishedRun(store, 'two', {
      ends: { a: 'truncated', z: 'ok' },
      request: { createdAt: '2026-01-02T00:00:00.000Z' },
    });
    // Each search asks, and runs become many.
    const sealed = wrapStore(store, {
      read: (key) => (key.includes('/one/') ? Promise.reject(new Error(`${key} was read`)) : store.read(key)),
    });
    expect(await unindexedRuns(sealed, record)).toEqual(['two']);
    expect((await buildIndex(store, { fingerprint, s3 })).record.images).toBe(5);
    expect(await buildIndex(store, { fingerprint, s3 })).toMatchObject({ changed: false });
    const later = closing(await openIndex(store, { s3 }));
    expect((await later.list({ limit: 10 })).map(({ id }) => id).toSorted()).toEqual([
      'b',
      'd',
      'e',
      'f',
      'z',
    ]);
    expect(await index.count()).toBe(5);
    expect(await index.find('a')).toBeDefined();
    expect(await listIndexes(store)).toMatchObject([{ generation: 2, images: 5 }]);
  });
});
