/** What stands behind an `Output`: no program sees it. */
import { s3OptionsOf } from '../settings/options.ts';
import { openStore } from '../stores/open-store.ts';
import type { Store } from '../stores/store.ts';
import { settingsOf } from './caller.ts';
import type { OpenOptions, Output } from './types.ts';

export interface OpenedOutput {
  store: Store;
  /** As they were given: other calls with this output go by them too. */
  options: OpenOptions;
}

const opened = new WeakMap<Output, OpenedOutput>();

/** Lets calls that are given this output use what was opened for it. */
export function remember(output: Output, what: OpenedOutput): Output {
  opened.set(output, what);
  return output;
}

/** An output that can be read. Throws ConfigError as `openStore`, and as `Store.look`. */
export async function openOutputStore(uri: string, options: OpenOptions): Promise<OpenedOutput> {
  const store = openStore(uri, s3OptionsOf(settingsOf(options)));
  await store.look();
  return { store, options };
}

/** What an output that is open was opened with. */
export function openedOf(output: Output): OpenedOutput {
  const found = opened.get(output);
  if (found) return found;
  throw new TypeError('expected a URI, or what openOutput gave');
}

/** Writes to an output that is open, or that is opened for as long. Throws as `Store.probe`. */
export async function withOutput<T>(
  output: string | Output,
  options: OpenOptions,
  act: (opened: OpenedOutput) => Promise<T>,
): Promise<T> {
  if (typeof output !== 'string') {
    const opened = openedOf(output);
    await opened.store.probe();
    return act(opened);
  }
  const own = await openOutputStore(output, options);
  try {
    await own.store.probe();
    return await act(own);
  } finally {
    await own.store.close();
  }
}
