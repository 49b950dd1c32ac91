import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { type BatchStages, type EmbeddedShard, openBatcher } from '../src/batch.ts';
import { encodeItems } from '../src/page.ts';
import { readSheet } from '../src/sheet.ts';
import type { Item } from '../src/types.ts';
import { entriesOf, putValues, tellOutcomes } from './helpers/slot-entries.ts';

const shape = { batch: 4, slots: 2, dimension: 2, topK: 1 };
const never = new AbortController().signal;

function itemsOf(name: string, count: number): Item[] {
  return Array.from({ length: count }, (_, n) => ({ id: `${name}${n}`, uri: '', etag: '', size: n }));
}

function linesOf(name: string, count: number): Uint8Array {
  return encodeItems(itemsOf(name, count));
}

/** Stages that "embed" an item's size, and keep an account of what they saw. */
function recordingStages(
  options: { fails?: (item: Item) => boolean; breaks?: (item: Item) => boolean } = {},
) {
  const account = { batches: [] as string[][], underWay: 0, mostUnderWay: 0 };
  const stages: BatchStages = {
    async embed(_slot, ranges) {
      const entries = entriesOf(ranges);
      const items = entries.map(({ item }) => item);
      account.batches.push(items.map(({ id }) => id));
      account.mostUnderWay = Math.max(account.mostUnderWay, ++account.underWay);
      await new Promise(setImmediate);
      account.underWay -= 1;
      if (items.some((item) => options.breaks?.(item))) throw new Error('the lane broke');
      const exceptions = tellOutcomes(
        entries,
        items.map((item) =>
          options.fails?.(item)
            ? ({ status: 'failed', error: 'corrupt', message: item.id } as const)
            : ({
                status: 'ok',
                width: 1,
                height: 1,
                format: 'jpeg',
                bytes: 1,
                sha256: hashOf(item),
              } as const),
        ),
      );
      for (const { sheet, row } of entries) sheet.places[row] = -1;
      const sizes = items.map(({ size }) => size);
      putValues(ranges, sizes, {
        embeddings: Float32Array.from(sizes.flatMap((size) => [size, size + 0.5])),
      });
      return {
        exceptions,
        fetchMs: 4,
        decodeMs: 8,
        bytesRead: ranges.map(({ count }) => 10 * count),
        inferMs: 4,
      };
    },
  };
  return { stages, account };
}

const hashOf = ({ id }: Item): string => createHash('sha256').update(id).digest('hex');

const rowsOf = ({ sheet, failures }: EmbeddedShard) => readSheet({ sheet: sheet.memory, failures });

const wanted = { signal: never, suspect: false };

test('every row gets the result of its own image, across shard borders', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, shape);
  const shards = await Promise.all(
    [7, 2, 6].map((count, n) => batcher.embed(`run${n}`, linesOf(`${n}-`, count), wanted)),
  );

  for (const { items, embeddings, scores, labels, outcomes } of shards.map(rowsOf)) {
    expect(Array.from(labels)).toEqual(items.map(({ size }) => size));
    expect(Array.from(scores)).toEqual(items.map(({ size }) => size));
    expect(Array.from(embeddings)).toEqual(items.flatMap(({ size }) => [size, size + 0.5]));
    expect(outcomes.map((outcome) => outcome.sha256)).toEqual(items.map(hashOf));
  }
  // 15 images in batches of 4: the tails of the first two shards share batches with what follows.
  expect(account.batches.map((ids) => ids.length)).toEqual([4, 4, 4, 3]);
  expect(account.batches[1]).toEqual(['0-4', '0-5', '0-6', '1-0']);
});

test('no more batches are under way than there are slots', async () => {
  const { stages, account } = recordingStages();
  await openBatcher(stages, shape).embed('r', linesOf('a', 100), wanted);
  expect(account.mostUnderWay).toBe(2);
});

