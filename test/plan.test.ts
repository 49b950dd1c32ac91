import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openPlan, shardSizes, shardsPerPage } from '../src/page.ts';
import { planRun } from '../src/plan.ts';
import { claimRun, findRun, listRuns, readRun } from '../src/runs/run.ts';
import type { ItemPage, Source } from '../src/sources/source.ts';
import type { StepMessage } from '../src/steps.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item } from '../src/types.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

/** A listing made up on the spot: `count` items, a page of 100 at a time. */
function listingOf(
  count: number,
  options: { stopAfter?: number; changed?: boolean } = {},
): Source & { listed: string[] } {
  const listed: string[] = [];
  return {
    uri: 'test://listing',
    listed,
    probe: async () => undefined,
    async *list({ after } = {}): AsyncIterable<ItemPage> {
      const all = Array.from({ length: count }, (_, n): Item => {
        const id = `${String(n).padStart(6, '0')}.jpg`;
        return { id, uri: `test://listing/${id}`, etag: options.changed ? 'new' : 'old', size: n };
      });
      const rest = all.filter(({ id }) => after === undefined || id > after);
      for (let first = 0; first < rest.length; first += 100) {
        if (options.stopAfter !== undefined && first >= options.stopAfter)
          throw new Error('the listing broke off');
        const items = rest.slice(first, first + 100);
        listed.push(...items.map(({ id }) => id));
        yield { items, skipped: 1 };
      }
    },
    read: () => Promise.reject(new Error('not read here')),
    close: async () => undefined,
  };
}

function newStore(): Store {
  return openStore(tempFolder(), s3Defaults);
}

async function allItems(store: Store, run: string): Promise<Item[]> {
  const planned = await readRun(store, run);
  const readItems = openPlan(store);
  const items: Item[] = [];
  for (let shard = 0; shard < planned.shards; shard++) items.push(...(await readItems(planned, shard)));
  return items;
}

const perPage = 4 * shardsPerPage;

test('every item is in exactly one shard, in the order of the listing', async () => {
  const store = newStore();
  const run = await planRun(store, listingOf(1_001), makeRequest('r'));

  expect(run).toMatchObject({ items: 1_001, shards: 251, pages: 3, bytes: 500_500, skipped: 11 });
  const items = await allItems(store, 'r');
  expect(items).toHaveLength(1_001);
  expect(items.map(({ size }) => size)).toEqual(Array.from({ length: 1_001 }, (_, n) => n));
  expect((await Array.fromAsync(shardSizes(store, run))).slice(-2)).toEqual([4, 1]);
});

test('an item keeps every character of its id, newlines and all', async () => {
  const store = newStore();
  const odd = ['a\nb.jpg', 'ü/ "x".jpg', '\u2028.jpg', '😀.jpg'];
  const source = listingOf(0);
  source.list = async function* () {
    yield { items: odd.map((id) => ({ id, uri: `test://${id}`, etag: '', size: 1 })), skipped: 0 };
  };
  await planRun(store, source, makeRequest('r'));
  expect((await allItems(store, 'r')).map(({ id }) => id)).toEqual(odd);
});

test('a planner that was killed is followed by one that lists on, to the same plan', async () => {
  const store = newStore();
  const whole = newStore();
  await planRun(whole, listingOf(2_000), makeRequest('r'));

  await expect(planRun(store, listingOf(2_000, { stopAfter: 900 }), makeRequest('r'))).rejects.toThrow(
    'broke off',
  );
  expect(await findRun(store, 'r')).toBeUndefined();
  const second = listingOf(2_000);
  await planRun(store, second, makeRequest('r'));

  expect(second.listed[0]).toBe(`${String(2 * perPage).padStart(6, '0')}.jpg`);
  expect(await allItems(store, 'r')).toEqual(await allItems(whole, 'r'));
});

test('a plan that only lacks its last word is completed without listing', async () => {
  const store = newStore();
  const broken = wrapStore(store, {
    create: (key, body) =>
      key.endsWith('run.json') ? Promise.reject(new Error('killed')) : store.create(key, body),
  });
  await expect(planRun(broken, listingOf(450), makeRequest('r'))).rejects.toThrow('killed');

  const later = listingOf(900);
  const run = await planRun(store, later, makeRequest('r'));
  expect(later.listed).toEqual([]);
  expect(run.items).toBe(450);
});

test('two planners at once make one plan', async () => {
  const store = newStore();
  const plans = await Promise.all([1, 2, 3].map(() => planRun(store, listingOf(1_500), makeRequest('r'))));
  expect(plans[1]).toEqual(plans[0]);
  expect(plans[2]).toEqual(plans[0]);
  expect(await allItems(store, 'r')).toHaveLength(1_500);
});

