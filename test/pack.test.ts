/** What is published, as whoever installs it has it: packed, installed in an empty folder, run by plain Node. */
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { execa } from 'execa';
import { beforeAll, expect, test } from 'vitest';
import { makeSbom, type Packed, packRelease, refusedLicences } from '../deploy/release.ts';
import { startPrivateRedis } from '../src/redis/server.ts';
import { version } from '../src/version.ts';
import { smallModel } from './helpers/cli.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeBucket, testS3Options } from './helpers/s3.ts';
import { tempFolder } from './helpers/temp.ts';

const root = join(import.meta.dirname, '..');
/** Where it is installed, and where the examples of the documentation stand and run. */
const folder = tempFolder();
const installed = join(folder, 'node_modules');
const guide = readFileSync(join(root, 'docs/api-typescript.md'), 'utf8');

/** As a user's shell, and not as an npm script of this repository: npm would take that for its project. */
const environment = Object.fromEntries([
  ...Object.keys(process.env)
    .filter((name) =>
      /^(npm_(lifecycle|package|command|config_local_prefix)|INIT_CWD|LENSMILL_|REDIS_URL)/.test(name),
    )
    .map((name) => [name, undefined]),
  ...Object.entries({ LENSMILL_MODEL: smallModel, LENSMILL_DEVICE: 'cpu', LENSMILL_CACHE: tempFolder() }),
  ...Object.entries({ LENSMILL_LANES: '1', LENSMILL_SESSIONS: '1' }),
]);
const shell = { cwd: folder, env: environment, preferLocal: false } as const;

let packed: Packed;

beforeAll(async () => {
  packed = await packRelease(tempFolder());
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
  const quick = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
  await Promise.all([
    execa('npm', ['install', ...quick, packed.file], shell),
    makePhotoArchive(join(folder, 'photos'), 12),
  ]);
  for (const [name, code] of examplesOf(guide)) writeFileSync(join(folder, name), code);
}, 300_000);

