/** Retries: what they do again, what a run's readers see of them, and the whole command on both kinds of place. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { FailureCode } from '../src/errors.ts';
import { exportFormats, exportRun } from '../src/export.ts';
import { partKey } from '../src/layout.ts';
import { openPlan } from '../src/page.ts';
import { planRun } from '../src/plan.ts';
import { failedItems } from '../src/retry.ts';
import { claimRun, findRun, readRun } from '../src/runs/run.ts';
import { failedRows, openView, viewParts } from '../src/runs/view.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item } from '../src/types.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { type Ends, embeddingValue, itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeRequest } from './helpers/requests.ts';
import { makeBucket, putForeignObject, testEndpoint } from './helpers/s3.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

/** 20 images in 5 parts, of which the third has no failed row. */
const ends: Ends = endsOf({
  '01': 'timeout',
  '02': 'truncated',
  '07': 'timeout',
  '13': 'corrupt',
  '19': 'timeout',
});

function endsOf(failed: Record<string, FailureCode>): Ends {
  const ids = Array.from({ length: 20 }, (_, n) => String(n).padStart(2, '0'));
  return Object.fromEntries(ids.map((id) => [id, failed[id] ?? 'ok']));
}

async function newStore(): Promise<Store> {
  const store = openStore(tempFolder(), s3Defaults);
  await store.probe();
  return store;
}

/** Run r, and retries that made of its failed images what each of `retried` says. */
async function makeRetriedRun(...retried: Ends[]): Promise<Store> {
  const store = await newStore();
  await makeFinishedRun(store, 'r', { ends });
  for (const [at, each] of retried.entries()) {
    await makeFinishedRun(store, `r.retry-${at + 1}`, {
      ends: each,
      request: { retryOf: 'r', shardSize: 2 },
    });
  }
  return store;
}

async function idsThatFail(
  store: Store,
  { codes, after }: { codes?: string[]; after?: string } = {},
): Promise<string[]> {
  const lister = failedItems(store, await openView(store, 'r'), {}, codes);
  const pages = await Array.fromAsync(lister.list(after === undefined ? {} : { after }));
  return pages.flatMap(({ items }) => items.map(({ id }) => id));
}

