/** The main job on both kinds of place: real photographs in, killed once in the middle, resumed, proven, read by DuckDB. */
import { writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import pMap from 'p-map';
import { beforeAll, expect, test } from 'vitest';
import { partsPrefix, successKey } from '../src/layout.ts';
import { openStore } from '../src/stores/open-store.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { tempFolder } from './helpers/temp.ts';

const imageCount = 216;
const folder = join(tempFolder(), 'photos');

beforeAll(() => makePhotoArchive(folder, imageCount));

interface Place {
  source: string;
  output: string;
  env: Record<string, string>;
}

async function onFiles(): Promise<Place> {
  return { source: folder, output: tempFolder(), env: {} };
}

async function onS3(): Promise<Place> {
  const bucket = await makeBucket();
  const names = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.jpg'));
  await pMap(
    names,
    async (name) => putForeignObject(bucket, `photos/${name}`, await readFile(join(folder, name))),
    {
      concurrency: 8,
    },
  );
  return {
    source: `s3://${bucket}/photos`,
    output: `s3://${bucket}/index`,
    env: { AWS_ENDPOINT_URL_S3: testEndpoint(), AWS_REGION: 'us-east-1' },
  };
}

test.each([
  ['file://', onFiles],
  ['s3://', onS3],
])('%s: a run that was killed is resumed, whole and readable', async (_scheme, makePlace) => {
  const { source, output, env } = await makePlace();
  const store = openStore(output, testS3Options());
  await store.probe();

  const killed = lensmill(
    ['index', source, '--output', output, '--run', 'r', '--model', smallModel, '--shard-size', '16'],
    env,
  );
  await logged(killed, 'shard done', 3);
  killed.kill('SIGKILL');
  await killed;
  const before = await Array.fromAsync(store.list(partsPrefix('r')));
  expect(before.length).toBeGreaterThanOrEqual(3);
  expect(before.length).toBeLessThan(14);
  expect(await store.head(successKey('r'))).toBeUndefined();

  const resumed = await lensmill(['resume', 'r', '--output', output, '--json'], env);
  expect(resumed.exitCode).toBe(0);
  expect(JSON.parse(resumed.stdout)).toMatchObject({ items: imageCount, ok: imageCount, failed: 0 });
  const verified = await lensmill(['verify', 'r', '--output', output, '--json'], env);
  expect(JSON.parse(verified.stdout)).toMatchObject({ sound: true, items: imageCount, parts: 14 });

  const parts = tempFolder();
  for await (const { key } of store.list(partsPrefix('r'))) {
    writeFileSync(join(parts, basename(key)), (await store.read(key)) as Uint8Array);
  }
  const connection = await (await DuckDBInstance.create()).connect();
  const reader = await connection.runAndReadAll(`
    SELECT count(*)::INT AS rows, count(DISTINCT id)::INT AS ids, min(len(embedding))::INT AS shortest,
           max(len(embedding))::INT AS longest, min(list_sum(scores)) > 0 AS scored, bool_and(status = 'ok') AS ok
    FROM '${parts}/*.parquet'`);
  expect(reader.getRowObjects()).toEqual([
    { rows: imageCount, ids: imageCount, shortest: 2048, longest: 2048, scored: true, ok: true },
  ]);
  connection.closeSync();
  await store.close();
});

test('what the operator must change about S3 is one line, and exit code 2', async () => {
  const { source, output, env } = await onS3();
  const run = ['--model', smallModel];
  const cases: [string[], Record<string, string>, RegExp][] = [
    [
      ['index', 's3://no-such-bucket-here/x', '--output', output, ...run],
      env,
      /no bucket 'no-such-bucket-here'/,
    ],
    [
      ['index', source, '--output', 's3://no-such-bucket-here/x', ...run],
      env,
      /no bucket 'no-such-bucket-here'/,
    ],
    [
      ['index', source, '--output', output, ...run],
      { ...env, AWS_SECRET_ACCESS_KEY: 'wrong' },
      /AWS_SECRET_ACCESS_KEY/,
    ],
    [
      ['index', source, '--output', output, ...run],
      { ...env, AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1' },
      /127\.0\.0\.1:1/,
    ],
  ];
  for (const [args, variables, message] of cases) {
    const { exitCode, stderr } = await lensmill(args, variables);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(exitCode).toBe(2);
  }
});

test('doctor says that the store creates atomically, and shows no secret', async () => {
  const { output, env } = await onS3();
  const { stdout } = await lensmill(['doctor', '--output', output, '--model', smallModel, '--json'], env);
  const { findings } = JSON.parse(stdout);
  expect(findings).toContainEqual({
    what: 'store',
    verdict: 'good',
    detail: expect.stringContaining('atomically'),
  });
  expect(stdout).not.toContain(process.env.AWS_SECRET_ACCESS_KEY);
});
