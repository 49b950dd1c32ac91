/**
 * The proof of promise 1, from the store alone: every planned image is exactly one row of an undamaged part, and nothing else
 * lies beside them. Every part is read once; memory holds one page of the plan and a few parts.
 *
 *   1. The plan: pages follow each other, and ids rise bytewise from the first to the last, so none is there twice.
 *   2. The parts: each is the bytes that `_SUCCESS.json` names, row r is item r of its shard, and all were made alike.
 *   3. The sums: images = ok + failed + gone, in the plan, in the parts and in `_SUCCESS.json`.
 *   4. The objects: nothing below the run's prefix that it does not name (strays.ts).
 *   5. The retries: each is a sound run, of images that failed until then.
 *   6. An increment: it replaces the rows that it says it does, and keeps the rest of those of the runs before it.
 */
import { isDeepStrictEqual } from 'node:util';
import pMap from 'p-map';
import { checkPart } from './checks/part.ts';
import { openPlanCheck } from './checks/plan.ts';
import { findStrays, type Report } from './checks/strays.ts';
import { messageOf } from './errors.ts';
import { requestKey, retryNumber, runKey, successKey } from './layout.ts';
import { openPlan, shardsPerPage } from './page.ts';
import { addFailures, type PartFooter } from './parts/footer.ts';
import { findRequest, type Run, type Success } from './runs/run.ts';
import { openTable, tableRows } from './runs/table.ts';
import { failedRows, openView } from './runs/view.ts';
import type { Store } from './stores/store.ts';
import { compareBytewise } from './uri.ts';

export interface Verification {
  run: string;
  items: number;
  ok: number;
  failed: number;
  gone: number;
  reused: number;
  parts: number;
  /** Objects that a killed planner left, or attempts that were not chosen: they are nobody's rows. */
  leftovers: number;
  /** All that made a part, sorted: the numbers of one run may come from several. */
  devices: string[];
  batches: number[];
  /** What does not hold, a line each; empty for a good run. At most `maxProblems` are kept. */
  problems: string[];
  /** Of its finished retries, oldest first. */
  retries: Verification[];
  /** Retries that are not finished: no row of theirs counts yet. */
  unfinished: string[];
}

export interface VerifyOptions {
  /** Parts read, those of retries too. */
  onProgress?: (parts: number) => void;
}

const concurrency = 4;
const maxProblems = 100;

export function isSound({ problems, retries }: Verification): boolean {
  return problems.length === 0 && retries.every(isSound);
}

/** A run and its retries; of a retry, also that the run it mends had failed there. */
export async function verifyRun(
  store: Store,
  run: Run,
  success: Success,
  options: VerifyOptions = {},
): Promise<Verification> {
  if (run.retryOf !== null) return verifyRetry(store, run, success, options);
  const found = await verifyAlone(store, run, success, options);
  if (run.since !== null) {
    const report = reporter(found.problems);
    await checkIncrement(store, run, run.since, report).catch((error) => report(messageOf(error)));
  }
  const { retries, unfinished } = await openView(store, run.run);
  let parts = found.parts;
  for (const retry of retries) {
    const onProgress = (done: number): void => options.onProgress?.(parts + done);
    found.retries.push(await verifyRetry(store, retry.run, retry.success, { onProgress }));
    parts += retry.run.shards;
  }
  return { ...found, unfinished };
}

/** The runs before an increment hold a row of the images that it says they do, and of as many others as it kept. */
async function checkIncrement(store: Store, run: Run, since: string, report: Report): Promise<void> {
  const rows = tableRows(store, await openTable(store, since));
  let row = await rows.next();
  let count = 0;
  const next = async (): Promise<void> => {
    count += 1;
    row = await rows.next();
  };
  const readItems = openPlan(store);
  for (let shard = 0; shard < run.shards; shard++) {
    for (const { id, replaces = false } of await readItems(run, shard)) {
      while (!row.done && compareBytewise(row.value.id, id) < 0) await next();
      const isThere = !row.done && row.value.id === id;
      if (isThere !== replaces)
        report(`${id} ${isThere ? 'has a' : 'has no'} row in run ${since}, the plan says otherwise`);
    }
  }
  while (!row.done) await next();
  if (count - run.replaced !== run.kept)
    report(`${runKey(run.run)} keeps ${run.kept} rows, run ${since} has ${count - run.replaced} left`);
}