describe('what a retry does again', () => {
  test('is every image that failed, in the order of the run, as it was planned', async () => {
    const store = await makeRetriedRun();
    expect(await idsThatFail(store)).toEqual(['01', '02', '07', '13', '19']);
    const pages = await Array.fromAsync(failedItems(store, await openView(store, 'r'), {}).list());
    expect(pages.flatMap(({ items }) => items)).toEqual(itemsOf(['01', '02', '07', '13', '19']));
  });

  test('leaves out what earlier retries mended', async () => {
    const once = await makeRetriedRun({ '01': 'ok', '07': 'timeout', '19': 'not-found' });
    expect(await idsThatFail(once)).toEqual(['02', '07', '13', '19']);
    const twice = await makeRetriedRun(
      { '01': 'ok', '07': 'timeout', '19': 'not-found' },
      { '07': 'ok', '13': 'corrupt', '19': 'ok' },
    );
    expect(await idsThatFail(twice)).toEqual(['02', '13']);
  });

  test('may be chosen by code, as the last try left it', async () => {
    const store = await makeRetriedRun({ '01': 'ok', '07': 'timeout', '19': 'not-found' });
    expect(await idsThatFail(store, { codes: ['timeout'] })).toEqual(['07']);
    expect(await idsThatFail(store, { codes: ['not-found', 'corrupt'] })).toEqual(['13', '19']);
    expect(await idsThatFail(store, { codes: ['empty'] })).toEqual([]);
  });

  test('goes on after any image', async () => {
    const store = await makeRetriedRun({ '01': 'timeout', '07': 'ok', '13': 'timeout' });
    const all = ['01', '02', '13', '19'];
    for (const after of ['', '00', '01', '05', '12', '13', '18', '19', '99'])
      expect(await idsThatFail(store, { after })).toEqual(all.filter((id) => id > after));
  });

  test('goes on after any image of a plan of many pages', async () => {
    const store = await newStore();
    const ids = Array.from({ length: 700 }, (_, n) => String(n).padStart(4, '0'));
    const failed = ids.filter((_, n) => n % 10 === 3);
    const many = Object.fromEntries(ids.map((id) => [id, failed.includes(id) ? 'timeout' : 'ok'] as const));
    await makeFinishedRun(store, 'r', { ends: many, request: { shardSize: 2 } });
    expect(await idsThatFail(store)).toEqual(failed);
    for (const after of ['0193', '0402', '0699'])
      expect(await idsThatFail(store, { after })).toEqual(failed.filter((id) => id > after));
  });

  test('is as it is now where the source can tell', async () => {
    const store = await makeRetriedRun();
    const refresh = async (item: Item): Promise<Item> =>
      item.id === '07' ? { ...item, etag: 'of today', size: 5 } : item;
    const pages = await Array.fromAsync(failedItems(store, await openView(store, 'r'), { refresh }).list());
    const items = pages.flatMap((page) => page.items);
    expect(items[2]).toEqual({ id: '07', uri: 'file:///nowhere/07', etag: 'of today', size: 5 });
    expect(items[3]).toEqual(itemsOf(['13'])[0]);
  });

  test('is planned on where a planner was killed, to the same plan', async () => {
    const store = await newStore();
    const ids = Array.from({ length: 500 }, (_, n) => String(n).padStart(4, '0'));
    const all = Object.fromEntries(ids.map((id) => [id, 'timeout'] as const));
    await makeFinishedRun(store, 'r', { ends: all, request: { shardSize: 20 } });
    const request = makeRequest('r.retry-1', { retryOf: 'r', shardSize: 2 });
    await claimRun(store, request);
    const lister = failedItems(store, await openView(store, 'r', 1), {});
    const killed = wrapStore(store, {
      create: (key, body) =>
        key.endsWith('page-00001.json') ? Promise.reject(new Error('killed')) : store.create(key, body),
    });
    await expect(planRun(killed, lister, request)).rejects.toThrow('killed');
    expect(await findRun(store, 'r.retry-1')).toBeUndefined();

    const run = await planRun(store, failedItems(store, await openView(store, 'r', 1), {}), request);
    const readItems = openPlan(store);
    const planned: string[] = [];
    for (let shard = 0; shard < run.shards; shard++)
      planned.push(...(await readItems(run, shard)).map(({ id }) => id));
    expect(planned).toEqual(ids);
  });

  test('is read from few bytes: no part without a failed row of the code, and no embeddings', async () => {
    const store = await makeRetriedRun();
    const read = new Map<string, number>();
    const counting = wrapStore(store, {
      read: async (key, range) => {
        const bytes = await store.read(key, range);
        if (key.includes('/parts/') && range) read.set(key, (read.get(key) ?? 0) + range.count);
        if (key.includes('/parts/') && !range) throw new Error(`${key} was read whole`);
        return bytes;
      },
    });
    await idsThatFail(counting, { codes: ['corrupt'] });
    // The third part has no failed row; of the others only the fourth has one of this code, and its text is 1 kB more.
    expect([...read.keys()].sort()).toEqual([0, 1, 3, 4].map((shard) => partKey('r', shard)));
    const [other, chosen] = [read.get(partKey('r', 1)) ?? 0, read.get(partKey('r', 3)) ?? 0];
    expect(chosen).toBeGreaterThan(other);
    expect(chosen - other).toBeLessThan(3_000);
  });
});

