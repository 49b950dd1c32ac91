/** The policies of deploy/iam on a server that enforces them: each role lives its life by its own, and can do nothing else. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DeleteObjectCommand, GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { examineStore } from '../src/cli/doctor.ts';
import { openOutput } from '../src/library/output.ts';
import { openIndex } from '../src/library/search.ts';
import { startPrivateRedis } from '../src/redis/server.ts';
import { readRun } from '../src/runs/run.ts';
import { buildIndex, tidyUp } from '../src/search/build.ts';
import { ImageTable } from '../src/search/lance.ts';
import { resolveSettings } from '../src/settings/resolve.ts';
import { openStore } from '../src/stores/open-store.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { putPolicy } from './helpers/iam.ts';
import { makeBucket, putForeignObject, testS3Options } from './helpers/s3.ts';
import { type S3Server, useRadosgw } from './helpers/servers.ts';
import { makeTinyArchive } from './helpers/tiny-archive.ts';

type Role = 'producer' | 'worker' | 'reader';

let server: S3Server;
let redisUrl: string;
let stopRedis: () => Promise<void>;
let bucket: string;
let source: string;
let output: string;

beforeAll(async () => {
  server = await useRadosgw();
  const redis = await startPrivateRedis();
  redisUrl = redis.url;
  stopRedis = redis.close;
  [bucket, source] = await Promise.all([makeBucket(), makeBucket()]);
  output = `s3://${bucket}/indexes/photos`;
  const folder = await makeTinyArchive(3);
  for (const name of ['0.jpg', '1.jpg', '2.jpg'])
    await putForeignObject(source, name, await readFile(join(folder, name)));
  await putForeignObject(bucket, 'indexes/other/rows', Buffer.from('of somebody else'));
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await stopRedis();
});

function policyOf(role: Role): string {
  return readFileSync(join(import.meta.dirname, `../deploy/iam/${role}.json`), 'utf8')
    .replaceAll('OUTPUT-BUCKET', bucket)
    .replaceAll('PREFIX', 'indexes/photos')
    .replaceAll('SOURCE-BUCKET', source);
}

/** From now on, whoever looks for credentials here is this role. Gives what a process of it has in its environment. */
async function become(role: Role): Promise<Record<string, string>> {
  const { stranger } = server;
  await putPolicy({ ...server, accessKeyId: 'tester', secretAccessKey: 'tester-secret' }, policyOf(role));
  const keys = { AWS_ACCESS_KEY_ID: stranger.accessKeyId, AWS_SECRET_ACCESS_KEY: stranger.secretAccessKey };
  for (const [name, value] of Object.entries(keys)) vi.stubEnv(name, value);
  return {
    ...keys,
    AWS_ENDPOINT_URL_S3: server.endpoint,
    AWS_REGION: server.region,
    LENSMILL_OUTPUT: output,
    REDIS_URL: redisUrl,
  };
}

/** What the server says to a request of this role, beside all that lensmill would do. */
async function answerTo(command: 'get' | 'put' | 'delete', key: string, Bucket = bucket): Promise<string> {
  const { endpoint, region, stranger } = server;
  const client = new S3Client({ endpoint, region, forcePathStyle: true, credentials: stranger });
  const object = { Bucket, Key: key };
  const sent = {
    get: () => client.send(new GetObjectCommand(object)),
    put: () => client.send(new PutObjectCommand({ ...object, Body: 'x' })),
    delete: () => client.send(new DeleteObjectCommand(object)),
  }[command]();
  return sent.then(
    () => 'done',
    (error) => error.name,
  );
}

test('a run is planned by the producer, done and indexed by a worker, and read by the reader', async () => {
  const plan = ['--run', 'r', '--model', smallModel, '--reuse', 'off', '--shard-size', '2', '--build-index'];
  const planned = await lensmill(['enqueue', `s3://${source}`, ...plan], await become('producer'));
  expect(planned.exitCode, planned.stderr).toBe(0);

  const worker = lensmill(['work'], await become('worker'));
  await logged(worker, 'index done');
  worker.kill('SIGTERM');
  expect((await worker).exitCode).toBe(0);

  await become('reader');
  const options = { s3Endpoint: server.endpoint, s3Region: server.region };
  const opened = await openOutput(output, options);
  expect(await opened.verify('r')).toMatchObject({ isSound: true, items: 3 });
  expect((await Array.fromAsync(opened.rows({ run: 'r' }))).map(({ id }) => id)).toEqual([
    '0.jpg',
    '1.jpg',
    '2.jpg',
  ]);
  expect((await opened.readImage('1.jpg', { run: 'r' })).content.length).toBeGreaterThan(0);
  const index = await openIndex(opened, options);
  expect((await index.search({ id: '0.jpg' }, { k: 2 })).length).toBe(2);
  await index.close();
  await opened.close();
}, 120_000);