test('a batch that is not full waits while the device is busy, and goes when it is not', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, { ...shape, slots: 3 });
  await batcher.embed('r', linesOf('a', 6), wanted);
  expect(account.batches.map((ids) => ids.length)).toEqual([4, 2]);
});

test('a failed image costs its row', async () => {
  const { stages } = recordingStages({ fails: ({ size }) => size < 4 || size === 6 });
  const rows = rowsOf(await openBatcher(stages, shape).embed('r', linesOf('a', 8), wanted));
  expect(rows.outcomes.map(({ status }) => status)).toEqual([
    ...Array(4).fill('failed'),
    ...['ok', 'ok', 'failed', 'ok'],
  ]);
  expect(Array.from(rows.labels.subarray(4))).toEqual([4, 5, 6, 7]);
});

test('a stage that breaks fails the shards of its batch and no other', async () => {
  const { stages } = recordingStages({ breaks: ({ id }) => id === 'b1' });
  const batcher = openBatcher(stages, shape);
  const [a, b, c] = await Promise.allSettled([
    batcher.embed('r', linesOf('a', 4), wanted),
    batcher.embed('r', linesOf('b', 12), wanted),
    batcher.embed('r', linesOf('c', 4), wanted),
  ]);
  expect(a?.status).toBe('fulfilled');
  expect(b).toMatchObject({ status: 'rejected', reason: { message: 'the lane broke' } });
  expect(c?.status).toBe('fulfilled');
});

test('a source that refuses blocks its own shard and no other', async () => {
  const { stages } = recordingStages();
  const refusing: BatchStages = {
    ...stages,
    embed: async (slot, ranges, signal) => {
      const done = await stages.embed(slot, ranges, signal);
      const exceptions = entriesOf(ranges).flatMap(({ run }, at) =>
        run === 'locked' ? [{ at, outcome: { status: 'refused', message: 'the key expired' } as const }] : [],
      );
      return { ...done, exceptions };
    },
  };
  const batcher = openBatcher(refusing, shape);
  const [locked, open] = await Promise.allSettled([
    batcher.embed('locked', linesOf('a', 6), wanted),
    batcher.embed('open', linesOf('b', 6), wanted),
  ]);
  expect(locked).toMatchObject({
    status: 'rejected',
    reason: { name: 'RunBlocked', message: 'the key expired' },
  });
  expect(open?.status).toBe('fulfilled');
});

test('a batch that nobody waits for any more is let go, and one that somebody does is not', async () => {
  const { stages } = recordingStages();
  const signals: AbortSignal[] = [];
  const held = Promise.withResolvers<void>();
  const batcher = openBatcher(
    {
      ...stages,
      embed: async (slot, ranges, signal) => {
        signals.push(signal);
        await held.promise;
        return stages.embed(slot, ranges, signal);
      },
    },
    shape,
  );
  const abort = new AbortController();
  const aborted = batcher.embed('r', linesOf('a', 6), { signal: abort.signal, suspect: false });
  const other = batcher.embed('r', linesOf('b', 2), wanted);
  abort.abort(new Error('the lock was lost'));
  await expect(aborted).rejects.toThrow('the lock was lost');
  // Four of a; two of a and two of b.
  expect(signals.map((signal) => signal.aborted)).toEqual([true, false]);
  held.resolve();
  expect(Array.from((await other).sheet.labels)).toEqual([0, 1]);
});

test('an aborted shard ends at once, and its images that had not begun never do', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, shape);
  const abort = new AbortController();
  const aborted = batcher.embed('r', linesOf('a', 40), { signal: abort.signal, suspect: false });
  const other = batcher.embed('r', linesOf('b', 4), wanted);
  abort.abort(new Error('the lock was lost'));
  await expect(aborted).rejects.toThrow('the lock was lost');
  expect(Array.from((await other).sheet.labels)).toEqual([0, 1, 2, 3]);
  expect(account.batches.flat().filter((id) => id.startsWith('a')).length).toBeLessThanOrEqual(8);
});
