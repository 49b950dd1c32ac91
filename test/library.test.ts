/** What `import … from 'lensmill'` promises beyond the examples of its page, which test/pack.test.ts runs. */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, expectTypeOf, test } from 'vitest';
import {
  buildIndex,
  ConfigError,
  enqueueRun,
  indexRun,
  type Label,
  type OkRow,
  type Output,
  openIndex,
  openOutput,
  type Row,
  resumeRun,
  search,
} from '../src/lensmill.ts';
import type { PlanSettings, WorkSettings } from '../src/library/types.ts';
import { failedItems } from '../src/retry.ts';
import { openTable, tableRows } from '../src/runs/table.ts';
import { openView } from '../src/runs/view.ts';
import type { Settings } from '../src/settings/table.ts';
import { changedItems } from '../src/since.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { flagsForFiles } from '../workers/thread.ts';
import { embeddingValue, itemsOf, listerOf, makeFinishedRun } from './helpers/finished-run.ts';
import { makeRequest } from './helpers/requests.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

/** Of each image, which run made its row. */
const madeBy = { a: 'night', c: 'day', d: 'day.retry-1', e: 'night', f: 'night' };
let folder: string;
let store: Store;
let output: Output;

/** Day by day: `day` with a failed image that a retry mends, then `night`, in which a changed, b is gone, and e and f came. */
beforeAll(async () => {
  folder = tempFolder();
  store = openStore(folder, s3Defaults);
  await store.probe();
  await makeFinishedRun(store, 'day', { ends: { a: 'ok', b: 'ok', c: 'ok', d: 'timeout' } });
  await makeFinishedRun(store, 'day.retry-1', {
    ends: { d: 'ok' },
    request: { retryOf: 'day' },
    lister: failedItems(store, await openView(store, 'day'), {}),
  });
  const table = await openTable(store, 'day');
  const now = itemsOf(['a', 'c', 'd', 'e', 'f']).map((item) =>
    item.id === 'a' ? { ...item, etag: 'new' } : item,
  );
  await makeFinishedRun(store, 'night', {
    ends: { a: 'ok', e: 'ok', f: 'truncated' },
    request: { since: 'day' },
    lister: changedItems(listerOf(now), (after) => tableRows(store, table, after), makeRequest('any')),
    rowsBefore: table.rows,
  });
  output = await openOutput(folder);
  return () => output.close();
});

test('its options are settings, by name and by type', () => {
  type Wanted = Pick<Settings, keyof (PlanSettings & WorkSettings)>;
  type Written = PlanSettings & WorkSettings;
  expectTypeOf<keyof Written>().toExtend<keyof Settings>();
  // Where it is one word of several, the same words.
  expectTypeOf<Written['precision' | 'resize' | 'embedding' | 'decoder' | 'reuse']>().toEqualTypeOf<
    Wanted['precision' | 'resize' | 'embedding' | 'decoder' | 'reuse']
  >();
  expectTypeOf<Written['features'][number]>().toEqualTypeOf<NonNullable<Wanted['features']>[number]>();
});

describe('rows', () => {
  test('are those that count, by whichever run they were made', async () => {
    const rows: Row[] = [];
    for await (const row of output.rows()) rows.push(row);
    expect(Object.fromEntries(rows.map(({ id, run }) => [id, run]).toSorted())).toEqual(madeBy);
    for (const row of rows) {
      if (row.status === 'failed')
        expect(row).toMatchObject({ id: 'f', error: 'truncated', message: 'f is truncated' });
      else expect(row.embedding[0]).toBe(embeddingValue(row.run, row.id));
    }
  });

  test('one by one are the same', async () => {
    for await (const row of output.rows()) expect(await output.row(row.id)).toEqual(row);
    expect(await output.row('b')).toBeUndefined();
    expect(await output.row('zzz')).toBeUndefined();
    // As it was then.
    expect(await output.row('b', { run: 'day' })).toMatchObject({ id: 'b', run: 'day' });
    expect(await output.row('a', { run: 'day' })).toMatchObject({ run: 'day' });
  });

  test('have their labels by name, and hold no memory but their own', async () => {
    const row = (await output.row('c')) as OkRow;
    expect(row.labels[0]).toEqual({ label: 7, name: 'cock', score: expect.closeTo(0.1) } satisfies Label);
    expect(row.embedding.buffer.byteLength).toBe(2048 * 4);
    expect(row).toMatchObject({
      width: 10,
      height: 20,
      format: 'jpeg',
      headLabels: [],
      features: {},
      extra: null,
    });
  });

  test('end when somebody has enough, by break or by a signal', async () => {
    let seen = 0;
    for await (const _ of output.rows()) if (++seen === 2) break;
    expect(seen).toBe(2);
    const enough = new AbortController();
    const reading = async (): Promise<void> => {
      for await (const _ of output.rows({ signal: enough.signal })) enough.abort(new Error('enough'));
    };
    await expect(reading()).rejects.toThrow('enough');
  });
});

