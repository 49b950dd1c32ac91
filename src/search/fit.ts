/** Gives a table whose rows are in place the index that pays (kind.ts), or keeps the one that it has. */
import {
  attemptsFor,
  bitsTried,
  isUntidy,
  measuredQueries,
  partitionsFor,
  type Shape,
  upkeepOf,
  wantedRecall,
} from './kind.ts';
import { LanceIndex, measuredK } from './lance-index.ts';
import { answerByScan, answerQueries, drawQueries, missedOf } from './recall.ts';
import type { IndexRecord } from './search-index.ts';
import type { TableWriter } from './writer.ts';

export interface FitOptions {
  /** All is put in order, needed or not. */
  tidy: boolean;
  /** Images that some were compared with, to know what the index should find; of how many. */
  onProgress: (done: number, total: number) => void;
  signal: AbortSignal | undefined;
}

export interface Fit extends Shape {
  /** The table was put in order, so what it replaced can be cleaned up. */
  isTidied: boolean;
}

/** `draft` is the record to be, without a shape; `base` the shape of the generation that is extended. */
export async function fitIndex(
  writer: TableWriter,
  draft: Omit<IndexRecord, 'kind' | 'parameters'>,
  base: Shape | undefined,
  options: FitOptions,
): Promise<Fit> {
  const { images } = draft;
  const upkeep = upkeepOf(draft, base, writer.added);
  if (upkeep === 'none') await writer.arrange((table) => table.dropVectorIndex());
  const isTidied = options.tidy || isUntidy(draft, await writer.table.facts());
  if (isTidied) await writer.arrange((table) => table.optimize(new Date(0)));
  return { ...(await shapeOf()), isTidied };

  async function shapeOf(): Promise<Shape> {
    if (upkeep === 'none') return { kind: 'exact', parameters: {} };
    const { kind = 'exact', parameters: held = {} } = base ?? {};
    const addedSince = (held.addedSince ?? 0) + writer.added;
    const addedUnmeasured = (held.addedUnmeasured ?? 0) + writer.added;
    if (upkeep === 'keep') {
      const added = kind === 'exact' ? { addedSince } : { addedSince, addedUnmeasured };
      return { kind, parameters: { ...held, ...added } };
    }
    if (upkeep === 'measure') {
      const { partitions = 1, bits = 1, trainedFor = images } = held;
      const measured = await measure(writer, draft, { partitions, bits }, options);
      if (measured) return { kind, parameters: { ...measured, trainedFor, addedSince, addedUnmeasured: 0 } };
    }
    return train(writer, draft, options);
  }
}

async function train(
  writer: TableWriter,
  draft: Omit<IndexRecord, 'kind' | 'parameters'>,
  options: FitOptions,
): Promise<Shape> {
  const trainedFor = draft.images;
  await writer.arrange((table) => table.indexColumns());
  const partitions = partitionsFor(draft.images);
  for (const bits of bitsTried) {
    options.signal?.throwIfAborted();
    await writer.arrange((table) => table.indexVectors({ partitions, bits }));
    const measured = await measure(writer, draft, { partitions, bits }, options);
    if (measured)
      return { kind: 'ivf-rq', parameters: { ...measured, trainedFor, addedSince: 0, addedUnmeasured: 0 } };
  }
  await writer.arrange((table) => table.dropVectorIndex());
  return { kind: 'exact', parameters: { trainedFor, addedSince: 0 } };
}

/** The cheapest parameters that find what is wanted; `undefined` where none do. */
async function measure(
  writer: TableWriter,
  draft: Omit<IndexRecord, 'kind' | 'parameters'>,
  made: { partitions: number; bits: number },
  { onProgress, signal }: FitOptions,
): Promise<Record<string, number> | undefined> {
  const indexWith = (parameters: Record<string, number>): LanceIndex =>
    new LanceIndex({ ...draft, kind: 'ivf-rq', parameters: { ...made, ...parameters } }, writer.table);
  const queries = await drawQueries(indexWith({}), measuredQueries);
  let compared = 0;
  onProgress(0, draft.images);
  const truths = await answerByScan(indexWith({}), queries, {
    k: measuredK,
    signal,
    onScanned: (images) => {
      compared += images;
      onProgress(compared, draft.images);
    },
  });
  const wanted = truths.reduce((sum, { scores }) => sum + scores.length, 0);
  for (const parameters of attemptsFor(draft.images, made.partitions)) {
    let missed = 0;
    for (const [at, truth] of truths.entries()) {
      const asked = queries.slice(at, at + 1);
      const [answer] = await answerQueries(indexWith(parameters), asked, {
        k: measuredK,
        exact: false,
        signal,
      });
      missed += missedOf(truth, answer, measuredK);
      if (missed > (1 - wantedRecall) * wanted) break;
    }
    const recall = wanted === 0 ? 1 : 1 - missed / wanted;
    if (recall >= wantedRecall) return { ...made, ...parameters, recall };
  }
  return undefined;
}
