/**
 * How an output's runs are, for all who want to know: the store and Redis are looked at once, however many ask, and not at all
 * while nobody does. Of a run that is done nothing is read twice.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import pMap from 'p-map';
import { ConfigError, messageOf } from '../errors.ts';
import { listParts } from '../runs/committed.ts';
import { listRuns } from '../runs/run.ts';
import { type RunRecords, readRecords, statusOf } from '../runs/status.ts';
import type { Store } from '../stores/store.ts';
import type { LiveThroughput } from '../telemetry/live-throughput.ts';
import type { Logger } from '../telemetry/log.ts';
import type { RunFacts } from './api.ts';
import type { ProgressReader, RunProgress } from './run-progress.ts';

export interface RunWatch {
  /** Every run, the newest first: as it was two seconds ago at the earliest. */
  read(): Promise<RunFacts[]>;
  /**
   * That, now and whenever it has changed, until the signal aborts. Whoever is slow misses what is old by then. Throws what fails
   * at first; later, it waits until all is well again.
   */
  changes(signal: AbortSignal): AsyncGenerator<RunFacts[]>;
}

/** Between two looks at Redis. */
const lookMs = 2_000;
/** Between two listings of a run's parts, and of all runs: each is some requests to the store. */
const listMs = 10_000;
const atOnce = 16;

interface KnownRun {
  records: RunRecords;
  /** Shards whose part stands. */
  committed: number;
  listedAt: number;
  /** What Redis last said of it. */
  progress: RunProgress | undefined;
  /** Finished, and Redis was asked since. */
  isFinal: boolean;
}

interface Look {
  facts: RunFacts[];
  text: string;
}

/** `progress` where a Redis is named. */
export function openRunWatch(store: Store, progress: ProgressReader | undefined, log: Logger): RunWatch {
  const known = new Map<string, KnownRun>();
  let ids: string[] = [];
  let listedAt = Number.NEGATIVE_INFINITY;
  let lookedAt = Number.NEGATIVE_INFINITY;
  let look: Promise<Look> | undefined;
  let isLooking = false;

  async function lookAtAll(): Promise<Look> {
    const now = performance.now();
    if (now - listedAt >= listMs) {
      ids = await listRuns(store);
      listedAt = now;
      const there = new Set(ids);
      for (const id of known.keys()) if (!there.has(id)) known.delete(id);
    }
    const read = await pMap(ids, (id) => readKnown(id, now).catch(unlessGone), { concurrency: atOnce });
    const runs = read.filter((run) => run !== undefined);
    await askRedis(runs.filter(({ isFinal }) => !isFinal));
    const mended = new Map<string, number>();
    for (const { records } of runs) {
      const { retryOf } = records.request;
      if (retryOf !== null) mended.set(retryOf, (mended.get(retryOf) ?? 0) + (records.success?.ok ?? 0));
    }
    const facts = runs
      .map((run) => factsOf(run, mended.get(run.records.request.run) ?? 0))
      .toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
    return { facts, text: JSON.stringify(facts) };
  }

  async function readKnown(id: string, now: number): Promise<KnownRun> {
    const before = known.get(id);
    if (before?.records.success) return before;
    const isDue = !before || now - before.listedAt >= listMs;
    const mayBeDone = before?.progress && before.progress.shards >= (before.records.run?.shards ?? 0);
    if (!isDue && !mayBeDone) return before;
    const records = await readRecords(store, id, before?.records);
    const { run, success } = records;
    const committed = run && !success ? (await listParts(store, id)).size : 0;
    const read = { records, committed, listedAt: now, progress: before?.progress, isFinal: false };
    known.set(id, read);
    return read;
  }

  async function askRedis(runs: readonly KnownRun[]): Promise<void> {
    if (runs.length === 0) return;
    const told = await progress?.read(
      runs.map(({ records: { request, run } }) => ({ run: request.run, items: run?.items ?? 0 })),
    );
    for (const run of runs) {
      run.progress = told?.get(run.records.request.run);
      run.isFinal = run.records.success !== undefined && (told !== undefined || progress === undefined);
    }
  }

  function latest(): Promise<Look> {
    if (!look || (!isLooking && performance.now() - lookedAt >= lookMs)) {
      isLooking = true;
      look = lookAtAll().finally(() => {
        isLooking = false;
        lookedAt = performance.now();
      });
      look.catch(() => {
        look = undefined;
      });
    }
    return look;
  }

  return {
    read: async () => (await latest()).facts,
    async *changes(signal) {
      let shown: string | undefined;
      while (!signal.aborted) {
        const seen = await latest().catch((error) => {
          if (shown === undefined) throw error;
          // It may answer again, and who watches is still there then.
          log.warn({ error: messageOf(error) }, 'how the runs are is not known');
        });
        if (seen && seen.text !== shown) yield seen.facts;
        shown = seen?.text ?? shown;
        await sleep(lookMs, undefined, { signal }).catch(() => undefined);
      }
    },
  };
}

/** Who deletes a run does so object by object: without its request, it is none any more. */
function unlessGone(error: unknown): undefined {
  if (!(error instanceof ConfigError && error.code === 'no-run')) throw error;
}

function factsOf({ records, committed, progress }: KnownRun, mended: number): RunFacts {
  const { request, run, success } = records;
  const {
    run: id,
    state,
    source,
    model,
    shards,
    items,
    ...status
  } = statusOf(records, Math.min(run?.shards ?? 0, Math.max(committed, progress?.shards ?? 0)));
  return {
    run: id,
    state,
    queueState: progress?.state ?? null,
    source,
    model,
    retryOf: status.retryOf ?? null,
    createdAt: request.createdAt,
    shards,
    committed: status.committed,
    items,
    done: success ? items : doneOf(status.committed, items, request.shardSize, progress),
    failed: success ? success.failed : (progress?.failed ?? 0),
    mended,
    failures: success?.failures ?? {},
    throughput: progress?.throughput ? throughputOf(progress.throughput) : null,
  };
}

/** As Redis counted, else by shards; both may lack the images of the last ones. */
function doneOf(
  committed: number,
  items: number,
  shardSize: number,
  progress: RunProgress | undefined,
): number {
  return Math.min(items, Math.max(committed * shardSize, progress?.items ?? 0));
}

function throughputOf(throughput: LiveThroughput): NonNullable<RunFacts['throughput']> {
  const { imagesPerSecond = null, secondsLeft = null, limit, verdict, stages } = throughput;
  return { imagesPerSecond, secondsLeft, limit, verdict, stages };
}