test('planners that saw different items are never mixed', async () => {
  const store = newStore();
  const plans = await Promise.allSettled([
    planRun(store, listingOf(300), makeRequest('r')),
    planRun(store, listingOf(300, { changed: true }), makeRequest('r')),
  ]);
  expect(plans.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(plans.find(({ status }) => status === 'rejected')).toMatchObject({
    reason: { code: 'source-changed' },
  });
  expect(new Set((await allItems(store, 'r')).map(({ etag }) => etag)).size).toBe(1);
});

test('a source that does not list in the order of bytes is refused', async () => {
  const lists: [string, string[]][] = [
    ['twice', ['a', 'b', 'b']],
    ['backwards', ['a', 'c', 'b']],
    ['as-UTF-16', ['\u{1F600}', '\uFFFD']],
  ];
  for (const [run, ids] of lists) {
    const source = listingOf(0);
    source.list = async function* () {
      for (const id of ids) yield { items: [{ id, uri: `test://${id}`, etag: '', size: 1 }], skipped: 0 };
    };
    const planned = planRun(newStore(), source, makeRequest(run));
    await expect(planned).rejects.toMatchObject({ code: 'unordered-source' });
  }
});

test('each moment of planning has a name that others can wait for', async () => {
  const steps: string[] = [];
  const listen = (message: unknown): void => void steps.push((message as StepMessage).step);
  subscribe('lensmill:step', listen);
  try {
    await planRun(newStore(), listingOf(450), makeRequest('r'));
  } finally {
    unsubscribe('lensmill:step', listen);
  }
  const page = ['page listed', 'page items created', 'page created'];
  expect(steps).toEqual([...page, ...page, 'plan created']);
});

test('a run is found among others by the start of its id, whatever sorts beside it', async () => {
  const store = newStore();
  const ids = ['r', 'r-1', 'r.retry-1', 'r.retry-10', 'r.retry-2', 'r0', 'r00', 'ra', 'q'];
  for (const id of ids) await claimRun(store, makeRequest(id));
  expect((await listRuns(store)).toSorted()).toEqual(ids.toSorted());
  expect(await listRuns(store, 'r.retry-')).toEqual(['r.retry-1', 'r.retry-10', 'r.retry-2']);
  expect(await listRuns(store, 'x')).toEqual([]);
});

test('what lies among the runs and is none is passed over', async () => {
  const folder = tempFolder();
  const store = openStore(folder, s3Defaults);
  await store.probe();
  await claimRun(store, makeRequest('r'));
  // Of a Mac's Finder, and of people.
  for (const name of ['.DS_Store', 'notes.txt', 'z.txt']) writeFileSync(join(folder, 'runs', name), 'x');
  expect(await listRuns(store)).toEqual(['r']);
  await expect(readRun(store, '.DS_Store')).rejects.toMatchObject({ code: 'no-run' });
});

test('a source without images is refused, and says what was left out, or that nothing is there', async () => {
  for (const [skipped, found] of [
    [7, '7 objects do not match'],
    [0, 'it is empty'],
  ] as const) {
    const source = listingOf(0);
    source.list = async function* () {
      yield { items: [], skipped };
    };
    await expect(planRun(newStore(), source, makeRequest('r'))).rejects.toMatchObject({
      code: 'empty-source',
      message: expect.stringContaining(found),
    });
  }
});

test('a source that would make more shards than a run can have is refused, with the way out', async () => {
  const store = newStore();
  const planned = planRun(store, listingOf(4_000), makeRequest('r'), { maxShards: 500 });
  await expect(planned).rejects.toMatchObject({
    code: 'too-many-shards',
    message: expect.stringMatching(/more than 2,000 images.*--shard-size 32/),
  });
  expect(await findRun(store, 'r'), 'whoever resumes it is told the same').toBeUndefined();
  const resumed = planRun(store, listingOf(4_000), makeRequest('r'), { maxShards: 500 });
  await expect(resumed).rejects.toMatchObject({ code: 'too-many-shards' });
  expect(await planRun(store, listingOf(4_000), makeRequest('r2'), { maxShards: 1_000 })).toMatchObject({
    shards: 1_000,
  });
});

test('a new run is claimed before its first page is written, and not where there is nothing to write', async () => {
  const store = newStore();
  const claims: string[] = [];
  const claim = async (): Promise<void> => {
    for await (const { key } of store.list('')) claims.push(key);
    claims.push('claimed');
    await claimRun(store, makeRequest('r'));
  };
  const empty = planRun(store, listingOf(0), makeRequest('r'), { claim });
  await expect(empty).rejects.toMatchObject({ code: 'empty-source' });
  expect(claims).toEqual([]);
  const source = listingOf(1_001);
  expect(await planRun(store, source, makeRequest('r'), { claim })).toMatchObject({ items: 1_001 });
  expect(claims).toEqual(['claimed']);
  expect(source.listed).toHaveLength(1_001);

  const other = makeRequest('r', { createdAt: '2026-01-02T00:00:00.000Z' });
  const taken = planRun(store, listingOf(1_001), other, { claim: () => claimRun(store, other) });
  await expect(taken, 'by a run that is planned already').rejects.toMatchObject({ code: 'run-exists' });
});

test('a run id can be claimed once', async () => {
  const store = newStore();
  await claimRun(store, makeRequest('r'));
  const later = makeRequest('r', { createdAt: '2026-01-01T00:00:00.001Z' });
  await expect(claimRun(store, later)).rejects.toMatchObject({
    code: 'run-exists',
    message: expect.stringContaining('lensmill resume r'),
  });
  await expect(readRun(store, 'r')).rejects.toMatchObject({ code: 'not-planned' });
  await expect(readRun(store, 'other')).rejects.toMatchObject({ code: 'no-run' });
});
