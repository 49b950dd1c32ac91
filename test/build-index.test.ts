/** `lensmill build-index`, and runs that ask for an index. */
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { startPrivateRedis } from '../src/redis/server.ts';
import { openIndex } from '../src/search/open-index.ts';
import { listIndexes } from '../src/search/record.ts';
import { openStore } from '../src/stores/open-store.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { makeFinishedRun } from './helpers/finished-run.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const photos = join(tempFolder(), 'photos');
const small = ['--model', smallModel, '--shard-size', '100', '--json'];

beforeAll(() => makePhotoArchive(photos, 12));

test('a run that asks for it is in the index when its command ends', async () => {
  const output = tempFolder();
  const { exitCode, stderr } = await lensmill([
    ...['index', photos, '--output', output, '--run', 'asked', '--build-index'],
    ...small,
  ]);
  expect(exitCode).toBe(0);
  expect(stderr).toContain('"msg":"index done"');
  const store = openStore(output, s3Defaults);
  const index = await openIndex(store, { s3: s3Defaults });
  expect(index.record).toMatchObject({ runs: ['asked'], kind: 'exact' });
  const [image] = await index.list({ limit: 1 });
  const [vector] = await index.vectorsOf([image?.key as string]);
  const [hit] = await index.search({ vectors: [vector as Float32Array], k: 1 });
  expect(hit?.score).toBeCloseTo(1, 5);
  await index.close();
});

test('a pool of workers builds the index of a run that asked for it', async () => {
  const redis = await startPrivateRedis();
  const output = tempFolder();
  const env = { REDIS_URL: redis.url, LENSMILL_OUTPUT: output };
  try {
    const worker = lensmill(['work'], env);
    await logged(worker, 'worker ready');
    const done = logged(worker, 'index done');
    const enqueued = await lensmill(['enqueue', photos, '--run', 'shared', '--build-index', ...small], env);
    expect(enqueued.exitCode).toBe(0);
    await done;
    worker.kill('SIGTERM');
    const { exitCode, stderr } = await worker;
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(/"worker":"cpu","run":"shared".*"msg":"index done"/);
    expect(await listIndexes(openStore(output, s3Defaults))).toMatchObject([{ runs: ['shared'] }]);
  } finally {
    await redis.close();
  }
});

test('build-index adds what is new, and checks what it finds', async () => {
  const output = tempFolder();
  const store = openStore(output, s3Defaults);
  await store.probe();
  const ends = Object.fromEntries(Array.from({ length: 30 }, (_, n) => [`image-${n}`, 'ok' as const]));
  await makeFinishedRun(store, 'first', { ends });
  const { exitCode, stdout } = await lensmill(['build-index', output, '--check', '20', '--json']);
  expect(exitCode).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({
    indexes: [
      { how: 'built', images: 30, kind: 'exact', runs: ['first'], check: { queries: 20, recallAt10: 1 } },
    ],
  });
  const again = await lensmill(['build-index', output]);
  expect(again.stdout).toMatch(/30 images of 1 run, up to date\n {2}exact: so few/);
  const other = await lensmill(['build-index', output, '--fingerprint', 'abc']);
  expect([other.exitCode, other.stderr]).toEqual([
    2,
    expect.stringContaining('no finished run of the model abc'),
  ]);
});