test('a worker builds an index anew without deleting, and is told that what it replaced stays', async () => {
  await become('worker');
  const s3 = testS3Options();
  const store = openStore(output, s3);
  await store.probe();
  const { fingerprint } = (await readRun(store, 'r')).model;
  expect(await buildIndex(store, { fingerprint, s3, rebuild: true })).toMatchObject({ how: 'rebuilt' });
  const table = await ImageTable.openLatest({ output, fingerprint, s3 });
  if (!table) throw new Error('the index has no table');
  const notices: string[] = [];
  await tidyUp(table, { oldest: new Date(), onUntidied: (notice) => notices.push(notice) });
  expect(notices).toEqual([
    expect.stringMatching(/may not delete them \(s3:DeleteObject\): docs\/stores\.md/),
  ]);
  expect(await table.count()).toBe(3);
  table.close();
  await store.close();
}, 60_000);

const outputKeys = {
  plan: 'runs/new/plan/page-00000.json',
  run: 'runs/new/run.json',
  part: 'runs/r/parts/part-00009.parquet',
  success: 'runs/new/_SUCCESS.json',
  index: 'index/0/lease-00001.json',
  model: 'models/0.onnx',
  probe: '.probe',
  race: '.probe-won-twice',
};

test.each<[Role, (keyof typeof outputKeys)[]]>([
  ['producer', ['plan', 'run', 'model', 'probe', 'race']],
  ['worker', ['part', 'success', 'index', 'probe', 'race']],
  ['reader', []],
])(
  'a %s writes what is its own and nothing else, deletes nothing, and sees no other prefix',
  async (role, own) => {
    await become(role);
    for (const [what, key] of Object.entries(outputKeys)) {
      const answer = own.some((name) => name === what) ? 'done' : 'AccessDenied';
      expect(await answerTo('put', `indexes/photos/${key}`), `put ${what}`).toBe(answer);
    }
    expect(await answerTo('get', 'indexes/photos/runs/r/run.json')).toBe('done');
    // Not forbidden: what is not there has to be known from what may not be seen.
    expect(await answerTo('get', 'indexes/photos/none')).toBe('NoSuchKey');
    expect(await answerTo('get', '0.jpg', source)).toBe('done');
    expect(await answerTo('get', 'none', source)).toBe('NoSuchKey');
    for (const key of ['indexes/photos/runs/r/run.json', 'indexes/photos/.probe', 'indexes/other/rows'])
      expect(await answerTo('delete', key), `delete ${key}`).toBe('AccessDenied');
    expect(await answerTo('get', 'indexes/other/rows')).toBe('AccessDenied');
    expect(await answerTo('put', 'indexes/other/new')).toBe('AccessDenied');
    expect(await answerTo('put', 'new.jpg', source)).toBe('AccessDenied');
    expect(await answerTo('delete', '0.jpg', source)).toBe('AccessDenied');
  },
);

test('a role that is asked for more than it may says which action on which object it lacks', async () => {
  await become('reader');
  const store = openStore(output, testS3Options());
  const denied = (key: string) => ({
    code: 'access-denied',
    message: expect.stringMatching(`may not write ${output}/${key} .*allow them s3:PutObject`),
  });
  await expect(store.probe()).rejects.toMatchObject(denied('\\.probe'));
  const { values } = resolveSettings(
    { output, s3Endpoint: server.endpoint, s3Region: server.region },
    {},
    {},
  );
  expect(await examineStore(values)).toEqual({
    verdict: 'warning',
    detail: expect.stringMatching(/can be read, which is enough to search.*allow them s3:PutObject/),
  });
  const { exitCode, stderr } = await lensmill(['retry', 'r', '--failed'], await become('reader'));
  expect({ exitCode, stderr }).toEqual({
    exitCode: 2,
    stderr: expect.stringContaining('allow them s3:PutObject'),
  });
  await become('producer');
  await expect(store.create('runs/r/parts/part-00008.parquet', Buffer.from('x'))).rejects.toMatchObject(
    denied('runs/r/parts/part-00008\\.parquet'),
  );
  await become('worker');
  await expect(store.create('runs/s/plan/request.json', Buffer.from('x'))).rejects.toMatchObject(
    denied('runs/s/plan/request\\.json'),
  );
  await store.close();
});
