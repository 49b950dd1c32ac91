/** The index of a run that was finished just now, where it asked for one: what became of that is told, and fails no run. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, messageOf } from '../errors.ts';
import type { RunRequest } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';
import type { Logger } from '../telemetry/log.ts';
import { type Build, type BuildOptions, buildIndex } from './build.ts';

/** To be said of a store whose `conditional` is false. */
export const spoiling =
  'this store cannot create objects atomically: two builds of one index at once would spoil it, so see that there is one';

/** Between two looks at an index that another process builds: it may have begun before this run was finished. */
const busyMs = 5_000;

/**
 * Brings the index of the run's model up to date, after whoever builds it now. `undefined` where that failed: the log says why
 * and how to repeat it. Throws the signal's reason.
 */
export async function indexFinishedRun(
  store: Store,
  { run, model }: Pick<RunRequest, 'run' | 'model'>,
  { log, ...options }: Omit<BuildOptions, 'fingerprint' | 'rebuild'> & { log: Logger },
): Promise<Build | undefined> {
  const { fingerprint } = model;
  if (!store.conditional) log.warn({ output: store.uri }, spoiling);
  for (let isTold = false; ; isTold = true) {
    try {
      const onUntidied = (notice: string): void => log.warn({ run, notice }, 'index not tidied');
      const build = await buildIndex(store, { onUntidied, ...options, fingerprint });
      const { generation, images, kind } = build.record;
      log.info({ run, generation, images, kind, how: build.how }, 'index done');
      return build;
    } catch (error) {
      options.signal?.throwIfAborted();
      if (!(error instanceof ConfigError && error.code === 'index-busy')) {
        const repeat = `lensmill build-index ${store.uri} --run ${run}`;
        log.error({ run, error: messageOf(error), repeat }, 'index failed');
        return undefined;
      }
      if (!isTold) log.info({ run, reason: messageOf(error) }, 'index waits');
      await sleep(busyMs, undefined, options.signal && { signal: options.signal });
    }
  }
}
