import { beforeEach, expect, test } from 'vitest';
import { openBatcher } from '../src/batch.ts';
import { commitPart } from '../src/commit.ts';
import { ConfigError } from '../src/errors.ts';
import { type Lease, LeaseLost, openLease } from '../src/lease.ts';
import { encodePart } from '../src/parts/part.ts';
import { openPipeline, type Pipeline } from '../src/pipeline.ts';
import { planRun } from '../src/plan.ts';
import { claimRun, type Run } from '../src/runs/run.ts';
import { readSheet } from '../src/sheet.ts';
import { FileStore } from '../src/stores/file.ts';
import type { Store } from '../src/stores/store.ts';
import type { Item } from '../src/types.ts';
import { makeRequest } from './helpers/requests.ts';
import { entriesOf, type Told, tellOutcomes } from './helpers/slot-entries.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

const shardSize = 24;
let store: Store;
let run: Run;

beforeEach(async () => {
  store = new FileStore(tempFolder());
  await store.probe();
  run = await plan('r');
});

async function plan(id: string, changes: { retryOf?: string; root?: string } = {}): Promise<Run> {
  const { retryOf = null, root = 'file:///nowhere' } = changes;
  const request = makeRequest(id, { shardSize, retryOf });
  await claimRun(store, request);
  const items = Array.from({ length: shardSize }, (_, n): Item => {
    const name = `${String(n).padStart(2, '0')}.jpg`;
    return { id: name, uri: `${root}/${name}`, etag: 'e', size: 1 };
  });
  return planRun(
    store,
    {
      uri: 'file:///nowhere',
      async *list() {
        yield { items, skipped: 0 };
      },
    },
    request,
  );
}

const ok: Told = { status: 'ok', width: 1, height: 1, format: 'jpeg', bytes: 1, sha256: 'a'.repeat(64) };
const denied: Told = { status: 'failed', error: 'access-denied', message: 'AccessDenied' };
const lost: Told = { status: 'failed', error: 'timeout', message: 'no answer' };

/** A pipeline whose lanes say of row n what `tell` does, and whose model says nothing. */
function pipelineOf(
  tell: (row: number) => Told,
  { output = store, onFilled = (): void => undefined } = {},
): Pipeline {
  const shape = { batch: 8, slots: 2, dimension: run.model.dimension, topK: run.topK };
  const batcher = openBatcher(
    {
      embed: async (_slot, ranges) => {
        onFilled();
        const entries = entriesOf(ranges);
        const outcomes = entries.map(({ item }) => tell(Number.parseInt(item.id, 10)));
        const exceptions = tellOutcomes(entries, outcomes);
        for (const { sheet, row } of entries) sheet.places[row] = -1;
        return {
          exceptions,
          fetchMs: 0,
          decodeMs: 0,
          bytesRead: ranges.map(({ count }) => 10 * count),
          inferMs: 0,
        };
      },
    },
    shape,
  );
  return openPipeline({
    store: output,
    batcher,
    encode: async (rows, ...made) => {
      const part = encodePart(readSheet(rows), ...made);
      const [{ run, shard }] = made;
      return {
        bytes: part.length,
        commit: () => commitPart(output, run, shard, part),
        drop: () => undefined,
      };
    },
    provenance: () => ({ lensmill: run.lensmill, device: 'cpu', batch: 8 }),
  });
}

const endless: Lease = { signal: new AbortController().signal, check: () => undefined };
const taken = { lease: endless, suspect: false };
const partOf = (id: string) => store.head(`runs/${id}/parts/part-00000.parquet`);

test('a few images that may not be read are failed rows', async () => {
  const done = await pipelineOf((row) => (row < 9 ? denied : ok)).processShard(run, 0, taken);
  expect(done).toMatchObject({ items: 24, failed: 9, gone: 0, commit: 'created' });
  expect(done).toMatchObject({ failures: { 'access-denied': 9 }, bytesRead: 240 });
  expect(done.bytesWritten).toBe((await partOf('r'))?.size);
});

test('a shard of which half may not be read blocks the run, and burns no image', async () => {
  const doing = pipelineOf((row) => (row < 12 ? denied : ok)).processShard(run, 0, taken);
  await expect(doing).rejects.toMatchObject({
    name: 'RunBlocked',
    message: '12 of 24 images cannot be read (access-denied: AccessDenied)',
  });
  expect(await partOf('r')).toBeUndefined();
});

test('a shard of which half gives no answer is tried again, and burns no image', async () => {
  const doing = pipelineOf((row) => (row < 12 ? lost : ok)).processShard(run, 0, taken);
  await expect(doing).rejects.toMatchObject({ name: 'Error', message: expect.stringContaining('12 of 24') });
  expect(await partOf('r')).toBeUndefined();
});

test('of a list of web addresses the dead ones are rows, unless all of a shard are dead', async () => {
  const links = await plan('links', { root: 'https://example.org' });
  const allButOne = pipelineOf((row) => (row < 23 ? lost : ok)).processShard(links, 0, taken);
  expect(await allButOne).toMatchObject({ failed: 23, commit: 'created' });
  const noNetwork = await plan('no-network', { root: 'https://example.org' });
  await expect(pipelineOf(() => lost).processShard(noNetwork, 0, taken)).rejects.toThrow('24 of 24');
});

test('in a retry the images that fail again are failed rows, however many', async () => {
  const retry = await plan('r.retry-1', { retryOf: 'r' });
  expect(await pipelineOf(() => denied).processShard(retry, 0, taken)).toMatchObject({ failed: 24 });
});

test('who has lost the lease commits nothing, even when no timer has told it yet', async () => {
  const lease = openLease(50, performance.now());
  const wait = (): void => {
    for (const until = performance.now() + 80; performance.now() < until; );
  };
  const doing = pipelineOf(() => ok, { onFilled: wait }).processShard(run, 0, { lease, suspect: false });
  await expect(doing).rejects.toBeInstanceOf(LeaseLost);
  expect(await partOf('r')).toBeUndefined();
});

test('a part that stands is left alone, and nothing is embedded again', async () => {
  await pipelineOf(() => ok).processShard(run, 0, taken);
  const standing = await partOf('r');
  const again = pipelineOf(() => expect.unreachable()).processShard(run, 0, taken);
  expect(await again).toMatchObject({
    items: 24,
    failed: 0,
    commit: 'present',
    bytesRead: 0,
    bytesWritten: 0,
  });
  expect(await partOf('r')).toEqual(standing);
});

test.each([
  ['store-unreachable', 'OutOfReach'],
  ['disk-full', 'RunBlocked'],
  ['bad-credentials', 'RunBlocked'],
])('a store that says %s when a part is created: %s', async (code, name) => {
  const output = wrapStore(store, { create: () => Promise.reject(new ConfigError(code, 'mend it')) });
  const doing = pipelineOf(() => ok, { output }).processShard(run, 0, taken);
  await expect(doing).rejects.toMatchObject({ name, message: 'mend it' });
});
