/**
 * What must hold after any fault: every planned item is exactly one row, the rows are those of a run without faults,
 * every object is whole, nothing else lies beside them, and doing the run again does nothing.
 */
import { createHash } from 'node:crypto';
import pMap from 'p-map';
import { pageItemsKey, pageKey, partKey, requestKey, runKey, successKey } from '../../src/layout.ts';
import { openPlan } from '../../src/page.ts';
import { type PartTable, readPart } from '../../src/parts/part.ts';
import { type Run, readSuccess } from '../../src/runs/run.ts';
import type { Store } from '../../src/stores/store.ts';
import { verifyRun } from '../../src/verify.ts';
import type { Observer } from './observer.ts';
import type { ObjectVersion } from './place.ts';
import type { Pool } from './pool.ts';

/** A run of the same archive, shard size and batch size in which nothing went wrong. */
export interface Reference {
  store: Store;
  run: string;
}

export interface AuditOptions {
  reference: Reference;
  observer?: Observer;
  /** Whether `lensmill verify` and a second `lensmill resume` are run as commands, which takes three seconds. */
  commands: boolean;
  /** Items that must fail here though not in the reference, and with which code. */
  mustFail?: ReadonlyMap<string, string>;
}

export interface Findings {
  items: number;
  failed: number;
  parts: number;
  /** Between two embeddings of the same image; 0: bit-equal. */
  maxDifference: number;
  /** For the table. */
  summary: string;
}

/**
 * Two embeddings of one image may differ by this much: the last bits of a matrix product depend on the row of the batch
 * in which the image lay, and that on what else was under way.
 */
const tolerance = 1e-5;
const shownProblems = 12;

/** Throws an Error that lists what does not hold. */
export async function auditRun(pool: Pool, runId: string, options: AuditOptions): Promise<Findings> {
  const problems: string[] = [];
  const run = await pool.plan(runId);
  const prefix = `runs/${runId}/`;
  const objects = await pool.place.versions(prefix);
  if (options.observer) problems.push(...(await options.observer.stop()).problems);

  const rows = await auditRows(pool.store, run, options, problems);
  await auditObjects(pool, run, objects, problems);
  const uploads = await pool.place.unfinishedUploads();
  if (uploads > 0) problems.push(`${uploads} multipart uploads were begun and not ended`);

  if (options.commands) await auditCommands(pool, runId, rows.failed > 0 ? 3 : 0, problems);
  else problems.push(...(await verifyRun(pool.store, run, await readSuccess(pool.store, runId))).problems);
  const after = await pool.place.versions(prefix);
  if (JSON.stringify(after) !== JSON.stringify(objects)) problems.push('a second resume changed the objects');

  if (problems.length > 0) {
    const shown = problems.slice(0, shownProblems).map((problem) => `  ${problem}`);
    throw new Error(`run ${runId}: ${problems.length} things do not hold:\n${shown.join('\n')}`);
  }
  const number = (value: number): string => value.toLocaleString('en-US');
  const equal = rows.maxDifference === 0 ? 'bit-equal' : `equal to ${rows.maxDifference.toExponential(1)}`;
  return {
    ...rows,
    parts: run.shards,
    summary: `${number(rows.items)} items = ${number(rows.items)} rows (${rows.failed} failed), ${equal} to a run without faults; ${run.shards} parts whole, none beside them`,
  };
}

async function auditCommands(pool: Pool, run: string, expected: number, problems: string[]): Promise<void> {
  const verified = await pool.cli(['verify', run, '--json']);
  if (verified.code !== 0)
    problems.push(`verify exits with ${verified.code}: ${verified.stdout}${verified.stderr}`);
  const again = await pool.resume(run);
  if (again.code !== expected)
    problems.push(`a second resume exits with ${again.code}, not ${expected}: ${again.stderr.slice(-300)}`);
}

