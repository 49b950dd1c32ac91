/** The output that a command reads or writes. */

import { s3OptionsOf } from '../settings/options.ts';
import { required } from '../settings/resolve.ts';
import type { Settings } from '../settings/table.ts';
import { openStore } from '../stores/open-store.ts';
import type { Store } from '../stores/store.ts';

/** An output that can be written. */
export async function openOutput(settings: Settings): Promise<Store> {
  const store = openStore(required(settings, 'output'), s3OptionsOf(settings));
  await store.probe();
  return store;
}

/** An output for a command that only reads it. */
export async function openForReading(settings: Settings): Promise<Store> {
  const store = openStore(required(settings, 'output'), s3OptionsOf(settings));
  await store.look();
  return store;
}
