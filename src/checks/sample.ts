/** Rows of a run chosen at random: what `verify --deep` looks at. */
import type { FailureCode } from '../errors.ts';
import { openPlan } from '../page.ts';
import { type PartTable, readStoredPart } from '../parts/part.ts';
import { numbersAt, type RowNumbers } from '../parts/row-extras.ts';
import { openRetriedParts } from '../parts/splice.ts';
import { type FinishedRun, type View, viewParts } from '../runs/view.ts';
import type { Store } from '../stores/store.ts';
import type { Item } from '../types.ts';
import { uniform } from '../uniform.ts';

/** A row as it stands in a part. */
export interface SampledRow {
  item: Item;
  error: FailureCode | null;
  sha256: string | null;
  labels: Int32Array;
  scores: Float32Array;
  embedding: Float32Array;
  /** The same with what lies behind them (parts/row-extras.ts). */
  whole: RowNumbers;
  /** What made it: 'cpu', 'cuda'. */
  device: string;
}

/** `count` different numbers below `total`, all as likely, in order; the same for the same seed. Fewer where `total` is less. */
export function chooseRows(total: number, count: number, seed: number): number[] {
  const random = uniform(seed);
  const chosen = new Set<number>();
  // Floyd's algorithm: the work depends on `count` alone (https://doi.org/10.1145/30401.315746).
  for (let top = Math.max(0, total - count); top < total; top++) {
    const candidate = Math.floor(random() * (top + 1));
    chosen.add(chosen.has(candidate) ? top : candidate);
  }
  return [...chosen].sort((a, b) => a - b);
}

/** The rows of a view with these numbers, which rise. */
export async function* readRows(
  store: Store,
  view: View,
  numbers: readonly number[],
): AsyncGenerator<SampledRow> {
  const retriedPart = openRetriedParts(store);
  // A part does not say where in its archive an image lies, the plan does.
  const readItems = openPlan(store);
  const itemsOf = async ({ run }: FinishedRun, shard: number): Promise<Item[]> => readItems(run, shard);
  let first = 0;
  let at = 0;
  for await (const { key, shard, rows, replaced } of viewParts(store, view)) {
    let table: PartTable | undefined;
    let items: Item[] | undefined;
    for (; at < numbers.length && (numbers[at] as number) < first + rows; at++) {
      const row = (numbers[at] as number) - first;
      const by = replaced.find((other) => other.row === row)?.by;
      if (by) {
        yield rowOf(await retriedPart(by), by.row, await itemsOf(by.retry, by.part.shard));
      } else {
        table ??= await readStoredPart(store, key);
        items ??= await itemsOf(view, shard);
        yield rowOf(table, row, items);
      }
    }
    if (at === numbers.length) return;
    first += rows;
  }
}

/** Copies, so that the part can be forgotten. */
function rowOf(part: PartTable, row: number, items: readonly Item[]): SampledRow {
  const item = items[row];
  if (!item || item.id !== part.ids[row])
    throw new Error(
      `row ${row} is ${part.ids[row]}, its plan says ${item?.id}; \`lensmill verify\` tells more`,
    );
  const { topK, model, device } = part.footer;
  const { dimension } = model;
  const whole = numbersAt(part, row);
  return {
    item,
    error: part.errors[row] ?? null,
    sha256: part.sha256s[row] ?? null,
    labels: part.labels.slice(row * topK, (row + 1) * topK),
    scores: part.scores.slice(row * topK, (row + 1) * topK),
    embedding: part.embeddings.slice(row * dimension, (row + 1) * dimension),
    whole: {
      embedding: whole.embedding.slice(),
      scores: whole.scores.slice(),
      labels: whole.labels.slice(),
    },
    device,
  };
}