describe("a run's view", () => {
  test('has each row once, the latest of those that were done again', async () => {
    const store = await makeRetriedRun(
      { '01': 'ok', '07': 'not-found', '13': 'corrupt' },
      { '02': 'ok', '07': 'ok', '13': 'timeout' },
    );
    const view = await openView(store, 'r');
    expect(view).toMatchObject({ ok: 18, failed: 2, unfinished: [] });
    const parts = await Array.fromAsync(viewParts(store, view));
    expect(parts.map(({ shard, rows }) => [shard, rows])).toEqual([0, 1, 2, 3, 4].map((shard) => [shard, 4]));
    const replaced = parts.flatMap((part) =>
      part.replaced.map(({ id, row, by }) => [id, part.shard * 4 + row, by.retry.run.run, by.error]),
    );
    expect(replaced).toEqual([
      ['01', 1, 'r.retry-1', null],
      ['02', 2, 'r.retry-2', null],
      ['07', 7, 'r.retry-2', null],
      ['13', 13, 'r.retry-2', 'timeout'],
    ]);
  });

  test('takes nothing from a retry that is not finished, and names it', async () => {
    const store = await makeRetriedRun({ '01': 'ok' });
    const request = makeRequest('r.retry-2', { retryOf: 'r' });
    await claimRun(store, request);
    await planRun(store, listerOf(itemsOf(['02'])), request);
    expect(await openView(store, 'r')).toMatchObject({ ok: 16, failed: 4, unfinished: ['r.retry-2'] });
    expect(await idsThatFail(store)).toEqual(['02', '07', '13', '19']);
  });

  test('orders ten retries as they were made', async () => {
    const store = await makeRetriedRun(...Array.from({ length: 11 }, () => ({ '01': 'timeout' }) as const));
    const { retries } = await openView(store, 'r');
    expect(retries.map(({ run }) => run.run)).toEqual(
      Array.from({ length: 11 }, (_, n) => `r.retry-${n + 1}`),
    );
    for await (const { rows } of failedRows(store, await openView(store, 'r', 3)))
      expect(rows.find(({ id }) => id === '01')?.retried?.retry.run.run ?? 'r.retry-2').toBe('r.retry-2');
  });

  test('reads no row where a run was never retried', async () => {
    const store = await makeRetriedRun();
    const view = await openView(store, 'r');
    const sealed = wrapStore(store, { read: (key) => Promise.reject(new Error(`${key} was read`)) });
    expect(
      (await Array.fromAsync(viewParts(sealed, view))).every(({ replaced }) => replaced.length === 0),
    ).toBe(true);
  });

  test.each(exportFormats)('is what is exported (%s)', async (format) => {
    const store = await makeRetriedRun({ '01': 'ok', '07': 'not-found' }, { '07': 'ok', '13': 'empty' });
    const to = join(tempFolder(), 'to');
    const parts = viewParts(store, await openView(store, 'r'));
    const manifest = await exportRun({ store, run: 'r', parts, to, format, rowsPerFile: 1000 });
    expect(manifest).toMatchObject({
      run: 'r',
      rows: 20,
      ok: 17,
      failed: 3,
      runs: ['r', 'r.retry-1', 'r.retry-2'],
    });
    if (format !== 'jsonl') return;
    const lines = readFileSync(join(to, 'images-00000.jsonl'), 'utf8').trimEnd().split('\n');
    const rows = lines.map((line) => JSON.parse(line));
    expect(rows.map(({ id }) => id)).toEqual(Object.keys(ends).toSorted());
    expect(rows[13]).toEqual({
      id: '13',
      uri: 'file:///nowhere/13',
      status: 'failed',
      error: 'empty',
      message: '13 is empty',
    });
    const madeBy: Record<string, string> = { '01': 'r.retry-1', '07': 'r.retry-2' };
    for (const { id, status, embedding } of rows.filter((row) => row.status === 'ok')) {
      const value = embeddingValue(madeBy[id] ?? 'r', id);
      expect({ id, status, value: embedding[2047] }).toEqual({ id, status: 'ok', value });
    }
  });

  test('is never mixed with a retry by another model', async () => {
    const store = await newStore();
    await makeFinishedRun(store, 'r', { ends });
    const model = { ...makeRequest('r').model, fingerprint: 'f'.repeat(64) };
    await makeFinishedRun(store, 'r.retry-1', { ends: { '01': 'ok' }, request: { retryOf: 'r', model } });
    const parts = viewParts(store, await openView(store, 'r'));
    const to = join(tempFolder(), 'to');
    const exported = exportRun({ store, run: 'r', parts, to, format: 'jsonl', rowsPerFile: 1000 });
    await expect(exported).rejects.toThrow(/by model ffff/);
  });
});

