/** The newest index of an output, open for as long as it is asked; a newer one takes its place while requests go on. */
import { messageOf } from '../errors.ts';
import { type OpenIndexOptions, openIndex } from '../search/open-index.ts';
import { findRecord } from '../search/record.ts';
import type { SearchIndex } from '../search/search-index.ts';
import type { Store } from '../stores/store.ts';
import type { Logger } from '../telemetry/log.ts';

export interface CurrentIndex {
  /** The index stays open until the promise that `act` gives settles. Throws ConfigError 'no-index'. */
  use<T>(act: (index: SearchIndex) => Promise<T>): Promise<T>;
  /** Lets what uses the index end. Safe to call twice. */
  close(): Promise<void>;
}

/** Between two looks for a newer one. */
const lookMs = 2_000;

interface Opened {
  index: SearchIndex;
  users: number;
  /** Another has its place, or nobody wants it any more. */
  isOver: boolean;
}

/** Nothing is opened before it is used. */
export function openCurrentIndex(store: Store, chosen: OpenIndexOptions, log: Logger): CurrentIndex {
  let current: Promise<Opened> | undefined;
  let lookedAt = 0;
  /** Under way. */
  let look: Promise<void> | undefined;
  const closings = new Set<Promise<void>>();

  const closeIfUnused = (opened: Opened): void => {
    if (!opened.isOver || opened.users > 0) return;
    const closing = opened.index
      .close()
      .catch((error) => log.warn({ error: messageOf(error) }, 'an index was not closed'))
      .finally(() => closings.delete(closing));
    closings.add(closing);
  };
  const retire = (opened: Opened): void => {
    opened.isOver = true;
    closeIfUnused(opened);
  };
  const openNewest = async (): Promise<Opened> => ({
    index: await openIndex(store, chosen),
    users: 0,
    isOver: false,
  });

  async function replaceIfOld(): Promise<void> {
    const before = await current;
    if (!before) return;
    const { generation, model } = before.index.record;
    if ((await findRecord(store, model.fingerprint))?.generation === generation) return;
    const opened = await openNewest();
    log.info({ generation: opened.index.record.generation }, 'index opened');
    current = Promise.resolve(opened);
    retire(before);
  }

  async function acquire(): Promise<Opened> {
    for (;;) {
      if (!current) {
        lookedAt = performance.now();
        current = openNewest();
        current.catch(() => {
          current = undefined;
        });
      }
      const opened = await current;
      // Another may have taken its place in the meantime.
      if (opened.isOver) continue;
      opened.users += 1;
      return opened;
    }
  }

  return {
    async use(act) {
      if (current && !look && performance.now() - lookedAt > lookMs) {
        // Not waited for: whoever asks now is answered by what is open.
        look = replaceIfOld()
          .catch((error) =>
            log.warn({ error: messageOf(error) }, 'whether there is a newer index is not known'),
          )
          .finally(() => {
            look = undefined;
            lookedAt = performance.now();
          });
      }
      const opened = await acquire();
      try {
        return await act(opened.index);
      } finally {
        opened.users -= 1;
        closeIfUnused(opened);
      }
    },
    async close() {
      await look;
      const opened = await current?.catch(() => undefined);
      current = undefined;
      if (opened) retire(opened);
      await Promise.all(closings);
    },
  };
}
