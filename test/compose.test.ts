/** No Docker runs here: docker-compose.yml is held against its schema, the code, and what the secrets' script makes. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { resolveSettings } from '../src/settings/resolve.ts';
import { type Settings, settingNames, settingsTable } from '../src/settings/table.ts';
import {
  type Compose,
  graceMsOf,
  merge,
  readCompose,
  root,
  type Service,
  schemaErrors,
} from './helpers/compose.ts';
import { makeSecrets } from './helpers/made-secrets.ts';
import { parseCommand } from './helpers/pods.ts';

const gpu = readCompose('docker-compose.yml');
const override = readCompose('deploy/compose.cpu.yml');
const cpu = merge(gpu, override);
const { folder: prepared } = await makeSecrets();
const composed: [string, Compose][] = [
  ['docker-compose.yml', gpu as Compose], // held to its schema by the first test
  ['docker-compose.yml under deploy/compose.cpu.yml', cpu as Compose],
];
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

describe.each(composed)('%s', (_, compose) => {
  const services = Object.entries(compose.services);
  const ours = services.flatMap(([, service]) => (service.build ? service : []));
  const named = Object.fromEntries(services) as Record<
    'worker' | 'serve' | 'index' | 'redis' | 'bucket',
    Service
  >;

  test('is valid by the Compose Specification', () => {
    expect(schemaErrors(compose)).toEqual([]);
  });

  test('sets no variable that nobody reads', () => {
    const known = [
      ...settingNames.flatMap((name) => [settingsTable[name].env, `${settingsTable[name].env}_FILE`]),
      'AWS_SHARED_CREDENTIALS_FILE', // the AWS SDK
      'TMPDIR', // Node
    ];
    for (const { environment } of ours)
      expect(known).toEqual(expect.arrayContaining(Object.keys(environment ?? {})));
    for (const [name, { environment = {} }] of services.filter(([, { build }]) => !build))
      expect(Object.keys(environment).filter((key) => name !== 'grafana' || !key.startsWith('GF_'))).toEqual(
        [],
      );
  });

  test('gives lensmill values that it takes, and secrets that the script makes', () => {
    for (const service of ours) {
      const settings = settingsOf(compose, service);
      expect(settings.redis).toMatch(/^redis:\/\/lensmill:\w{48}@redis:6379$/);
      expect(settings).toMatchObject({
        s3Endpoint: 'http://seaweedfs:8333',
        output: 's3://lensmill/index',
        cacheDir: expect.any(String),
      });
    }
    expect(settingsOf(compose, named.serve).token).toMatch(/^\w{48}$/);
    expect(settingsOf(compose, named.serve)).toMatchObject({ queueDashboard: true, device: 'cpu' });
  });

  test('hands each secret to who uses it, as a file that is there once the script has run', () => {
    for (const { file } of Object.values(compose.secrets))
      expect(existsSync(join(prepared, file)), file).toBe(true);
    for (const [name, { secrets = [], environment = {}, command = [] }] of services) {
      expect(Object.keys(compose.secrets)).toEqual(expect.arrayContaining(secrets));
      const used = [...Object.values(environment), ...command].flatMap(
        (text) => /\/run\/secrets\/([\w-]+)/.exec(String(text))?.[1] ?? [],
      );
      expect(secrets.toSorted(), name).toEqual(used.toSorted());
    }
  });

  test('calls commands and flags that lensmill has', async () => {
    expect(ours).toHaveLength(3);
    for (const { entrypoint = ['lensmill'], command = [] } of ours) {
      const [program, ...args] = [...entrypoint, ...command];
      expect(program).toBe('lensmill');
      await expect(parseCommand(args)).resolves.toBeDefined();
    }
  });

  test('has every container wait for what it needs; volumes, networks and mounted files are there', () => {
    for (const [name, { depends_on = {}, volumes = [], networks = [] }] of services) {
      const awaited = Array.isArray(depends_on)
        ? depends_on.map((other) => [other, { condition: '' }] as const)
        : Object.entries(depends_on);
      for (const [other, { condition }] of awaited) {
        expect(compose.services).toHaveProperty(other);
        if (condition === 'service_healthy') expect(compose.services[other]?.healthcheck).toBeDefined();
      }
      const sources = volumes.map((volume) => volume.split(':')[0] ?? '');
      expect(Object.keys(compose.volumes)).toEqual(
        expect.arrayContaining(sources.filter((source) => /^\w+$/.test(source))),
      );
      for (const source of sources.filter((one) => one.startsWith('./') && one !== './photos'))
        expect(existsSync(join(root, source)), `${name}: ${source}`).toBe(true);
      expect(Object.keys(compose.networks)).toEqual(expect.arrayContaining(networks));
    }
    for (const { volumes } of ours) expect(volumes).toContain('./photos:/photos:ro');
  });

  test('lets no container write outside its volumes, gain a right, be root, or take the whole machine', () => {
    for (const [name, service] of services) {
      expect([name, service]).toEqual([
        name,
        expect.objectContaining({
          init: true,
          read_only: true,
          pids_limit: expect.any(Number),
          cap_drop: ['ALL'],
          security_opt: ['no-new-privileges:true'],
          logging: expect.objectContaining({
            options: expect.objectContaining({ 'max-size': expect.any(String) }),
          }),
          deploy: {
            resources: expect.objectContaining({
              limits: { memory: expect.any(String) },
            }),
          },
        }),
      ]);
      expect(service, name).not.toMatchObject({ privileged: true });
      // Ours say so in their Dockerfile, which deploy.test.ts looks at.
      if (!service.build) expect(service.user, name).toMatch(/^[1-9]\d*:\d+$/);
      expect(service.volumes?.join() ?? '').not.toContain('docker.sock');
      // What ends by itself is not started again.
      expect(service.restart).toBe(['index', 'bucket'].includes(name) ? 'no' : 'unless-stopped');
    }
  });

  test('shows itself to this machine alone, and Redis and the store to others when BIND says so; holds no password', () => {
    const published = services.flatMap(([name, { ports = [] }]) =>
      ports.map((port) => [name, port] as const),
    );
    expect(published.map(([, port]) => port.split(':')[0])).toEqual(published.map(() => '127.0.0.1'));
    const bound = merge(
      readCompose('docker-compose.yml', { LENSMILL_SECRETS: './secrets', BIND: '10.0.0.1' }),
      override,
    ) as Compose;
    const moved = Object.entries(bound.services).filter(
      ([, { ports = [] }]) => !ports.every((port) => port.startsWith('127.0.0.1:')),
    );
    expect(moved.map(([name]) => name)).toEqual(['redis', 'seaweedfs']);
    expect(read('docker-compose.yml')).not.toMatch(/(password|secret|token)\w*: *["']?[\w$]{4,}/i);
  });

  test('agrees with the settings on every port', () => {
    const { port, metricsPort, host } = settingsOf(compose, named.serve);
    expect([port, host]).toEqual([Number(settingsTable.port.default), '0.0.0.0']);
    expect(named.serve.ports).toEqual([`127.0.0.1:${port}:${port}`]);
    expect(settingsOf(compose, named.worker)).toMatchObject({ metricsPort, host });
    for (const path of ['deploy/Dockerfile', 'deploy/Dockerfile.cuda'])
      expect(read(path)).toContain(`EXPOSE ${port} ${metricsPort}\n`);
  });

  test('gives a worker longer to stop than it takes to hand its shards back', () => {
    expect(graceMsOf(named.worker)).toBeGreaterThan(settingsOf(compose, named.worker).graceMs + 10_000);
  });

  test('keeps the figures and Redis apart', () => {
    const members = (network: string): string[] =>
      services.flatMap(([name, { networks = [] }]) => (networks.includes(network) ? name : []));
    expect(members('metrics').toSorted()).toEqual(['grafana', 'prometheus', 'serve', 'worker']);
    expect(members('store').toSorted()).toEqual(['bucket', 'index', 'redis', 'seaweedfs', 'serve', 'worker']);
  });

  test('builds from a Dockerfile that is there', () => {
    for (const { build } of ours) expect(existsSync(join(root, build?.dockerfile ?? '?'))).toBe(true);
  });

  /** What a container of it has. */
  function settingsOf({ secrets }: Compose, { environment = {} }: Service): Settings {
    const env = Object.entries(environment).map(([name, value]) => [
      name,
      String(value).replace(/^\/run\/secrets\/(.*)$/, (_, secret) =>
        join(prepared, secrets[secret]?.file ?? '?'),
      ),
    ]);
    return resolveSettings({}, Object.fromEntries(env), {}).values;
  }
});

