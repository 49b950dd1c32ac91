/** Runs, planned and done as the commands of these names do it. */
import { ConfigError } from '../errors.ts';
import type { Caller } from '../producer/caller.ts';
import { driveRun, requireDevice } from '../producer/drive.ts';
import { enqueueRun as enqueuePlanned } from '../producer/enqueue.ts';
import { completePlan, type NewRunOptions, planNewRun } from '../producer/plan-run.ts';
import { findSuccess, type Run, readRequest, readRun, type Success } from '../runs/run.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { required } from '../settings/resolve.ts';
import type { Store } from '../stores/store.ts';
import { callerOf } from './caller.ts';
import { withOutput } from './opened.ts';
import type {
  EnqueuedRun,
  EnqueueOptions,
  FinishedRun,
  Given,
  IndexOptions,
  Logging,
  OpenOptions,
  Output,
  ResumeOptions,
  Watching,
} from './types.ts';

/**
 * Indexes sources on this machine: plans a run, embeds every image, and finishes it, as `lensmill index` does. A Redis that is not
 * named is started for as long (`redis-server` on the PATH). Throws ConfigError where something must be changed, 'cancelled' where an operator
 * took the run away; the signal's reason; Error where shards failed or the run is blocked. Whatever ended it, `resumeRun` goes on.
 */
export async function indexRun(
  sources: string | readonly string[],
  output: string | Output,
  options: IndexOptions = {},
): Promise<FinishedRun> {
  return act(output, options, async (caller, store) => {
    requireDevice(caller.settings);
    return finishRun(caller, store, await planNewRun(caller, store, urisOf(sources), newRunOf(options)));
  });
}

/** Plans a run and enqueues its shards for workers elsewhere (`lensmill work`). Throws ConfigError, 'missing-setting' without a Redis. */
export async function enqueueRun(
  sources: string | readonly string[],
  output: string | Output,
  options: EnqueueOptions = {},
): Promise<EnqueuedRun> {
  return act(output, options, async (caller, store) => {
    required(caller.settings, 'redis');
    const run = await planNewRun(caller, store, urisOf(sources), newRunOf(options));
    const { queue } = await enqueuePlanned(caller, store, run);
    return { run: run.run, items: run.items, shards: run.shards, queue };
  });
}

/** Finishes a run that was stopped, on this machine: does exactly what the store does not hold. Throws as `indexRun`. */
export async function resumeRun(
  run: string,
  output: string | Output,
  options: ResumeOptions = {},
): Promise<FinishedRun> {
  return act(output, options, async (caller, store) => {
    requireDevice(caller.settings);
    const success = await findSuccess(store, run);
    if (success) {
      // Whoever finished it may have been stopped while its index was built.
      await indexIfAsked(caller, store, await readRun(store, run));
      return finishedOf(success);
    }
    return finishRun(caller, store, await completePlan(caller, store, await readRequest(store, run)));
  });
}

async function act<T>(
  output: string | Output,
  options: Given<Watching & Logging>,
  work: (caller: Caller, store: Store) => Promise<T>,
): Promise<T> {
  options.signal?.throwIfAborted();
  const places: OpenOptions = options;
  return withOutput(output, places, ({ store, options: opened }) =>
    work(callerOf({ ...opened, ...options }), store),
  );
}

/** Throws ConfigError 'missing-source'. */
function urisOf(sources: string | readonly string[]): readonly string[] {
  const uris = [sources].flat();
  if (uris.length > 0) return uris;
  throw new ConfigError('missing-source', 'no source is given: name one or several');
}

function newRunOf({ run, since, buildIndex }: EnqueueOptions): NewRunOptions {
  return { run, since, buildIndex };
}

async function finishRun(caller: Caller, store: Store, run: Run): Promise<FinishedRun> {
  const driven = await driveRun(caller, store, run);
  if (driven.how === 'done') {
    await indexIfAsked(caller, store, run);
    return finishedOf(driven.success);
  }
  caller.interrupted.throwIfAborted();
  throw new ConfigError(
    'cancelled',
    `run ${run.run} was cancelled: resumeRun('${run.run}', …) goes on with it`,
  );
}

/** What becomes of the index is logged, and fails no run. */
async function indexIfAsked(caller: Caller, store: Store, run: Run): Promise<void> {
  if (!run.buildIndex) return;
  const { indexFinishedRun } = await import('../search/index-run.ts');
  const { log, settings, interrupted: signal } = caller;
  await indexFinishedRun(store, run, {
    s3: s3OptionsOf(settings),
    log,
    signal,
    onProgress: ({ what, ...progress }) => caller.reportProgress(what).update(progress),
  });
}

function finishedOf({ run, items, ok, failed, gone, reused, failures }: Success): FinishedRun {
  return { run, items, ok, failed, gone, reused, failures };
}