async function verifyRetry(
  store: Store,
  retry: Run,
  success: Success,
  options: VerifyOptions,
): Promise<Verification> {
  const found = await verifyAlone(store, retry, success, options);
  const report = reporter(found.problems);
  try {
    await checkRetried(store, retry, report);
  } catch (error) {
    report(messageOf(error));
  }
  return found;
}

/** Every image of a retry was failed in the run that it mends, when the retry was planned. */
async function checkRetried(store: Store, retry: Run, report: Report): Promise<void> {
  const { run: id, retryOf } = retry;
  if (retryOf === null) throw new Error(`${id} is no retry: this is a bug`);
  const view = await openView(store, retryOf, retryNumber(retryOf, id));
  for (const field of ['source', 'model', 'topK', 'embedding'] as const) {
    if (!isDeepStrictEqual(retry[field], view.run[field]))
      report(`${id} and ${retryOf} differ in their ${field}`);
  }
  const failed = failedIds();
  let next = await failed.next();
  const readItems = openPlan(store);
  for (let shard = 0; shard < retry.shards; shard++) {
    for (const item of await readItems(retry, shard)) {
      while (!next.done && compareBytewise(next.value, item.id) < 0) next = await failed.next();
      if (next.done || next.value !== item.id) report(`${item.id} was not failed in run ${retryOf}`);
    }
  }

  async function* failedIds(): AsyncGenerator<string> {
    for await (const { rows } of failedRows(store, view)) {
      // Null is what a retry made ok.
      for (const { id, retried } of rows) if (retried?.error !== null) yield id;
    }
  }
}

async function verifyAlone(
  store: Store,
  run: Run,
  success: Success,
  { onProgress }: VerifyOptions,
): Promise<Verification> {
  const problems: string[] = [];
  const report = reporter(problems);
  const total = { items: 0, ok: 0, failed: 0, gone: 0, reused: 0, parts: 0 };
  const failures: Record<string, number> = {};
  const devices = new Set<string>();
  const batches = new Set<number>();

  const request = await findRequest(store, run.run);
  const { pages, shards, items, bytes, skipped, replaced, gone, kept, ...planned } = run;
  if (!isDeepStrictEqual(request, planned))
    report(`${runKey(run.run)} is not what ${requestKey(run.run)} asks for`);
  const plan = openPlanCheck(store, run, report);
  for (let page = 0; page < pages; page++) {
    await pMap(
      await plan.readPage(page),
      async (items, at) => {
        const part = success.parts[page * shardsPerPage + at];
        if (!part) return;
        try {
          const { footer } = await checkPart(store, run, part, page * shardsPerPage + at, items);
          add(footer);
        } catch (error) {
          report(`${part.key}: ${messageOf(error)}`);
        }
        total.parts += 1;
        onProgress?.(total.parts);
      },
      { concurrency },
    );
  }
  plan.close();

  const claimed = {
    items: success.items,
    ok: success.ok,
    failed: success.failed,
    gone: success.gone,
    reused: success.reused,
    failures: success.failures,
  };
  const { parts: _, ...rows } = total;
  const counted = { ...rows, failures };
  if (success.parts.length !== shards)
    report(`${shards} shards were planned, ${success.parts.length} parts are named`);
  if (success.fingerprint !== run.model.fingerprint)
    report(`the run's model is ${run.model.fingerprint}, its success says ${success.fingerprint}`);
  if (total.items !== items) report(`${items} images were planned, ${total.items} rows are there`);
  if (!isDeepStrictEqual(counted, claimed))
    report(`${successKey(run.run)} says ${JSON.stringify(claimed)}, the rows ${JSON.stringify(counted)}`);

  const leftovers = await findStrays(store, run, { parts: success.parts, pageItems: plan.itemsKeys }, report);
  return {
    run: run.run,
    ...total,
    leftovers,
    devices: [...devices].sort(),
    batches: [...batches].sort((a, b) => a - b),
    problems,
    retries: [],
    unfinished: [],
  };

  function add(footer: PartFooter): void {
    total.items += footer.rows;
    total.ok += footer.ok;
    total.failed += footer.failed;
    total.gone += footer.gone;
    total.reused += footer.reused;
    addFailures(failures, footer.failures);
    devices.add(footer.device);
    batches.add(footer.batch);
  }
}

function reporter(problems: string[]): Report {
  return (problem) => {
    if (problems.length < maxProblems) problems.push(problem);
  };
}