test('the package holds what is needed, and nothing else', () => {
  const paths = packed.files.map(({ path }) => path);
  const own = paths.filter((path) => !path.startsWith('node_modules/'));
  expect(
    paths.filter(
      (path) => path.startsWith('node_modules/') && !path.startsWith('node_modules/@lancedb/lancedb/'),
    ),
  ).toEqual([]);
  expect(own.filter((path) => !/^(dist|docs|deploy)\//.test(path)).toSorted()).toEqual([
    'CHANGELOG.md',
    'LICENSE',
    'README.md',
    'package.json',
  ]);
  expect(
    own.filter((path) => /\.(test\.|map$|node$)|(?<!\.d)\.ts$|^dist\/(test|docs|deploy)\//.test(path)),
  ).toEqual([]);
  expect(own).toEqual(
    expect.arrayContaining([
      'dist/src/cli/main.js',
      'dist/src/lensmill.d.ts',
      'dist/src/web/public/index.html',
      'dist/src/pixels/kernel.wasm',
      'dist/src/pixels/jpeg.c',
      'dist/src/models/labels.json',
      'dist/workers/worker.js',
      'deploy/build-native.sh',
    ]),
  );
  // 0.7 and 3.1 MB when this was written.
  expect(packed.size).toBeLessThan(1e6);
  expect(packed.unpackedSize).toBeLessThan(4e6);
});

test('of two builds, every byte is the same', async () => {
  const again = tempFolder();
  // Types were checked by the first.
  await execa('tsc', ['-p', 'tsconfig.build.json', '--noCheck', '--outDir', again], {
    cwd: root,
    preferLocal: true,
  });
  await execa(
    'vite',
    ['build', 'src/web/page', '--outDir', join(again, 'src/web/public'), '--logLevel', 'error'],
    {
      cwd: root,
      preferLocal: true,
    },
  );
  const built = filesBelow(join(installed, 'lensmill/dist')).filter((path) => !/\.(wasm|c|node)$/.test(path));
  expect(built.length).toBeGreaterThan(200);
  for (const path of built) {
    const [ours, theirs] = [join(again, path), join(installed, 'lensmill/dist', path)];
    expect(readFileSync(ours).equals(readFileSync(theirs)), path).toBe(true);
  }
});

test('installed, `lensmill` runs, and every command loads', async () => {
  const bin = join(installed, '.bin/lensmill');
  expect((await execa(bin, ['--version'], shell)).stdout).toBe(version);
  const { stdout } = await execa(bin, ['--help'], shell);
  expect(stdout).toMatch(/^ {2}build-index /m);
});

test('installed, it speaks to a real S3 server: what is built is what was tested', async () => {
  const built = join(installed, 'lensmill/dist/src/s3/s3.js');
  const { Bucket }: typeof import('../src/s3/s3.ts') = await import(pathToFileURL(built).href);
  const bucket = new Bucket(`s3://${await makeBucket()}/built`, testS3Options());
  await bucket.put('a', Buffer.from('of the package'), { ifAbsent: true });
  const [page = []] = await Array.fromAsync(bucket.list({}));
  expect(page.map(({ key }) => key)).toEqual(['a']);
  bucket.close();
});

test('installed, the native JPEG decoder is built by one command', async () => {
  symlinkSync(join(root, 'node_modules/node-api-headers'), join(installed, 'node-api-headers'));
  const { stderr } = await execa('bash', ['node_modules/lensmill/deploy/build-native.sh'], shell);
  expect(stderr).toBe('');
  expect(existsSync(join(installed, 'lensmill/dist/src/pixels/jpeg.node'))).toBe(true);
  rmSync(join(installed, 'node-api-headers'));
});

test('what LanceDB would like for embedding services is not installed with it, and npm finds nothing amiss', async () => {
  expect(existsSync(join(installed, 'openai'))).toBe(false);
  expect(existsSync(join(installed, '@huggingface'))).toBe(false);
  expect(existsSync(join(installed, 'onnxruntime-web'))).toBe(false);
  await execa('npm', ['ls', '--all'], shell);
});

test('every licence of what is installed was looked at', async () => {
  const { metadata, components } = await makeSbom();
  expect(metadata.component.name).toBe('lensmill');
  expect(refusedLicences(components)).toEqual([]);
  const [unknown, copyleft, choice] = [
    { name: 'a', version: '1.0.0' },
    { name: 'b', version: '1.0.0', licenses: [{ license: { id: 'AGPL-3.0-only' } }] },
    { name: 'c', version: '1.0.0', licenses: [{ expression: '(GPL-2.0-only OR MIT)' }] },
  ];
  expect(refusedLicences([unknown, copyleft, choice])).toEqual([
    'a 1.0.0: no licence',
    'b 1.0.0: AGPL-3.0-only',
  ]);
});

test('the types hold in an empty TypeScript project, and are nobody else’s', async () => {
  for (const [name, code] of examplesOf(readFileSync(join(root, 'docs/api.md'), 'utf8')))
    writeFileSync(join(folder, name), code);
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: { strict: true, module: 'nodenext', target: 'es2024', noEmit: true, types: ['node'] },
      include: ['*.ts'],
    }),
  );
  const { stdout } = await execa(join(root, 'node_modules/.bin/tsc'), ['--listFiles'], shell);
  const packages = stdout
    .split('\n')
    .filter((path) => path.startsWith(installed))
    .map((path) => relative(installed, path));
  const ours = packages.filter((path) => path.startsWith('lensmill/') && !path.endsWith('web/api.d.ts'));
  expect(ours.map((path) => path.replace('lensmill/dist/src/', '')).toSorted()).toEqual([
    'errors.d.ts',
    'lensmill.d.ts',
    'library/output.d.ts',
    'library/runs.d.ts',
    'library/search.d.ts',
    'library/types.d.ts',
    'version.d.ts',
  ]);
  // zod is of http-api alone.
  const others = packages.filter((path) => !/^(lensmill|@types\/node|undici-types|zod)\//.test(path));
  expect(others).toEqual([]);
});

test('the examples of docs/api-typescript.md print what the page says', { timeout: 120_000 }, async () => {
  for (const { command, output } of sessionsOf(guide)) {
    await using pool = command[1] === 'enqueue.ts' ? await openPool() : undefined;
    const { stdout, stderr } = await execa(command[0] ?? '', command.slice(1), {
      ...shell,
      env: { ...environment, ...pool?.env },
    });
    expect({ command, stdout, stderr }).toEqual({ command, stdout: output, stderr: '' });
  }
});

/** A Redis and a worker, as the page has them elsewhere. */
async function openPool(): Promise<AsyncDisposable & { env: Record<string, string> }> {
  const redis = await startPrivateRedis();
  const env = { REDIS_URL: redis.url };
  const bin = join(installed, '.bin/lensmill');
  const worker = execa(bin, ['work', '--output', './index'], {
    ...shell,
    env: { ...environment, ...env },
    reject: false,
  });
  return {
    env,
    async [Symbol.asyncDispose]() {
      worker.kill('SIGTERM');
      await worker;
      await redis.close();
    },
  };
}

/** The page's programs, by the name that their first line has. */
function examplesOf(page: string): [name: string, code: string][] {
  return [...page.matchAll(/^```ts\n(\/\/ ([\w-]+\.ts)\n.*?)^```/gms)].map(([, code = '', name = '']) => [
    name,
    code,
  ]);
}

/** What it shows of running them. */
function sessionsOf(page: string): { command: string[]; output: string }[] {
  const blocks = page.matchAll(/^```console\n\$ (node \S+)\n(.*?)\n```/gms);
  return [...blocks].map(([, command = '', output = '']) => ({ command: command.split(' '), output }));
}

function filesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(path, join(entry.parentPath, entry.name)));
}
