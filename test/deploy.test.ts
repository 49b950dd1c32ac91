/** No Docker runs here: what can be known of the images without it is held against code and packages. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, test } from 'vitest';
import manifest from '../package.json' with { type: 'json' };
import { settingsTable } from '../src/settings/table.ts';
import { silentLog } from '../src/telemetry/log.ts';
import { openHealth } from '../workers/health.ts';
import { type Compose, readCompose, root } from './helpers/compose.ts';

const read = (path: string): string => readFileSync(join(root, path), 'utf8');

const dockerfiles = ['deploy/Dockerfile', 'deploy/Dockerfile.cuda'];

describe.each(dockerfiles)('%s', (path) => {
  const instructions = read(path)
    .replaceAll(/^#.*\n/gm, '')
    .replaceAll(/\\\n/g, '')
    .split('\n');
  const of = (instruction: string): string[] =>
    instructions.flatMap((line) =>
      line.startsWith(`${instruction} `) ? line.slice(instruction.length + 1) : [],
    );

  test('copies files that are there and that .dockerignore lets through', () => {
    const sources = of('COPY')
      .filter((copy) => !copy.startsWith('--from'))
      .flatMap((copy) => copy.split(' ').slice(0, -1));
    expect(sources).toContain('package-lock.json');
    for (const source of sources) {
      expect(existsSync(join(root, source)), source).toBe(true);
      expect(read('.dockerignore').split('\n')).toContain(`!${source}`);
    }
  });

  test('copies from stages that it has, and runs npm scripts that package.json has', () => {
    const stages = of('FROM').flatMap((from) => from.split(' AS ')[1] ?? []);
    const used = of('COPY').flatMap((copy) => /--from=(\S+)/.exec(copy)?.[1] ?? []);
    expect(stages).toEqual(expect.arrayContaining(used));
    const scripts = of('RUN').flatMap((run) => [...run.matchAll(/npm run (\S+)/g)].map(([, name]) => name));
    expect(Object.keys(manifest.scripts)).toEqual(expect.arrayContaining(scripts));
    expect(scripts).toContain('build');
  });

  test('has the Node that the tests ran on, starts what package.json calls lensmill, and is not root', () => {
    expect(of('FROM')[0]).toBe(`node:${manifest.devDependencies.node}-bookworm-slim AS packages`);
    expect(of('RUN').join()).toContain(`ln -s /app/${manifest.bin.lensmill} /usr/local/bin/lensmill`);
    expect(of('ENTRYPOINT')).toEqual(['["lensmill"]']);
    expect(of('USER')).toEqual(['1000:1000']);
  });

  test('keeps the cache, and what is temporary and large, on the volumes that Compose mounts', () => {
    const { worker } = (readCompose('docker-compose.yml') as Compose).services; // compose.test.ts holds it to that
    const [folder] = of('VOLUME');
    const env = of('ENV').join(' ');
    expect(env).toContain(`${settingsTable.cacheDir.env}=${folder}`);
    expect(env).toContain(`NODE_COMPILE_CACHE=${folder}/`);
    const scratch = worker?.environment?.TMPDIR;
    expect(worker?.volumes).toEqual(expect.arrayContaining([`cache:${folder}`, `scratch:${scratch}`]));
    // A volume takes its owner from the folder that it is laid over.
    expect(of('RUN').join()).toContain(`install -d -o 1000 -g 1000 ${folder} ${scratch}`);
  });

  test('has certificates, without which LanceDB opens no S3 store, and tells nobody what it does', () => {
    const runs = of('RUN').filter((run) => run.includes('apt-get install'));
    expect(runs.some((run) => run.includes('ca-certificates'))).toBe(true);
    expect(of('ENV').join(' ')).toContain('ORT_DISABLE_TELEMETRY=1');
  });

  test('says what it is', () => {
    expect(of('ARG')).toContain(`VERSION=${manifest.version}`);
    expect(of('LABEL').join()).toContain(`org.opencontainers.image.licenses="${manifest.license}"`);
    for (const label of ['version="$VERSION"', 'revision="$REVISION"', 'source="$SOURCE"'])
      expect(of('LABEL').join()).toContain(`org.opencontainers.image.${label}`);
  });

  test('is healthy by its own check when it is ready, or has no port to be asked at', async () => {
    const [check = ''] = of('HEALTHCHECK').flatMap((line) => line.split(' CMD ')[1] ?? []);
    const run = async (port?: string): Promise<number | undefined> => {
      const env = port === undefined ? {} : { [settingsTable.metricsPort.env]: port };
      const options = { preferLocal: true, localDir: root, reject: false, env } as const;
      return (await execa('sh', ['-c', check], options)).exitCode;
    };
    let obstacles: string[] = [];
    const health = await openHealth(
      { ailments: () => [], obstacles: () => obstacles },
      { host: '127.0.0.1', port: 0, log: silentLog },
    );
    const { port } = new URL(health.url);
    expect(await run(port)).toBe(0);
    obstacles = ['cpu: Redis was last seen 20 s ago'];
    expect(await run(port)).toBe(1);
    await health.close();
    expect(await run(port)).toBe(1);
    expect(await run()).toBe(0);
  });
});

test('the images, which have no development dependencies, have every package that is imported', () => {
  // The page's packages are in its bundle.
  const imported = globSync('{src,workers}/**/*.ts', { cwd: root, exclude: ['src/web/page/**'] })
    .flatMap((path) => [...read(path).matchAll(/^(?:import|export|\}) .*?from '([^.'][^']*)'/gm)])
    .map(([, name = '']) => name)
    .filter((name) => !isBuiltin(name))
    .map((name) => /^(@[^/]+\/)?[^/]+/.exec(name)?.[0]);
  expect(Object.keys(manifest.dependencies)).toEqual(expect.arrayContaining([...new Set(imported)]));
});

test('the CUDA image has the CUDA and cuDNN that this ONNX Runtime is linked with', () => {
  // What `readelf -d libonnxruntime_providers_cuda.so` needs: libcublas.so.13, libcudart.so.13; cuDNN 9 is loaded by name.
  // The install script still calls it cuda12, so this is known of a version by looking; look again at the next one.
  const linkedWith: Record<string, string> = { '1.30.0': '13' };
  const image = /^FROM nvidia\/cuda:(\d+)\S*-cudnn-runtime-/m.exec(read('deploy/Dockerfile.cuda'));
  expect(image?.[1]).toBe(linkedWith[manifest.dependencies['onnxruntime-node']]);
});

test("the CUDA image runs ONNX Runtime's own install script, and looks for the library where that puts it", () => {
  const dockerfile = read('deploy/Dockerfile.cuda');
  const script = 'node_modules/onnxruntime-node/script/install.js';
  expect(dockerfile).toContain(`ONNXRUNTIME_NODE_INSTALL=true node ${script}`);
  expect(read(script)).toContain("path.join(__dirname, '..', 'bin/napi-v6', PLATFORM)");
  const { requirements, manifests } = createRequire(import.meta.url)(
    'onnxruntime-node/script/install-metadata.js',
  );
  const files = requirements['linux/x64'].flatMap((name: string) =>
    Object.keys(manifests[`linux/x64:${name}`]),
  );
  expect(files).toContain('./libonnxruntime_providers_cuda.so');
  expect(dockerfile).toContain('bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so');
});
