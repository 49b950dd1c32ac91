/** The model, loaded with the first picture that is searched by, and let go when none has come for a while: it takes half a GB. */

import { readRun } from '../src/runs/run.ts';
import type { Store } from '../src/stores/store.ts';
import type { Logger } from '../src/telemetry/log.ts';
import { type Embedder, type EmbedderOptions, openEmbedder, type Picture } from './embedder.ts';

export interface SharedEmbedder {
  /** As Embedder's, by the model of a finished run; throws what opening it throws too. */
  embed(
    run: string,
    pictures: readonly Picture[],
    options: { signal: AbortSignal },
  ): ReturnType<Embedder['embed']>;
  /** Safe to call twice. */
  close(): Promise<void>;
}

const idleMs = 300_000;

/** All runs that it is asked for are of one fingerprint: those of one index. */
export function openSharedEmbedder(
  store: Store,
  options: Omit<EmbedderOptions, 'onNotice'>,
  log: Logger,
): SharedEmbedder {
  let opened: Promise<Embedder> | undefined;
  let users = 0;
  let idle: NodeJS.Timeout | undefined;
  let closing: Promise<void> = Promise.resolve();

  async function open(run: string): Promise<Embedder> {
    // Two models at once are more than a machine may have room for.
    await closing;
    const started = performance.now();
    const embedder = await openEmbedder(store, await readRun(store, run), {
      ...options,
      onNotice: (notice) => log.warn(notice),
    });
    log.info({ device: options.device.name, ms: Math.round(performance.now() - started) }, 'model loaded');
    return embedder;
  }

  function letGo(): void {
    const embedder = opened;
    opened = undefined;
    closing = Promise.all([closing, embedder?.then((held) => held.close())]).then(
      () => undefined,
      () => undefined,
    );
  }

  return {
    async embed(run, pictures, { signal }) {
      clearTimeout(idle);
      users += 1;
      opened ??= open(run);
      const used = opened;
      try {
        return await (await used).embed(pictures, { signal });
      } catch (error) {
        // It did not load, or its thread is gone: the next picture gets another.
        if (opened === used && (!signal.aborted || !(await isLoaded(used)))) letGo();
        throw error;
      } finally {
        users -= 1;
        if (users === 0) idle = setTimeout(letGo, idleMs).unref();
      }
    },
    async close() {
      clearTimeout(idle);
      letGo();
      await closing;
    },
  };
}

function isLoaded(embedder: Promise<Embedder>): Promise<boolean> {
  return embedder.then(
    () => true,
    () => false,
  );
}