test('the worker has all GPUs, and with the override for CPUs none', () => {
  const { worker } = (gpu as Compose).services;
  const devices = worker?.deploy?.resources.reservations?.devices;
  expect(devices).toEqual([{ driver: 'nvidia', count: 'all', capabilities: ['gpu'] }]);
  expect(worker?.command).toEqual(['work', '--device', 'cuda']);
  const onCpu = (cpu as Compose).services.worker;
  expect(onCpu?.deploy?.resources.reservations).toBeUndefined();
  expect(onCpu?.deploy?.resources.limits).toEqual(worker?.deploy?.resources.limits);
  expect(onCpu?.command).toEqual(['work', '--device', 'cpu']);
  for (const name of ['worker', 'serve', 'index'])
    expect((cpu as Compose).services[name]?.image).toBe('lensmill:cpu');
});

test('a run is planned in fp16 where the worker has GPUs, though the container that plans it has none', () => {
  const planned = [gpu, cpu].map((compose) => (compose as Compose).services.index?.environment);
  expect(planned.map((environment) => environment?.[settingsTable.precision.env])).toEqual(['fp16', 'auto']);
});

test('the override alone is valid, too, and changes no service that is not there', () => {
  expect(schemaErrors(override)).toEqual([]);
  expect(Object.keys((gpu as Compose).services)).toEqual(
    expect.arrayContaining(Object.keys((override as Compose).services)),
  );
});

