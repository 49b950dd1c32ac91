import { expect, test } from 'vitest';
import { planRun } from '../src/plan.ts';
import { openItemFinder } from '../src/runs/find-item.ts';
import { claimRun } from '../src/runs/run.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Item } from '../src/types.ts';
import { itemsOf, listerOf } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

/** Three pages of a hundred shards, the last one not full. */
const ids = Array.from({ length: 511 }, (_, n) => `photo-${String(n).padStart(3, '0')}`);

async function planned() {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  const plan = async (id: string, items: readonly Item[], since: string | null) => {
    const request = makeRequest(id, { shardSize: 2, since });
    await claimRun(store, request);
    await planRun(store, listerOf(items), request, { rowsBefore: since ? ids.length : 0 });
  };
  await plan('first', itemsOf(ids), null);
  const [changed, gone] = itemsOf(['photo-100', 'photo-200']);
  const later = [
    { ...changed, etag: 'another', replaces: true },
    { ...gone, replaces: true, gone: true },
  ] as Item[];
  await plan('second', later, 'first');
  const reads: string[] = [];
  const read: typeof store.read = (key, range) => {
    reads.push(key);
    return store.read(key, range);
  };
  return { finder: openItemFinder(wrapStore(store, { read })), reads };
}

test('every image of a plan is found, at the edges of its shards and pages too', async () => {
  const { finder, reads } = await planned();
  for (const id of ids) expect((await finder.find('first', id)).item.id).toBe(id);
  // Each index once, and of the 256 shards each once or, when others have been read since, again.
  expect(reads.length).toBeLessThan(2 * 256);
});

test('few objects are read for one image', async () => {
  const { finder, reads } = await planned();
  await finder.find('first', 'photo-333');
  // The run, two of three indices, and of a hundred shards seven or eight.
  expect(reads.length).toBeLessThanOrEqual(11);
  const before = reads.length;
  await finder.find('first', 'photo-332');
  expect(reads.length).toBe(before);
});

test('an image that an increment left alone is found in the run before, one that changed as it is now', async () => {
  const { finder } = await planned();
  expect(await finder.find('second', 'photo-050')).toMatchObject({ run: { run: 'first' } });
  expect(await finder.find('second', 'photo-100')).toMatchObject({
    run: { run: 'second' },
    item: { etag: 'another' },
  });
  expect(await finder.find('first', 'photo-100')).toMatchObject({ item: { etag: 'etag of photo-100' } });
});

test.each([
  ['that was gone', 'second', 'photo-200', 'no-image'],
  ['before all others', 'first', 'a', 'no-image'],
  ['between two', 'second', 'photo-100.jpg', 'no-image'],
  ['behind all others', 'first', 'z', 'no-image'],
  ['of a run that never was', 'third', 'photo-000', 'no-run'],
])('an image %s is none', async (_, run, id, code) => {
  const { finder } = await planned();
  await expect(finder.find(run, id)).rejects.toMatchObject({ code });
});
