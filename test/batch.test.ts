import { expect, test } from 'vitest';
import { type BatchStages, openBatcher } from '../src/batch.ts';
import type { Item } from '../src/types.ts';

const shape = { batch: 4, slots: 2, dimension: 2, topK: 1 };
const never = new AbortController().signal;

function itemsOf(name: string, count: number): Item[] {
  return Array.from({ length: count }, (_, n) => ({ id: `${name}${n}`, uri: '', etag: '', size: n }));
}

/** Stages that "embed" an item's size, and keep an account of what they saw. */
function recordingStages(
  options: { fails?: (item: Item) => boolean; breaks?: (item: Item) => boolean } = {},
) {
  const slots = new Map<number, number[]>();
  const account = { fills: [] as string[][], inferred: 0, underWay: 0, mostUnderWay: 0 };
  const stages: BatchStages = {
    async fill(slot, entries) {
      account.fills.push(entries.map(({ item }) => item.id));
      account.mostUnderWay = Math.max(account.mostUnderWay, ++account.underWay);
      await new Promise(setImmediate);
      if (entries.some(({ item }) => options.breaks?.(item))) {
        account.underWay -= 1;
        throw new Error('the lane broke');
      }
      slots.set(
        slot,
        entries.map(({ item }) => item.size),
      );
      const outcomes = entries.map(({ item }) =>
        options.fails?.(item)
          ? ({ status: 'failed', error: 'corrupt', message: item.id } as const)
          : ({ status: 'ok', width: 1, height: 1, format: 'jpeg', bytes: 1, sha256: item.id } as const),
      );
      return { outcomes, places: new Int32Array(entries.length).fill(-1), fetchMs: 4, decodeMs: 8 };
    },
    async infer(slot) {
      await new Promise(setImmediate);
      account.inferred += 1;
      account.underWay -= 1;
      const sizes = slots.get(slot) ?? [];
      return {
        embeddings: Float32Array.from({ length: 8 }, (_, i) => (sizes[i >> 1] ?? -1) + (i % 2) / 2),
        scores: Float32Array.from({ length: 4 }, (_, i) => sizes[i] ?? -1),
        labels: Int32Array.from({ length: 4 }, (_, i) => sizes[i] ?? -1),
        inferMs: 4,
      };
    },
  };
  return { stages, account };
}

const wanted = { signal: never, suspect: false };

test('every row gets the result of its own image, across shard borders', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, shape);
  const shards = await Promise.all(
    [7, 2, 6].map((count, n) => batcher.embed(`run${n}`, itemsOf(`${n}-`, count), wanted)),
  );

  for (const { items, embeddings, scores, labels, outcomes } of shards) {
    expect(Array.from(labels)).toEqual(items.map(({ size }) => size));
    expect(Array.from(scores)).toEqual(items.map(({ size }) => size));
    expect(Array.from(embeddings)).toEqual(items.flatMap(({ size }) => [size, size + 0.5]));
    expect(outcomes.map((outcome) => outcome.sha256)).toEqual(items.map(({ id }) => id));
  }
  // 15 images in batches of 4: the tails of the first two shards share batches with what follows.
  expect(account.fills.map((ids) => ids.length)).toEqual([4, 4, 4, 3]);
  expect(account.fills[1]).toEqual(['0-4', '0-5', '0-6', '1-0']);
});

test('no more batches are under way than there are slots', async () => {
  const { stages, account } = recordingStages();
  await openBatcher(stages, shape).embed('r', itemsOf('a', 100), wanted);
  expect(account.mostUnderWay).toBe(2);
});

test('a batch that is not full waits while the device is busy, and goes when it is not', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, { ...shape, slots: 3 });
  await batcher.embed('r', itemsOf('a', 6), wanted);
  expect(account.fills.map((ids) => ids.length)).toEqual([4, 2]);
});

test('a failed image costs its row; a batch of nothing but failures never reaches the device', async () => {
  const { stages, account } = recordingStages({ fails: ({ size }) => size < 4 || size === 6 });
  const rows = await openBatcher(stages, shape).embed('r', itemsOf('a', 8), wanted);
  expect(rows.outcomes.map(({ status }) => status)).toEqual([
    ...Array(4).fill('failed'),
    ...['ok', 'ok', 'failed', 'ok'],
  ]);
  expect(Array.from(rows.labels.subarray(4))).toEqual([4, 5, 6, 7]);
  expect(account.inferred).toBe(1);
});

test('a stage that breaks fails the shards of its batch and no other', async () => {
  const { stages } = recordingStages({ breaks: ({ id }) => id === 'b1' });
  const batcher = openBatcher(stages, shape);
  const [a, b, c] = await Promise.allSettled([
    batcher.embed('r', itemsOf('a', 4), wanted),
    batcher.embed('r', itemsOf('b', 12), wanted),
    batcher.embed('r', itemsOf('c', 4), wanted),
  ]);
  expect(a?.status).toBe('fulfilled');
  expect(b).toMatchObject({ status: 'rejected', reason: { message: 'the lane broke' } });
  expect(c?.status).toBe('fulfilled');
});

test('a source that refuses blocks its own shard and no other', async () => {
  const { stages } = recordingStages();
  const refusing: BatchStages = {
    ...stages,
    fill: async (slot, entries, signal) => {
      const filled = await stages.fill(slot, entries, signal);
      const outcomes = filled.outcomes.map((outcome, row) =>
        entries[row]?.run === 'locked'
          ? ({ status: 'refused', message: 'the key expired' } as const)
          : outcome,
      );
      return { ...filled, outcomes };
    },
  };
  const batcher = openBatcher(refusing, shape);
  const [locked, open] = await Promise.allSettled([
    batcher.embed('locked', itemsOf('a', 6), wanted),
    batcher.embed('open', itemsOf('b', 6), wanted),
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
      fill: async (slot, entries, signal) => {
        signals.push(signal);
        await held.promise;
        return stages.fill(slot, entries, signal);
      },
    },
    shape,
  );
  const abort = new AbortController();
  const aborted = batcher.embed('r', itemsOf('a', 6), { signal: abort.signal, suspect: false });
  const other = batcher.embed('r', itemsOf('b', 2), wanted);
  abort.abort(new Error('the lock was lost'));
  await expect(aborted).rejects.toThrow('the lock was lost');
  // Four of a; two of a and two of b.
  expect(signals.map((signal) => signal.aborted)).toEqual([true, false]);
  held.resolve();
  expect(Array.from((await other).labels)).toEqual([0, 1]);
});

test('an aborted shard ends at once, and its images that had not begun never do', async () => {
  const { stages, account } = recordingStages();
  const batcher = openBatcher(stages, shape);
  const abort = new AbortController();
  const aborted = batcher.embed('r', itemsOf('a', 40), { signal: abort.signal, suspect: false });
  const other = batcher.embed('r', itemsOf('b', 4), wanted);
  abort.abort(new Error('the lock was lost'));
  await expect(aborted).rejects.toThrow('the lock was lost');
  expect(Array.from((await other).labels)).toEqual([0, 1, 2, 3]);
  expect(account.fills.flat().filter((id) => id.startsWith('a')).length).toBeLessThanOrEqual(8);
});
