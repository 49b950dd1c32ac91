/** A part's share of the proof: that it is the object that was finished, and holds its shard's images, a row each. */
import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { publicUri } from '../archives/archive.ts';
import { countErrors, type PartFooter } from '../parts/footer.ts';
import { type PartTable, readPart } from '../parts/part.ts';
import { type Run, type Success, sourceName } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';
import type { Item } from '../types.ts';

/** The part's rows. Throws an Error that says what does not hold. */
export async function checkPart(
  store: Pick<Store, 'read'>,
  run: Run,
  part: Success['parts'][number],
  shard: number,
  items: readonly Item[],
): Promise<PartTable> {
  if (part.shard !== shard) throw new Error(`is named for shard ${part.shard}, expected ${shard}`);
  const bytes = await store.read(part.key);
  if (!bytes) throw new Error('is missing');
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  if (sha256 !== part.sha256) throw new Error(`has SHA-256 ${sha256}, expected ${part.sha256}`);
  const table = readPart(bytes, part.key);
  throwIfMadeOtherwise(table.footer, run, shard);
  throwIfOther(table, items);
  throwIfMiscounted(table, part);
  return table;
}

/** Device and batch may differ from part to part. */
function throwIfMadeOtherwise(footer: PartFooter, run: Run, shard: number): void {
  const { run: id, lensmill, model, topK, embedding, head, features } = run;
  const made = { run: id, shard, lensmill, source: sourceName(run), model, topK, embedding };
  const expected = { ...made, head, features };
  for (const [field, value] of Object.entries(expected)) {
    const found = footer[field as keyof typeof expected]; // the keys of the object above
    if (!isDeepStrictEqual(found, value))
      throw new Error(`was made with ${field} ${JSON.stringify(found)}, expected ${JSON.stringify(value)}`);
  }
}

function throwIfOther(table: PartTable, items: readonly Item[]): void {
  const { ids, uris, etags } = table;
  if (ids.length !== items.length) throw new Error(`has ${ids.length} rows for ${items.length} items`);
  for (const [row, item] of items.entries()) {
    const { id, etag } = item;
    const uri = publicUri(item);
    if (ids[row] !== id) throw new Error(`row ${row} is ${ids[row]}, expected ${id}`);
    if (uris[row] !== uri || etags[row] !== etag)
      throw new Error(`row ${row}, ${id}, is of ${uris[row]} ${etags[row]}, expected ${uri} ${etag}`);
  }
}

/** Every row is ok and has an embedding, or failed and has a reason, and the counts agree. */
function throwIfMiscounted({ footer, ...table }: PartTable, part: Success['parts'][number]): void {
  const counts = { rows: table.ids.length, ok: 0, failed: 0, gone: 0 };
  const failures = countErrors(table.errors);
  const { dimension } = footer.model;
  for (const [row, status] of table.statuses.entries()) {
    counts[status] += 1;
    const error = table.errors[row];
    if ((status === 'failed') !== Boolean(error))
      throw new Error(`row ${row} is ${status}, and its error is ${error}`);
    if (status !== 'ok') continue;
    if (!isEmbedding(table.embeddings.subarray(row * dimension, (row + 1) * dimension)))
      throw new Error(`row ${row} is ok and has no embedding`);
    if (!hasExtras({ footer, ...table }, row))
      throw new Error(`row ${row} is ok and has no features, or nothing of its head`);
  }
  const named = { rows: part.rows, ok: part.ok, failed: part.failed, gone: part.gone };
  const noted = { rows: footer.rows, ok: footer.ok, failed: footer.failed, gone: footer.gone };
  if (
    !isDeepStrictEqual(counts, named) ||
    !isDeepStrictEqual(counts, noted) ||
    !isDeepStrictEqual(failures, footer.failures)
  )
    throw new Error(
      `its rows are ${JSON.stringify({ ...counts, failures })}, its footer or _SUCCESS.json says otherwise`,
    );
}

function hasExtras({ footer, headScores, features }: PartTable, row: number): boolean {
  const { head, features: stages = [] } = footer;
  return [
    ...(head ? [headScores.subarray(row * head.topK, (row + 1) * head.topK)] : []),
    ...stages.map(({ length }, at) => features[at]?.subarray(row * length, (row + 1) * length) ?? []),
  ].every(isEmbedding);
}

/** A list that is null is read as zeros, and no picture has only those. */
function isEmbedding(values: Iterable<number>): boolean {
  let sum = 0;
  for (const value of values) sum += Math.abs(value);
  return sum > 0 && Number.isFinite(sum);
}