test('without secrets, Compose says what to type', () => {
  expect(() => readCompose('docker-compose.yml', {})).toThrow('type deploy/make-secrets.sh');
});

test('Prometheus scrapes what serves figures, Grafana asks Prometheus, and both find their files', () => {
  const { services } = gpu as Compose;
  const yaml = (path: string) => parse(read(path));
  const { scrape_configs: jobs, rule_files: rules } = yaml('deploy/prometheus/prometheus.yml');
  const scraped = jobs.flatMap(({ dns_sd_configs: [{ names, port }] }: Scrape) =>
    names.map((name) => [name, port]),
  );
  const serving = Object.entries(services).flatMap(([name, { environment = {}, networks = [] }]) =>
    networks.includes('metrics') && settingsTable.metricsPort.env in environment
      ? [[name, environment[settingsTable.metricsPort.env]]]
      : [],
  );
  expect(scraped).toEqual(serving);
  for (const rule of rules) expect(existsSync(join(root, 'deploy/prometheus', rule)), rule).toBe(true);

  const { prometheus, grafana } = services;
  expect(prometheus?.volumes).toContain('./deploy/prometheus:/etc/prometheus:ro');
  expect(prometheus?.command).toContain('--config.file=/etc/prometheus/prometheus.yml');
  const [source] = yaml('deploy/grafana/provisioning/datasources/prometheus.yml').datasources;
  expect(source.url).toBe(`http://prometheus:${prometheus?.ports?.[0]?.split(':').at(-1)}`);
  const [provider] = yaml('deploy/grafana/provisioning/dashboards/lensmill.yml').providers;
  expect(grafana?.volumes).toEqual(
    expect.arrayContaining([
      './deploy/grafana/provisioning:/etc/grafana/provisioning:ro',
      `./deploy/grafana/dashboards:${provider.options.path}:ro`,
    ]),
  );
  expect(existsSync(join(root, 'deploy/grafana/dashboards/lensmill.json'))).toBe(true);
});

interface Scrape {
  dns_sd_configs: [{ names: string[]; port: number }];
}

test('every image is pinned, and is the same wherever it is named', () => {
  const tags = new Map<string, Set<string>>();
  const files = globSync(
    ['docker-compose.yml', 'deploy/*.yml', 'deploy/kubernetes/**/*.yaml', 'deploy/Dockerfile*'],
    { cwd: root },
  );
  for (const path of files) {
    for (const [, image = ''] of read(path).matchAll(/^(?:\s*-?\s*image:|FROM) (\S+[:@]\S+)/gm)) {
      const [name = '', tag = ''] = image.split(':');
      tags.set(name, (tags.get(name) ?? new Set()).add(tag));
    }
  }
  tags.delete('lensmill');
  expect([...tags.keys()]).toEqual(
    expect.arrayContaining(['redis', 'node', 'nvidia/cuda', 'prom/prometheus', 'grafana/grafana']),
  );
  for (const [name, named] of tags) {
    expect([...named], name).toHaveLength(1);
    expect([...named][0], name).toMatch(/^v?\d+\.\d+/);
  }
});