test('what is wrong with a call is a ConfigError with a code', async () => {
  const missing = join(tempFolder(), 'nothing');
  const cases: [string, () => Promise<unknown>][] = [
    ['unknown-setting', () => openOutput(folder, { topk: 3 } as object)],
    ['missing-source', () => indexRun([], folder)],
    ['bad-setting', () => indexRun(folder, folder, { topK: 0 })],
    ['unknown-scheme', () => openOutput('ftp://host/')],
    ['no-run', () => output.run('zzz')],
    ['no-run', () => output.run('../day')],
    ['no-run', () => output.verify('a b')],
    ['no-image', () => output.readImage('zzz')],
    ['missing-setting', () => enqueueRun(folder, folder, { redis: undefined })],
    ['no-index', () => search(missing, { id: 'a' })],
    ['wrong-device', () => indexRun(folder, missing, { device: 'sleep:1' })],
  ];
  for (const [code, act] of cases) {
    const thrown: unknown = await act().catch((error) => error);
    expect(thrown).toBeInstanceOf(ConfigError);
    expect(thrown).toMatchObject({ code });
  }
  const gone = await output.readImage('a').catch((error) => error);
  expect([gone.name, gone.code]).toEqual(['ImageError', 'not-found']);
});

test('a program that is given as text can index: what its worker is started with is not its own', () => {
  const flags = [
    '--max-old-space-size=900',
    '--input-type=module',
    '-e',
    'import "lensmill"',
    '--enable-source-maps',
  ];
  expect(flagsForFiles(flags)).toEqual(['--max-old-space-size=900', '--enable-source-maps']);
  expect(flagsForFiles(['--input-type', 'module', '--eval=1'])).toEqual([]);
});

test('a signal that was aborted before is looked at before anything is done', async () => {
  const signal = AbortSignal.abort(new Error('too late'));
  const nowhere = join(tempFolder(), 'nowhere');
  await expect(indexRun(folder, nowhere, { signal })).rejects.toThrow('too late');
  await expect(output.verify('day', { signal })).rejects.toThrow('too late');
});

test('a signal while a run is planned leaves a run, and says which', async () => {
  const source = tempFolder();
  writeFileSync(join(source, 'broken.jpg'), 'no picture');
  const stop = new AbortController();
  const lines: string[] = [];
  const onLog = (line: string): void => {
    lines.push(line);
    if (line.includes('"run start"')) stop.abort(new Error('enough'));
  };
  const options = { run: 'p', model: 'null', device: 'cpu', onLog, signal: stop.signal };
  const written = tempFolder();
  await expect(indexRun(source, written, options)).rejects.toThrow('enough');
  const last = JSON.parse(lines.at(-1) ?? '');
  expect(last).toMatchObject({ run: 'p', msg: expect.stringContaining('lensmill resume') });
  await using stopped = await openOutput(written);
  expect(await stopped.run('p')).toMatchObject({ state: 'planning' });
});

test('a signal that comes between the plan and the worker stops the run, and resumeRun does the rest', async () => {
  const source = tempFolder();
  const written = tempFolder();
  writeFileSync(join(source, 'broken.jpg'), 'no picture');
  const stop = new AbortController();
  const options = { run: 'r', model: 'null', device: 'cpu' };
  const onLog = (line: string): void => {
    if (line.includes('"run planned"')) stop.abort(new Error('enough'));
  };
  await expect(indexRun(source, written, { ...options, onLog, signal: stop.signal })).rejects.toThrow(
    'enough',
  );
  expect(await resumeRun('r', written, { device: 'cpu' })).toMatchObject({ items: 1, failed: 1 });
});

