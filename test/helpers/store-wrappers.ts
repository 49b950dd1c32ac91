/** A real store with one thing about it changed. */
import type { Store } from '../../src/stores/store.ts';

/** A store's methods as own properties; `changes` replaces some. */
export function wrapStore(store: Store, changes: Partial<Store> = {}): Store {
  return {
    uri: store.uri,
    conditional: store.conditional,
    probe: () => store.probe(),
    look: () => store.look(),
    create: (key, body) => store.create(key, body),
    read: (key, range) => store.read(key, range),
    head: (key) => store.head(key),
    list: (prefix, after) => store.list(prefix, after),
    close: () => store.close(),
    ...changes,
  };
}