interface Archive {
  source: string;
  output: string;
  env: Record<string, string>;
  put(id: string, body: Uint8Array): Promise<unknown>;
}

const photos = join(tempFolder(), 'photos');
const photo = (n: number): Uint8Array =>
  readFileSync(join(photos, `part-0/${String(n).padStart(5, '0')}.jpg`));
const half = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, bytes.length / 2);
beforeAll(() => makePhotoArchive(photos, 8));

async function onFiles(): Promise<Archive> {
  const source = tempFolder();
  return {
    source,
    output: tempFolder(),
    env: {},
    put: async (id, body) => writeFileSync(join(source, id), body),
  };
}

async function onS3(): Promise<Archive> {
  const bucket = await makeBucket();
  return {
    source: `s3://${bucket}/photos`,
    output: `s3://${bucket}/index`,
    env: { AWS_ENDPOINT_URL_S3: testEndpoint(), AWS_REGION: 'us-east-1' },
    put: (id, body) => putForeignObject(bucket, `photos/${id}`, body),
  };
}

const run = ['--run', 'r', '--model', smallModel, '--shard-size', '4'];

test.each([
  ['file://', onFiles],
  ['s3://', onS3],
])(
  '%s: images that were mended since are done again, and only they',
  { timeout: 300_000 },
  async (_scheme, makeArchive) => {
    const { source, output, env, put } = await makeArchive();
    for (let n = 0; n < 8; n++) await put(`${n}.jpg`, photo(n));
    for (const n of [1, 2, 6]) await put(`${n}.jpg`, half(photo(n)));
    await put('5.jpg', Buffer.from('no picture'));
    const command = async (...args: string[]) => {
      const { exitCode, stdout, stderr } = await lensmill([...args, '--output', output, '--json'], env);
      return { exitCode, stderr, result: stdout ? JSON.parse(stdout) : undefined };
    };
    expect(await command('index', source, ...run)).toMatchObject({
      exitCode: 3,
      result: { ok: 4, failed: 4, failures: { truncated: 3, 'unsupported-format': 1 } },
    });

    for (const n of [1, 5, 6]) await put(`${n}.jpg`, photo(n));
    expect(await command('retry', 'r', '--failed', '--code', 'truncated')).toMatchObject({
      exitCode: 3,
      result: { run: 'r.retry-1', retryOf: 'r', items: 3, mended: 2, failed: 1, failures: { truncated: 1 } },
    });
    await put('2.jpg', photo(2));
    expect(await command('retry', 'r', '--failed')).toMatchObject({
      exitCode: 0,
      result: { run: 'r.retry-2', items: 2, mended: 2 },
    });
    expect(await command('retry', 'r', '--failed')).toMatchObject({
      exitCode: 0,
      result: { retry: null, items: 0 },
    });

    expect(await command('status', 'r')).toMatchObject({
      result: {
        ok: 4,
        failed: 4,
        view: { ok: 8, failed: 0 },
        retries: [
          { run: 'r.retry-1', ok: 2 },
          { run: 'r.retry-2', ok: 2 },
        ],
      },
    });
    // The images as they are now give the rows of the view, each by its own etag.
    expect(await command('verify', 'r', '--deep', '8')).toMatchObject({
      exitCode: 0,
      result: { sound: true, deep: { same: 8 }, retries: [{ ok: 2 }, { ok: 2 }] },
    });
    const whole = join(tempFolder(), 'whole');
    expect(await command('export', '--to', whole, '--format', 'parquet')).toMatchObject({
      exitCode: 0,
      result: { run: 'r', rows: 8, ok: 8, runs: ['r', 'r.retry-1', 'r.retry-2'] },
    });
    const alone = join(tempFolder(), 'alone');
    expect(await command('export', '--to', alone, '--run', 'r.retry-1')).toMatchObject({
      result: { run: 'r.retry-1', rows: 3, ok: 2 },
    });
  },
);

