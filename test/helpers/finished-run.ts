/** Finished runs without a worker: real plans, parts and records in a real store, of rows that the test names. */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { commitPart } from '../../src/commit.ts';
import type { FailureCode } from '../../src/errors.ts';
import { finalizeRun } from '../../src/finalize.ts';
import { partKey, successKey } from '../../src/layout.ts';
import { openPlan } from '../../src/page.ts';
import { encodePart } from '../../src/parts/part.ts';
import { rowShape } from '../../src/parts/row-extras.ts';
import { type Lister, planRun } from '../../src/plan.ts';
import { claimRun, type Run, type RunRequest, sourceName } from '../../src/runs/run.ts';
import type { FinishedRun } from '../../src/runs/view.ts';
import type { Store } from '../../src/stores/store.ts';
import type { Item, Outcome, Provenance, ShardRows } from '../../src/types.ts';
import { compareBytewise } from '../../src/uri.ts';
import { makeRequest } from './requests.ts';

/** What becomes of an image: 'ok', or why not. */
export type Ends = Record<string, 'ok' | FailureCode>;

export interface RunMakings {
  /** By id; the run's items are these unless `lister` gives others, which are ok where no end is named. */
  ends: Ends;
  lister?: Lister;
  request?: Partial<RunRequest>;
  /** Of an increment. */
  rowsBefore?: number;
}

/** Four rows a part, unless the request says otherwise. */
export async function makeFinishedRun(
  store: Store,
  id: string,
  { ends, lister, request, rowsBefore = 0 }: RunMakings,
): Promise<FinishedRun> {
  const asked = makeRequest(id, request);
  await claimRun(store, asked);
  const ids = Object.keys(ends).toSorted(compareBytewise);
  const run = await planRun(store, lister ?? listerOf(itemsOf(ids)), asked, { rowsBefore });
  return { run, success: await finish(store, run, ends) };
}

/** Makes the parts of a planned run, and its success. */
export async function finish(store: Store, run: Run, ends: Ends): Promise<FinishedRun['success']> {
  const readItems = openPlan(store);
  for (let shard = 0; shard < run.shards; shard++)
    await commitPart(store, run.run, shard, makePart(run, shard, await readItems(run, shard), ends));
  return finalizeRun(store, run);
}

export function itemsOf(ids: readonly string[]): Item[] {
  return ids.map((id) => ({ id, uri: `file:///nowhere/${id}`, etag: `etag of ${id}`, size: 1000 }));
}

export function listerOf(items: readonly Item[]): Lister {
  return {
    uri: 'file:///nowhere',
    async *list({ after } = {}) {
      yield { items: items.filter(({ id }) => after === undefined || id > after), skipped: 0 };
    },
  };
}

/** What a worker makes of a shard; an embedding says which run and image it is of. */
export function makePart(
  run: Run,
  shard: number,
  items: readonly Item[],
  ends: Ends,
  provenance: Partial<Provenance> = {},
): Uint8Array {
  const { topK, model } = run;
  const shape = rowShape(run);
  const rows: ShardRows = {
    items,
    outcomes: items.map(({ id, gone }) => (gone ? { status: 'gone' } : outcomeOf(id, ends[id] ?? 'ok'))),
    embeddings: new Float32Array(items.length * shape.dimension),
    scores: new Float32Array(items.length * shape.topK).fill(0.1),
    labels: new Int32Array(items.length * shape.topK).fill(run.head ? 1 : 7),
  };
  for (const [row, { id }] of items.entries()) {
    rows.embeddings.fill(embeddingValue(run.run, id), row * shape.dimension, (row + 1) * shape.dimension);
  }
  const made = { run: run.run, shard, lensmill: run.lensmill, source: sourceName(run), model, topK };
  const { head, features } = run;
  return encodePart(
    rows,
    { ...made, head, features, device: 'cpu', batch: 8, reused: 0, ...provenance },
    { dimension: model.dimension, topK, embeddingType: run.embedding },
  );
}

/** Every number of an image's embedding; a half holds it exactly. */
export function embeddingValue(run: string, id: string): number {
  return 1 + (createHash('sha256').update(`${run} ${id}`).digest()[0] ?? 0) / 256;
}

function outcomeOf(id: string, end: 'ok' | FailureCode): Outcome {
  const facts = { sha256: createHash('sha256').update(id).digest('hex'), bytes: 1000 };
  return end === 'ok'
    ? { status: 'ok', ...facts, width: 10, height: 20, format: 'jpeg' }
    : { status: 'failed', error: end, message: `${id} is ${end}`, ...(end === 'truncated' && facts) };
}

/** Puts another part in a shard's place, and its hash into `_SUCCESS.json`: only the rows themselves are wrong then. */
export function forgePart(folder: string, run: string, shard: number, part: Uint8Array): void {
  writeFileSync(join(folder, partKey(run, shard)), part);
  const path = join(folder, successKey(run));
  const success = JSON.parse(readFileSync(path, 'utf8'));
  Object.assign(success.parts[shard], {
    sha256: createHash('sha256').update(part).digest('hex'),
    bytes: part.length,
  });
  writeFileSync(path, JSON.stringify(success));
}