async function auditRows(
  store: Store,
  run: Run,
  { reference, mustFail = new Map() }: AuditOptions,
  problems: string[],
): Promise<Pick<Findings, 'items' | 'failed' | 'maxDifference'>> {
  const readItems = openPlan(store);
  const ids = new Set<string>();
  const total = { items: 0, failed: 0, maxDifference: 0 };
  const shards = Array.from({ length: run.shards }, (_, shard) => shard);
  await pMap(
    shards,
    async (shard) => {
      const items = await readItems(run, shard);
      const part = await readShard(store, run.run, shard);
      const model = await readShard(reference.store, reference.run, shard);
      if (!part || !model)
        return void problems.push(`shard ${shard} has no part${model ? '' : ' in the reference'}`);
      const planned = items.map((item) => item.id);
      if (planned.join('\n') !== part.ids.join('\n'))
        problems.push(`shard ${shard}: its rows are not its items, one each, in order`);
      for (const [row, id] of part.ids.entries()) {
        if (ids.has(id)) problems.push(`${id} has two rows`);
        ids.add(id);
        total.items += 1;
        if (part.statuses[row] === 'failed') total.failed += 1;
        const error = mustFail.get(id);
        if (error !== undefined) {
          if (part.errors[row] !== error) problems.push(`${id}: ${part.errors[row]}, it should be ${error}`);
          continue;
        }
        if (factsOf(part, row) !== factsOf(model, row)) {
          problems.push(`${id}: ${factsOf(part, row)}; without faults ${factsOf(model, row)}`);
        } else {
          const difference = greatestDifference(embeddingOf(part, row), embeddingOf(model, row));
          total.maxDifference = Math.max(total.maxDifference, difference);
          if (difference > tolerance) problems.push(`${id}: its embedding is ${difference} away`);
        }
      }
    },
    { concurrency: 4 },
  );
  if (total.items !== run.items)
    problems.push(`${run.items} items were planned, ${total.items} rows are there`);
  return total;
}

/** `undefined` where it has no part. */
export async function readShard(store: Store, run: string, shard: number): Promise<PartTable | undefined> {
  const key = partKey(run, shard);
  const bytes = await store.read(key);
  return bytes && readPart(bytes, key);
}

function factsOf(part: PartTable, row: number): string {
  const topK = part.footer.topK;
  const labels = part.labels.subarray(row * topK, (row + 1) * topK).join();
  return [part.ids[row], part.sha256s[row], part.statuses[row], part.errors[row], labels].join(' ');
}

function embeddingOf(part: PartTable, row: number): Float32Array {
  const { dimension } = part.footer.model;
  return part.embeddings.subarray(row * dimension, (row + 1) * dimension);
}

function greatestDifference(a: Float32Array, b: Float32Array): number {
  let greatest = 0;
  for (let i = 0; i < a.length; i++)
    greatest = Math.max(greatest, Math.abs((a[i] ?? 0) - (b[i] ?? Infinity)));
  return greatest;
}

/** Every object is one that the layout names, whole, and `_SUCCESS.json` tells the truth about it. */
async function auditObjects(
  { store }: Pool,
  run: Run,
  objects: readonly ObjectVersion[],
  problems: string[],
): Promise<void> {
  const success = await readSuccess(store, run.run);
  const sha256s = new Map(success.parts.map((part) => [part.key, part.sha256]));
  const expected = new Set([requestKey(run.run), runKey(run.run), successKey(run.run)]);
  for (let page = 0; page < run.pages; page++) expected.add(pageKey(run.run, page));
  for (let shard = 0; shard < run.shards; shard++) expected.add(partKey(run.run, shard));
  const pageItems = pageItemsKey(run.run, 0, '').replace(/00000-\.jsonl$/, '');

  const successVersion = objects.find(({ key }) => key === successKey(run.run));
  const listed = new Set(objects.map(({ key }) => key));
  for (const key of expected) if (!listed.has(key)) problems.push(`${key} is not listed`);
  await pMap(
    objects,
    async ({ key, size, modified }) => {
      if (!expected.has(key) && !(key.startsWith(pageItems) && key.endsWith('.jsonl')))
        problems.push(`${key} is a stray`);
      const bytes = await store.read(key);
      if (bytes?.byteLength !== size)
        problems.push(`${key} is listed with ${size} bytes, ${bytes?.byteLength} came`);
      const sha256 = sha256s.get(key);
      if (
        sha256 !== undefined &&
        sha256 !==
          createHash('sha256')
            .update(bytes ?? '')
            .digest('hex')
      )
        problems.push(`${key} is not the part that _SUCCESS.json names`);
      if (successVersion && modified > successVersion.modified)
        problems.push(`${key} is younger than _SUCCESS.json`);
    },
    { concurrency: 8 },
  );
  for (const key of sha256s.keys()) if (!listed.has(key)) problems.push(`${key} is named and not there`);
}
