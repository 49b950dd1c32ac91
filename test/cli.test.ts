/** Whole commands, as a user types them: what they print, what they leave, what they exit with. */
import { existsSync, mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { copyFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { beforeAll, expect, test } from 'vitest';
import { addCommands } from '../src/cli/commands.ts';
import { partsPrefix } from '../src/layout.ts';
import { readPart } from '../src/parts/part.ts';
import { startPrivateRedis } from '../src/redis/server.ts';
import { openStore } from '../src/stores/open-store.ts';
import { lensmill, logged, smallModel } from './helpers/cli.ts';
import { hugePng } from './helpers/huge-png.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const photos = join(tempFolder(), 'photos');
const photoCount = 48;
const smallShards = ['--model', smallModel, '--shard-size', '8'];

beforeAll(() => makePhotoArchive(photos, photoCount));

async function index(
  ...args: string[]
): Promise<{ exitCode: number | undefined; result: Record<string, unknown>; stderr: string }> {
  const { exitCode, stdout, stderr } = await lensmill(['index', ...args, ...smallShards, '--json']);
  return { exitCode, result: stdout === '' ? {} : JSON.parse(stdout), stderr };
}

/** Every row of an output's one run, by id. */
async function rowsOf(
  output: string,
  run: string,
): Promise<Map<string, { status: string; error: string | null; labels: number[]; embedding: Float32Array }>> {
  const store = openStore(output, s3Defaults);
  const rows = new Map();
  for await (const { key } of store.list(partsPrefix(run))) {
    const part = readPart((await store.read(key)) as Uint8Array, key);
    part.ids.forEach((id, row) => {
      rows.set(id, {
        status: part.statuses[row],
        error: part.errors[row],
        labels: [...part.labels.subarray(row * 5, row * 5 + 5)],
        embedding: part.embeddings.subarray(row * 2048, (row + 1) * 2048),
      });
    });
  }
  return rows;
}

test('a folder becomes a verified run with one command', async () => {
  const output = tempFolder();
  const { exitCode, result } = await index(photos, '--output', output, '--run', 'first');
  expect(exitCode).toBe(0);
  expect(result).toMatchObject({
    run: 'first',
    items: photoCount,
    ok: photoCount,
    failed: 0,
    untrained: true,
    throughput: { images: photoCount, waitedShare: expect.any(Number), verdict: expect.any(String) },
  });

  const verified = await lensmill(['verify', 'first', '--output', output, '--json']);
  expect(JSON.parse(verified.stdout)).toMatchObject({
    sound: true,
    items: photoCount,
    parts: 6,
    problems: [],
  });
  expect(verified.exitCode).toBe(0);
  const rows = await rowsOf(output, 'first');
  expect(rows.size).toBe(photoCount);
  const embeddings = [...rows.values()].map(({ embedding }) => embedding.join());
  expect(new Set(embeddings).size).toBe(photoCount);

  const again = await lensmill([
    'index',
    photos,
    '--output',
    output,
    '--run',
    'first',
    '--model',
    smallModel,
  ]);
  expect(again.exitCode).toBe(2);
  expect(again.stderr).toContain('lensmill resume first');
  const resumed = await lensmill(['resume', 'first', '--output', output]);
  expect(resumed.stdout).toContain('nothing is left to do');

  const status = await lensmill(['status', '--output', output, '--json']);
  expect(JSON.parse(status.stdout)).toMatchObject([
    { run: 'first', state: 'done', committed: 6, items: photoCount },
  ]);
});

test('people get a banner that says when the weights are untrained', async () => {
  const { stdout } = await lensmill(['index', photos, '--output', tempFolder(), ...smallShards]);
  expect(stdout).toContain('UNTRAINED WEIGHTS (random:0:1-1-1-1)');
  expect(stdout).toMatch(/images {2}48: 48 embedded, 0 failed/);
});

test('each bad image costs its row and no other', async () => {
  const folder = tempFolder();
  const good = join(photos, 'part-0/00000.jpg');
  for (const name of ['good-1.jpg', 'good-2.jpg', 'truncated.jpg']) await copyFile(good, join(folder, name));
  truncateSync(join(folder, 'truncated.jpg'), 20_000);
  writeFileSync(join(folder, 'empty.png'), '');
  writeFileSync(join(folder, 'text.jpg'), 'this is no picture\n');
  writeFileSync(
    join(folder, 'drawing.jpg'),
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
  );
  writeFileSync(
    join(folder, 'skipped.svg'),
    '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
  );
  writeFileSync(join(folder, 'huge.png'), hugePng(30_000, 30_000));
  mkdirSync(join(folder, 'folder.png'));
  symlinkSync(join(folder, 'nowhere'), join(folder, 'dangling.jpg'));
  const reference = tempFolder();
  await copyFile(good, join(reference, 'good.jpg'));

  const output = tempFolder();
  const { exitCode, result } = await index(folder, '--output', output, '--run', 'r');
  expect(exitCode).toBe(3);
  expect(result).toMatchObject({
    items: 8,
    ok: 2,
    failed: 6,
    skipped: 1,
    failures: { truncated: 1, empty: 1, 'unsupported-format': 2, 'too-many-pixels': 1, 'not-found': 1 },
  });
  await index(reference, '--output', output, '--run', 'reference');
  const rows = await rowsOf(output, 'r');
  const expected = (await rowsOf(output, 'reference')).get('good.jpg');
  expect(rows.get('good-1.jpg')).toEqual(expected);
  expect(rows.get('good-2.jpg')).toEqual(expected);
  expect(rows.get('huge.png')).toMatchObject({ status: 'failed', error: 'too-many-pixels' });
  expect((await lensmill(['verify', 'r', '--output', output])).exitCode).toBe(0);
});

test('what the operator must change is one line, and exit code 2', async () => {
  const output = tempFolder();
  const file = join(tempFolder(), 'file');
  writeFileSync(file, '');
  const cases: [string[], RegExp][] = [
    [['index', photos], /--output is missing/],
    [['index', join(photos, 'nowhere'), '--output', output], /nowhere/],
    [['index', 'ftp://host/', '--output', output], /no source for 'ftp:\/\/.*a path, file:\/\/, s3:\/\//],
    [['index', photos, '--output', join(file, 'below')], /below/],
    [['index', photos, '--output', output, '--model', 'resnet9000'], /resnet9000.*resnet152/],
    [['index', photos, '--output', output, '--model', smallModel, '--run', 'a/b'], /'a\/b' is no run id/],
    [
      ['index', photos, '--output', output, '--model', smallModel, '--redis', 'redis://127.0.0.1:1'],
      /no Redis at/,
    ],
    [['index', photos, '--output', output, '--model', smallModel, '--exclude', '**'], /no images in/],
    [['index', photos, '--output', output, '--device', 'tpu'], /--device/],
    [['index', photos, '--output', output, '--no-such-flag'], /unknown option/],
    [['index', '--output', output], /missing required argument/],
    [['work', '--output', output], /--redis is missing/],
    [['verify', 'nothing', '--output', output], /no run nothing/],
    [['export', output, '--to', tempFolder(), '--format', 'csv'], /there are npy, jsonl, parquet/],
    [['frobnicate'], /unknown command/],
  ];
  for (const [args, message] of cases) {
    const { exitCode, stderr, stdout } = await lensmill(args);
    expect({ args, exitCode }).toEqual({ args, exitCode: 2 });
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(stdout).toBe('');
  }
  expect(existsSync(join(output, 'runs')), 'a run that was claimed').toBe(false);
});

test.skipIf(process.env.CUDA_VISIBLE_DEVICES !== undefined)(
  'CUDA is never replaced by the CPU in silence',
  async () => {
    const { exitCode, stderr } = await lensmill([
      'index',
      photos,
      '--output',
      tempFolder(),
      '--device',
      'cuda',
      ...smallShards,
    ]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--device cuda:');
  },
);

test('Ctrl-C ends with 130, SIGTERM with 4; the run goes on where it stopped', async () => {
  const output = tempFolder();
  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 4],
  ] as const) {
    const run = signal.toLowerCase();
    const command = lensmill(['index', photos, '--output', output, '--run', run, ...smallShards]);
    await logged(command, 'shard done', 1);
    command.kill(signal);
    const { exitCode, stderr } = await command;
    expect(exitCode).toBe(expected);
    expect(stderr).toContain(`lensmill resume ${run} --output`);

    const resumed = await lensmill(['resume', run, '--output', output, '--json']);
    expect(JSON.parse(resumed.stdout)).toMatchObject({ items: photoCount, ok: photoCount });
    expect((await lensmill(['verify', run, '--output', output])).exitCode).toBe(0);
  }
});

test('two commands for the same run at once are never mixed', async () => {
  const output = tempFolder();
  const both = await Promise.all([0, 1].map(() => index(photos, '--output', output, '--run', 'same')));
  expect(both.map(({ exitCode }) => exitCode).toSorted()).toEqual([0, 2]);
  expect((await lensmill(['verify', 'same', '--output', output])).exitCode).toBe(0);
});

test('a producer and workers of their own share a run; a worker that is killed is replaced', async () => {
  const redis = await startPrivateRedis();
  const output = tempFolder();
  const env = { REDIS_URL: redis.url, LENSMILL_OUTPUT: output };
  try {
    const workers = [0, 1].map(() => lensmill(['work'], env));
    await Promise.all(workers.map((worker) => logged(worker, 'worker ready')));
    const enqueued = await lensmill(['enqueue', photos, '--run', 'shared', ...smallShards, '--json'], env);
    const planned = { run: 'shared', items: photoCount, shards: 6 };
    expect(JSON.parse(enqueued.stdout)).toMatchObject({ ...planned, enqueued: 6 });

    const done = Promise.any(workers.map((worker) => logged(worker, 'run done')));
    await Promise.all(workers.map((worker) => logged(worker, 'model loaded')));
    // The worker process itself, under its supervisor.
    const [child] = (await childrenOf(workers[0]?.pid as number)).slice(-1);
    process.kill(child as number, 'SIGKILL');
    await done;
    for (const worker of workers) worker.kill('SIGTERM');
    const ended = await Promise.all(workers);
    expect(ended.map(({ exitCode }) => exitCode)).toEqual([0, 0]);
    expect(ended.some(({ stdout }) => /^limit {3}\S/m.test(stdout))).toBe(true);
    const { throughput } = JSON.parse((await lensmill(['status', 'shared', '--json'], env)).stdout);
    // Fewer, where the one that was killed had not told of a shard that it did.
    expect(throughput.images).toBeGreaterThan(0);
    expect(throughput.images).toBeLessThanOrEqual(photoCount);
    expect((await lensmill(['verify', 'shared', '--output', output])).exitCode).toBe(0);

    for (const lost of ['parts/part-00003.parquet', '_SUCCESS.json'])
      rmSync(join(output, 'runs/shared', lost));
    const resumed = await lensmill(['resume', 'shared', '--enqueue', '--json'], env);
    expect(JSON.parse(resumed.stdout)).toMatchObject({ ...planned, enqueued: 1 });
  } finally {
    await redis.close();
  }
});

test('a log that nobody reads any more ends no run', async () => {
  const folder = tempFolder();
  await copyFile(join(photos, 'part-0/00000.jpg'), join(folder, 'a.jpg'));
  const command = lensmill(['index', folder, '--output', tempFolder(), ...smallShards, '--json']);
  command.stderr?.once('data', () => command.stderr?.destroy());
  const { exitCode, stdout } = await command;
  expect(JSON.parse(stdout)).toMatchObject({ items: 1, ok: 1 });
  expect(exitCode).toBe(0);
});

test('a finished run is exported for other tools', async () => {
  const output = tempFolder();
  await index(photos, '--output', output, '--run', 'r');
  const to = join(tempFolder(), 'rows');
  const exported = await lensmill(['export', output, '--to', to, '--format', 'jsonl', '--json']);
  expect(exported.exitCode).toBe(0);
  expect(JSON.parse(exported.stdout)).toMatchObject({
    format: 'jsonl',
    rows: photoCount,
    ok: photoCount,
    failed: 0,
  });
});

test('every command explains itself', async () => {
  const { stdout } = await lensmill(['--help']);
  const program = new Command();
  await addCommands(program);
  const names = program.commands.map((command) => command.name());
  expect(names).toEqual(expect.arrayContaining(['index', 'work', 'status', 'verify', 'export', 'model']));
  for (const command of program.commands.flatMap((one) => (one.commands.length > 0 ? one.commands : one))) {
    const help: string[] = [];
    command.configureOutput({ writeOut: (text) => void help.push(text) }).outputHelp();
    expect(help.join('')).toMatch(/Examples:\n {2}\$ /);
  }
  for (const name of names) expect(stdout).toMatch(new RegExp(`^ {2}${name} `, 'm'));
});

async function childrenOf(pid: number): Promise<number[]> {
  return (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim().split(' ').map(Number);
}
