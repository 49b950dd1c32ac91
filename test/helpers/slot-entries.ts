/** A batch's rows one by one, for stages that stand in for lanes and sessions. */
import type { FilledSlot, RowRange } from '../../src/batch.ts';
import { openSheet, putRows, type Sheet } from '../../src/sheet.ts';
import type { BatchResult, ByteFacts, ImageFacts, Item } from '../../src/types.ts';

export interface SlotEntry {
  run: string;
  sheet: Sheet;
  row: number;
  item: Item;
  anew: boolean;
}

export function entriesOf(ranges: readonly RowRange[]): SlotEntry[] {
  return ranges.flatMap(({ run, sheet: memory, first, count, anew }) => {
    const sheet = openSheet(memory);
    return sheet.items(first, count).map((item, n) => ({ run, sheet, row: first + n, item, anew }));
  });
}

type Exception = FilledSlot['exceptions'][number]['outcome'];
export type Told = ({ status: 'ok' } & ByteFacts & ImageFacts) | Exception;

/** Puts what ends well into the sheets, and gives the rest. */
export function tellOutcomes(
  entries: readonly SlotEntry[],
  outcomes: readonly Told[],
): FilledSlot['exceptions'] {
  return outcomes.flatMap((outcome, at) => {
    if (outcome.status !== 'ok') return [{ at, outcome }];
    const { sheet, row } = entries[at] as SlotEntry; // there are as many
    sheet.putOk(row, outcome);
    return [];
  });
}

/** As a session does: value r of each is that of the batch's row r. */
export function putValues(
  ranges: readonly RowRange[],
  values: readonly number[],
  made?: Partial<BatchResult>,
): void {
  const numbers = {
    embeddings: Float32Array.from(values),
    scores: Float32Array.from(values),
    labels: Int32Array.from(values),
  };
  putRows({ ...numbers, ...made }, ranges);
}
