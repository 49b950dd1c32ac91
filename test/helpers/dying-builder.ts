/** A process that builds an index and dies on the way: node dying-builder.ts OUTPUT FINGERPRINT MOMENT; settings from the environment. */
import { buildIndex } from '../../src/search/build.ts';
import { s3OptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { wrapStore } from './store-wrappers.ts';

/** Its lease is over soon after its death. */
export const dyingLease = { heldMs: 1_000, marginMs: 0 };

export const moments = ['table open', 'rows put', 'record not made', 'record made'] as const;

export const dyingBuilder = import.meta.filename;

if (import.meta.main) {
  const [output = '', fingerprint = '', moment] = process.argv.slice(2);
  const die = (at: (typeof moments)[number]): void => {
    if (at === moment) process.kill(process.pid, 'SIGKILL');
  };
  const s3 = s3OptionsOf(resolveSettings({}, process.env, {}).values);
  const store = openStore(output, s3);
  await store.probe();
  const wrapped = wrapStore(store, {
    async create(key, body) {
      const isRecord = key.includes('/generation-');
      if (isRecord) die('record not made');
      const isNew = await store.create(key, body);
      if (isRecord) die('record made');
      return isNew;
    },
  });
  await buildIndex(wrapped, {
    fingerprint,
    s3,
    lease: dyingLease,
    onProgress: ({ what, done, total }) => {
      if (what === 'images' && done === 0) die('table open');
      if (what === 'images' && done === total) die('rows put');
    },
  });
}
