/** The newest index of an output, for those who ask it while another one is built. */
import { afterEach, expect, test, vi } from 'vitest';
import { s3OptionsOf } from '../src/settings/options.ts';
import { openStore } from '../src/stores/open-store.ts';
import { openLog } from '../src/telemetry/log.ts';
import { openCurrentIndex } from '../src/web/current-index.ts';
import { contextOf } from './helpers/context.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { makeSyntheticIndex } from './helpers/synthetic-index.ts';
import { tempFolder } from './helpers/temp.ts';
import { structurelessVectors } from './helpers/vectors.ts';

const s3 = s3OptionsOf(contextOf({}).settings);

afterEach(() => {
  vi.useRealTimers();
});

test('a store that is slow is looked at once at a time, and a newer index opened once', async () => {
  const store = openStore(tempFolder(), s3);
  await store.probe();
  const vectors = structurelessVectors({ dimension: 16, seed: 1 });
  const build = () => makeSyntheticIndex(store, { images: 20, dimension: 16, vectors, s3 });
  await build();
  const answer = Promise.withResolvers<void>();
  let isSlow = false;
  let looks = 0;
  const slow = wrapStore(store, {
    async *list(prefix, after) {
      if (isSlow) {
        looks += 1;
        await answer.promise;
      }
      yield* store.list(prefix, after);
    },
  });
  const lines: string[] = [];
  vi.useFakeTimers({ toFake: ['performance'] });
  const current = openCurrentIndex(
    slow,
    { s3 },
    openLog('info', (line) => void lines.push(line)),
  );
  const images = () => current.use(async ({ record }) => record.images);
  expect(await images()).toBe(20);
  await build();
  isSlow = true;
  for (let n = 0; n < 3; n++) {
    vi.advanceTimersByTime(3_000);
    expect(await images()).toBe(20);
  }
  expect(looks).toBe(1);
  answer.resolve();
  await current.close();
  expect(lines.filter((line) => line.includes('"index opened"'))).toHaveLength(1);
  await store.close();
});