test('a retry that was killed is resumed; until then there is no other, and nothing of the run is changed', async () => {
  const { source, output, put } = await onFiles();
  const good = photo(0);
  for (let n = 0; n < 40; n++) await put(`${String(n).padStart(2, '0')}.jpg`, half(good));
  await lensmill(['index', source, '--output', output, ...run]);
  const before = await contentsOf(join(output, 'runs/r'));
  for (let n = 0; n < 40; n++) await put(`${String(n).padStart(2, '0')}.jpg`, good);

  const killed = lensmill(['retry', 'r', '--failed', '--output', output]);
  await logged(killed, 'shard done');
  killed.kill('SIGKILL');
  await killed;
  const another = await lensmill(['retry', 'r', '--failed', '--output', output]);
  expect(another.exitCode).toBe(2);
  expect(another.stderr).toContain('lensmill resume r.retry-1');
  const resumed = await lensmill(['resume', 'r.retry-1', '--output', output, '--json']);
  expect(JSON.parse(resumed.stdout)).toMatchObject({ run: 'r.retry-1', items: 40, mended: 40, failed: 0 });
  expect((await lensmill(['verify', 'r', '--output', output])).exitCode).toBe(0);
  expect(await contentsOf(join(output, 'runs/r'))).toEqual(before);
});

test('an image that is gone, or that nobody mended, fails again and says why', async () => {
  const { source, output, put } = await onFiles();
  await put('a.jpg', half(photo(0)));
  await put('b.jpg', half(photo(1)));
  await put('c.jpg', photo(2));
  await lensmill(['index', source, '--output', output, ...run]);
  rmSync(join(source, 'a.jpg'));
  const { exitCode, stdout } = await lensmill(['retry', 'r', '--failed', '--output', output]);
  expect(exitCode).toBe(3);
  expect(stdout).toMatch(
    /retried 2 failed images of run r: 0 mended, 2 failed again \(1 not-found, 1 (truncated|corrupt)\)/,
  );
  const status = await lensmill(['status', 'r', '--output', output]);
  expect(status.stdout).toMatch(
    /retry {3}r.retry-1: done, 0 mended, 2 failed again\nin all {2}1 embedded, 2 failed/,
  );
});

test('what was typed wrong is one line that says what to type, and exit code 2', async () => {
  const output = tempFolder();
  const store = openStore(output, s3Defaults);
  await store.probe();
  await makeFinishedRun(store, 'r', { ends });
  await makeFinishedRun(store, 'r.retry-1', { ends: { '01': 'ok' }, request: { retryOf: 'r' } });
  await makeFinishedRun(store, 'good', { ends: { a: 'ok' } });
  const unfinished = makeRequest('unfinished');
  await claimRun(store, unfinished);
  await planRun(store, listerOf(itemsOf(['a'])), unfinished);
  const cases: [string[], RegExp][] = [
    [['retry', 'r'], /--failed is missing: `lensmill retry r --failed`.*`lensmill index`/],
    [['retry', 'r', '--failed', '--code', 'timeouts'], /'timeouts'; there are corrupt, timeout, truncated/],
    [['retry', 'r.retry-1', '--failed'], /`lensmill retry r --failed`/],
    [['retry', 'unfinished', '--failed'], /lensmill resume unfinished/],
    [['retry', 'nothing', '--failed'], /no run nothing/],
    [['index', output, '--run', 'x.retry-1', '--model', smallModel], /--run/],
  ];
  for (const [args, message] of cases) {
    const { exitCode, stdout, stderr } = await lensmill([...args, '--output', output]);
    expect({ args, exitCode, stdout }).toEqual({ args, exitCode: 2, stdout: '' });
    expect(stderr).toMatch(message);
  }
  const nothing = await lensmill(['retry', 'good', '--failed', '--output', output]);
  expect(nothing).toMatchObject({ exitCode: 0, stdout: 'no image of run good fails: nothing is left to do' });
  expect(await readRun(store, 'good')).toMatchObject({ items: 1 });
});

async function contentsOf(folder: string): Promise<Record<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    await Promise.all(files.map(async (path) => [path, (await readFile(path)).toString('latin1')])),
  );
}
