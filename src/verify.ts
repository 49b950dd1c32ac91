/**
 * The proof of promise 1: every planned item is exactly one row, every part is what `_SUCCESS.json` says, and nothing
 * else lies beside them. Reads every part once.
 */
import { createHash } from 'node:crypto';
import pMap from 'p-map';
import { messageOf } from './errors.ts';
import { partsPrefix, shardOfPart } from './layout.ts';
import { openPlan } from './page.ts';
import { readPart } from './part.ts';
import type { Run, Success } from './run.ts';
import type { Store } from './stores/store.ts';

export interface Verification {
  run: string;
  items: number;
  ok: number;
  failed: number;
  parts: number;
  /** What does not hold, a line each; empty for a good run. At most `maxProblems` are kept. */
  problems: string[];
}

const concurrency = 4;
const maxProblems = 100;

export async function verifyRun(
  store: Store,
  run: Run,
  success: Success,
  options: { onProgress?: (parts: number) => void } = {},
): Promise<Verification> {
  const problems: string[] = [];
  const report = (problem: string): void => {
    if (problems.length < maxProblems) problems.push(problem);
  };
  const readItems = openPlan(store);
  const ids = new Set<string>();
  const total = { items: 0, ok: 0, failed: 0, parts: 0 };

  if (success.parts.length !== run.shards)
    report(`${run.shards} shards were planned, ${success.parts.length} parts are named`);
  if (success.fingerprint !== run.model.fingerprint)
    report(`the run's model is ${run.model.fingerprint}, its success says ${success.fingerprint}`);

  await pMap(
    success.parts,
    async (part, shard) => {
      try {
        await verifyPart(part, shard);
      } catch (error) {
        report(`${part.key}: ${messageOf(error)}`);
      }
      total.parts += 1;
      options.onProgress?.(total.parts);
    },
    { concurrency },
  );

  const named = new Set(success.parts.map((part) => part.key));
  for await (const { key } of store.list(partsPrefix(run.run))) {
    // A store without atomic creation keeps the attempts that were not chosen; anywhere else they are strays.
    if (!named.has(key) && (store.conditional || shardOfPart(key) === undefined))
      report(`${key} belongs to no shard`);
  }
  if (total.items !== run.items) report(`${run.items} images were planned, ${total.items} rows are there`);
  if (total.ok !== success.ok || total.failed !== success.failed) {
    report(
      `_SUCCESS.json says ${success.ok} ok and ${success.failed} failed, the rows ${total.ok} and ${total.failed}`,
    );
  }
  return { run: run.run, ...total, problems };

  async function verifyPart(part: Success['parts'][number], shard: number): Promise<void> {
    const bytes = await store.read(part.key);
    if (!bytes) throw new Error('is missing');
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    if (sha256 !== part.sha256) throw new Error(`has SHA-256 ${sha256}, expected ${part.sha256}`);
    const table = readPart(bytes, part.key);
    if (table.footer.fingerprint !== run.model.fingerprint)
      throw new Error(`was made by model ${table.footer.fingerprint}`);
    const items = await readItems(run, shard);
    if (table.ids.length !== items.length)
      throw new Error(`has ${table.ids.length} rows for ${items.length} items`);
    for (const [row, item] of items.entries()) {
      if (table.ids[row] !== item.id) throw new Error(`row ${row} is ${table.ids[row]}, expected ${item.id}`);
      if (ids.has(item.id)) throw new Error(`${item.id} has a second row`);
      ids.add(item.id);
      const isOk = table.statuses[row] === 'ok';
      total.items += 1;
      total[isOk ? 'ok' : 'failed'] += 1;
    }
  }
}
