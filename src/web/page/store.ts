/** A value that components watch: the page's state is a handful of these. */
import { useEffect, useState } from 'preact/hooks';

export interface Store<T> {
  get(): T;
  set(value: T): void;
  /** Called after each change; gives back what ends that. */
  watch(seen: () => void): () => void;
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial;
  const watchers = new Set<() => void>();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const seen of [...watchers]) seen();
    },
    watch(seen) {
      watchers.add(seen);
      return () => watchers.delete(seen);
    },
  };
}

/** The store's value; the component is drawn again when it changes. */
export function useStore<T>(store: Store<T>): T {
  const [, draw] = useState({});
  useEffect(() => {
    const drawn = store.get();
    const stop = store.watch(() => draw({}));
    // It may have changed between drawing and watching.
    if (!Object.is(drawn, value)) draw({});
    return stop;
  }, [store]);
  const value = store.get();
  return value;
}