test('a run that was finished, and stopped before its index was built, has it after resumeRun', async () => {
  const written = tempFolder();
  await makeFinishedRun(openStore(written, s3Defaults), 'r', {
    ends: { a: 'ok' },
    request: { buildIndex: true },
  });
  await resumeRun('r', written, { device: 'cpu' });
  await using index = await openIndex(written);
  expect(index.runs).toEqual(['r']);
});

test('verify tells what does not hold, of retries too', async () => {
  const done: number[] = [];
  expect(await output.verify('day', { onProgress: (progress) => done.push(progress.done) })).toEqual({
    run: 'day',
    isSound: true,
    ...{ items: 4, ok: 3, failed: 1, gone: 0, parts: 1 },
    problems: [],
  });
  expect(done).toEqual([1, 2]);
});

test('the log goes to whoever asks for it, a line of JSON each', async () => {
  const lines: string[] = [];
  const source = tempFolder();
  writeFileSync(join(source, 'broken.jpg'), 'no picture');
  const options = { model: 'null', device: 'sleep:1', onLog: (line: string) => void lines.push(line) };
  await indexRun(source, tempFolder(), options);
  expect(lines.map((line) => JSON.parse(line).msg)).toContain('run start');
});

test('a source without images is refused before a run is claimed', async () => {
  const output = tempFolder();
  const refused = indexRun(tempFolder(), output, { model: 'null', device: 'sleep:1' });
  await expect(refused).rejects.toMatchObject({ name: 'ConfigError', code: 'empty-source' });
  expect(existsSync(join(output, 'runs'))).toBe(false);
});

describe('an index', () => {
  beforeAll(async () => {
    expect(await buildIndex(output)).toMatchObject({
      how: 'built',
      images: 4,
      runs: ['day', 'day.retry-1', 'night'],
    });
  });

  test('is searched by what it holds and by vectors, several averaged, with a filter', async () => {
    const index = await openIndex(output);
    try {
      expect([index.images, index.runs]).toEqual([4, ['day', 'day.retry-1', 'night']]);
      const [first] = await index.search({ id: 'a' }, { k: 1 });
      expect(first?.id).not.toBe('a');
      const { key } = (await index.find('a')) ?? { key: '' };
      const vector = await index.vector(key);
      expect(Math.hypot(...vector)).toBeCloseTo(1);
      const ids = async (filter: object) =>
        (await index.search([{ vector: [...vector] }, { id: 'e' }], { filter }))
          .map(({ id }) => id)
          .toSorted();
      expect(await ids({})).toEqual(['a', 'c', 'd']);
      expect(await ids({ runs: ['day'] })).toEqual(['c', 'd']);
      expect(await ids({ labels: ['cock'], prefix: 'c' })).toEqual(['c']);
      expect(await ids({ labels: [8] })).toEqual([]);
      // All of one direction, whatever their length.
      const { found, groups } = await index.duplicates();
      expect([found, groups[0]?.images.map(({ isCopy }) => isCopy)]).toEqual([
        1,
        [false, false, false, false],
      ]);
      await expect(index.search([])).rejects.toMatchObject({ code: 'bad-option' });
      await expect(index.search({ id: 'a' }, { k: 0 })).rejects.toMatchObject({ code: 'bad-option' });
      for (const query of ['a', {}] as unknown as { id: string }[])
        await expect(index.search(query)).rejects.toMatchObject({ code: 'bad-option' });
      for (const options of [{ threshold: Number.NaN }, { threshold: 2 }, { limit: -1 }])
        await expect(index.duplicates(options)).rejects.toMatchObject({ code: 'bad-option' });
      await expect(index.search({ vector: [1, 2] })).rejects.toMatchObject({ code: 'wrong-dimension' });
    } finally {
      await index.close();
      await index.close();
    }
  });

  test('outlives the output that it was opened from', async () => {
    const closed = await openOutput(folder);
    const index = await openIndex(closed);
    await closed.close();
    await closed.close();
    expect(await index.search({ id: 'c' }, { k: 2, exact: true })).toHaveLength(2);
    await index.close();
    expect(await buildIndex(output)).toMatchObject({ how: 'unchanged' });
  });
});
