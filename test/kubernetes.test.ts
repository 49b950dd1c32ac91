/** No cluster runs here: what would be applied is built by the real kubectl, and held against schemas, the code and itself. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { IPodTemplateSpec } from 'kubernetes-models/v1';
import { describe, expect, test } from 'vitest';
import { assumedImagesPerSecond } from '../src/telemetry/backlog.ts';
import { serveTable } from '../src/telemetry/metric-table.ts';
import { type Manifest, openKubectl, podsOf, schemaErrors } from './helpers/kubernetes.ts';
import { blocks, documentedSecrets, page, root, writeOverlays } from './helpers/kubernetes-docs.ts';
import {
  breaches,
  labelsOf,
  parseCommand,
  portNamesOf,
  reaches,
  selectorOf,
  selects,
  startOf,
} from './helpers/pods.ts';
import { tempFolder } from './helpers/temp.ts';

const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const manifests = join(root, 'deploy/kubernetes');
const kubectl = await openKubectl(tempFolder());
const secrets = await documentedSecrets(kubectl);
const { site, old, elsewhere } = writeOverlays(tempFolder());
const [base, cpu, gpu, keda, monitoring] = await Promise.all(
  ['base', 'overlays/cpu', 'overlays/gpu', 'overlays/keda', 'components/monitoring'].map((folder) =>
    kubectl.build(join(manifests, folder)),
  ),
);

describe.each<[string, Manifest[]]>([
  ['the base', base ?? []],
  ['overlays/cpu', cpu ?? []],
  ['overlays/gpu', gpu ?? []],
  ['overlays/keda', keda ?? []],
  ['the base with the component monitoring', [...(base ?? []), ...(monitoring ?? [])]],
  ['the overlay of the docs', await kubectl.build(site)],
  ['the overlay of the docs with Redis elsewhere', await kubectl.build(elsewhere)],
  [
    'the pool of the docs for an old version, beside its overlay',
    [...(await kubectl.build(site)), ...(await kubectl.build(old))],
  ],
])('%s', (_, objects) => {
  const pods = objects.flatMap((object) => podsOf(object) ?? []);
  const ours = pods.filter((pod) => labelsOf(pod)['app.kubernetes.io/name'] === 'lensmill');
  const named = (kind: Manifest['kind']): (string | undefined)[] =>
    objects.filter((object) => object.kind === kind).map(({ metadata }) => metadata?.name);

  test('has objects that are valid by the schemas of their kinds, without unknown fields, in one namespace', async () => {
    for (const object of objects) {
      expect(await schemaErrors(object), `${object.kind} ${object.metadata?.name}`).toEqual([]);
      // A component alone has none.
      expect(['lensmill', undefined]).toContain(object.metadata?.namespace);
    }
  });

  test('has pods that the restricted Pod Security Standard lets in, and no token of Kubernetes', () => {
    expect(ours.length).toBeGreaterThan(0);
    for (const pod of pods) {
      expect(breaches(pod)).toEqual([]);
      // Links to Services would be variables named as lensmill's own settings.
      expect(pod.spec).toMatchObject({ automountServiceAccountToken: false, enableServiceLinks: false });
    }
    for (const object of objects)
      if (object.kind === 'ServiceAccount') expect(object.automountServiceAccountToken).toBe(false);
  });

  test("runs the images that the Dockerfiles and Compose name, as the Dockerfiles' user, and writes to volumes alone", () => {
    const composed = ['docker-compose.yml', 'deploy/compose.cpu.yml'].flatMap((path) =>
      [...read(path).matchAll(/\bimage: (\S+)/g)].map(([, image]) => image),
    );
    const dockerfile = read('deploy/Dockerfile');
    const tags = [dockerfile, read('deploy/Dockerfile.cuda')].map((text) => / -t (\S+) \./.exec(text)?.[1]);
    expect(composed).toEqual(expect.arrayContaining(tags));
    for (const { spec } of pods)
      for (const { image = '' } of spec?.containers ?? [])
        expect(composed).toContain(image.replace(/^registry\.example\//, '').replace(/-0\.1\.0$/, ''));
    for (const { spec } of ours) {
      expect(spec?.securityContext?.runAsUser).toBe(Number(/^USER (\d+)/m.exec(dockerfile)?.[1]));
      const scratch = (spec?.volumes ?? [])
        .filter(({ emptyDir }) => emptyDir?.sizeLimit)
        .map(({ name }) => name);
      const mounts = (spec?.containers[0]?.volumeMounts ?? []).filter(({ name }) => scratch.includes(name));
      const cache = /LENSMILL_CACHE=(\S+)/.exec(dockerfile)?.[1];
      expect(mounts.map(({ mountPath }) => mountPath)).toEqual([cache, '/tmp']);
    }
  });

  test('starts commands that lensmill has, with settings that it knows and takes', async () => {
    for (const pod of ours) {
      const { command, settings } = await startOf(pod, objects, secrets);
      expect(settings).toMatchObject({
        output: expect.stringMatching(/^s3:/),
        redis: expect.stringMatching(/^redis:/),
      });
      expect(pod.spec?.terminationGracePeriodSeconds).toBeGreaterThan(settings.graceMs / 1000 + 10);
      if (command === 'serve') expect(settings.token).toHaveLength(48);
      const { ports = [] } = pod.spec?.containers[0] ?? {};
      const listens: Record<string, unknown> = {
        serve: [
          ['http', settings.port],
          ['metrics', settings.metricsPort],
        ],
        work: [['metrics', settings.metricsPort]],
      };
      expect(ports.map(({ name, containerPort }) => [name, containerPort])).toEqual(listens[command] ?? []);
    }
  });

  test('refers to nothing that is not there: settings, secrets, accounts, volumes', () => {
    const claims = objects.flatMap((object) =>
      object.kind === 'StatefulSet'
        ? (object.spec?.volumeClaimTemplates ?? []).map(({ metadata }) => metadata?.name)
        : [],
    );
    for (const { spec } of pods) {
      const { volumes = [], serviceAccountName, containers = [] } = spec ?? {};
      expect(named('ServiceAccount')).toContain(serviceAccountName);
      for (const { configMap, secret } of volumes) {
        if (configMap) expect(named('ConfigMap')).toContain(configMap.name);
        if (secret) expect([...secrets.keys()]).toContain(secret.secretName);
        for (const { key } of secret?.items ?? [])
          expect(secrets.get(secret?.secretName ?? '')).toHaveProperty(key);
      }
      for (const { envFrom = [], volumeMounts = [] } of containers) {
        for (const { configMapRef } of envFrom) expect(named('ConfigMap')).toContain(configMapRef?.name);
        for (const { name } of volumeMounts)
          expect([...volumes.map((one) => one.name), ...claims]).toContain(name);
      }
    }
  });

  test('selects pods that are there, by ports that they have', () => {
    for (const object of objects) {
      const selector = selectorOf(object);
      const selected = pods.filter((pod) => selector && selects(selector, labelsOf(pod)));
      if (selector) expect(selected.length, `${object.kind} ${object.metadata?.name}`).toBeGreaterThan(0);
      // A pod's own labels are those that its Deployment looks for, and no other's.
      if (object.kind === 'Deployment' || object.kind === 'StatefulSet')
        expect(selected).toEqual([podsOf(object)]);
      for (const port of portNamesOf(object))
        for (const { spec } of selected.filter((pod) => pod.spec?.containers[0]?.ports))
          expect(spec?.containers[0]?.ports?.map(({ name }) => name)).toContain(port);
      const constraints = podsOf(object)?.spec?.topologySpreadConstraints ?? [];
      for (const { labelSelector } of constraints)
        expect(selects(labelSelector ?? {}, labelsOf(podsOf(object) ?? {}))).toBe(true);
    }
  });
});

test('a field that the schema does not know is found, and a value that it does not allow', async () => {
  const deployment = structuredClone(base?.find(({ kind }) => kind === 'Deployment'));
  const container = deployment && podsOf(deployment)?.spec?.containers[0];
  Object.assign(container ?? {}, { readinesProbe: {}, imagePullPolicy: 'Sometimes' });
  const errors = await schemaErrors(deployment as Manifest); // the base has one
  expect(errors).toEqual([
    expect.stringContaining('imagePullPolicy must be equal to one of the allowed values'),
    '/spec/template/spec/containers/0/readinesProbe is no field of the schema',
  ]);
  const scaled = structuredClone(keda?.find((object) => object.kind === 'ScaledObject'));
  Object.assign(scaled?.spec ?? {}, { pollInterval: 15 });
  expect(await schemaErrors(scaled as Manifest)).toEqual(['/spec/pollInterval is no field of the schema']);
});

test('a pod with more rights than it needs, a setting that nobody reads or a flag that lensmill does not have is found', async () => {
  const changed = (change: (pod: IPodTemplateSpec) => void): IPodTemplateSpec => {
    const pod = structuredClone(podOf(base, 'worker'));
    change(pod);
    return pod;
  };
  const container = ({ spec }: IPodTemplateSpec) => spec?.containers[0] ?? { name: '' };
  const bold = changed((pod) => {
    Object.assign(pod.spec ?? {}, { hostPID: true });
    delete container(pod).securityContext?.capabilities;
  });
  expect(breaches(bold)).toEqual(['a namespace of the host', 'lensmill has capabilities']);
  const start = (pod: IPodTemplateSpec) => startOf(pod, base ?? [], secrets);
  const env = changed((pod) => container(pod).env?.push({ name: 'LENSMILL_GRACES', value: '25s' }));
  await expect(start(env)).rejects.toThrow('nobody reads LENSMILL_GRACES');
  const flag = changed((pod) => container(pod).args?.push('--devise', 'cpu'));
  await expect(start(flag)).rejects.toThrow('lensmill work does not take --devise cpu');
  const value = changed((pod) => container(pod).args?.push('--device', 'gpu'));
  await expect(start(value)).rejects.toThrow('--device: expected');
});

test('the overlay gpu has a GPU for each worker, and spot nodes where there are some; cpu has none', async () => {
  const { containers = [], tolerations, affinity } = podOf(gpu, 'worker').spec ?? {};
  expect(containers[0]).toMatchObject({ image: 'lensmill:cuda', args: ['work', '--device', 'cuda'] });
  expect(containers[0]?.resources?.limits).toMatchObject({ 'nvidia.com/gpu': 1 });
  // Only those that a node must have would keep workers from nodes that are not spot.
  expect(Object.keys(affinity?.nodeAffinity ?? {})).toEqual([
    'preferredDuringSchedulingIgnoredDuringExecution',
  ]);
  const preferred = affinity?.nodeAffinity?.preferredDuringSchedulingIgnoredDuringExecution ?? [];
  const labels = preferred.flatMap(({ preference }) =>
    (preference.matchExpressions ?? []).map(({ key }) => key),
  );
  const tainted = (tolerations ?? []).map(({ key }) => key).filter((key) => key !== 'nvidia.com/gpu');
  expect(labels).toEqual(expect.arrayContaining(tainted));
  for (const pod of [podOf(cpu, 'worker'), podOf(gpu, 'api')]) {
    expect(pod.spec).not.toHaveProperty('tolerations');
    expect(pod.spec?.containers[0]).toMatchObject({ image: 'lensmill:cpu' });
    expect(JSON.stringify(pod)).not.toContain('nvidia');
  }
});

test('a run is planned in fp16 where the workers have GPUs, though the pod that plans it has none', async () => {
  const planned = [cpu, gpu].map(async (objects = []) => {
    const [enqueue] = objects.flatMap((object) => {
      const pod = podsOf(object);
      return pod?.spec?.containers[0]?.args?.[0] === 'enqueue' ? pod : [];
    });
    return (await startOf(enqueue ?? {}, objects, secrets)).settings.precision;
  });
  expect(await Promise.all(planned)).toEqual(['auto', 'fp16']);
});

test('a second pool is workers and their settings, and nothing that the first has', async () => {
  const pool = await kubectl.build(old);
  expect(pool.map(({ kind }) => kind)).toEqual(['ConfigMap', 'Deployment']);
  const names = new Set((await kubectl.build(site)).map(({ metadata }) => metadata?.name));
  for (const { metadata } of pool) expect(names).not.toContain(metadata?.name);
  expect(podOf(pool, 'worker').spec?.containers[0]).toMatchObject({
    image: 'registry.example/lensmill:cuda-0.1.0',
  });
});

test('Node is told of as many cores as a worker may use, and a process is replaced before it is killed', async () => {
  for (const objects of [cpu ?? [], gpu ?? []]) {
    const pod = podOf(objects, 'worker');
    const { requests, limits } = pod.spec?.containers[0]?.resources ?? {};
    expect(limits?.cpu).toBe(requests?.cpu);
    const { maxMemoryBytes = 0 } = (await startOf(pod, objects, secrets)).settings;
    const limit = /^(\d+)Gi$/.exec(String(limits?.memory))?.[1];
    // The supervisor and the kernel's share of the limit.
    expect(Number(limit) * 2 ** 30 - maxMemoryBytes).toBeGreaterThan(1e9);
    expect(maxMemoryBytes).toBeGreaterThan(3e9);
  }
});

test('an API pod answers for a while after it was taken off the Service, and then has time to end', () => {
  const { containers, terminationGracePeriodSeconds = 0 } = podOf(base, 'api').spec ?? { containers: [] };
  const seconds = containers[0]?.lifecycle?.preStop?.sleep?.seconds ?? 0;
  expect(seconds).toBeGreaterThan(2);
  expect(terminationGracePeriodSeconds - seconds).toBeGreaterThan(30);
});

test('KEDA asks the API in its own namespace, and gives it as long to scale down as the work may take', () => {
  const scaled = keda?.find((object) => object.kind === 'ScaledObject');
  const [trigger] = scaled?.spec?.triggers ?? [];
  const { url = '', targetValue, valueLocation } = trigger?.metadata ?? {};
  expect(valueLocation).toBe(serveTable.backlog.name);
  expect(page).toContain(`${assumedImagesPerSecond} images/s a worker are assumed`);
  const { hostname, port, pathname } = new URL(url);
  const service = keda?.find(
    (object) => object.kind === 'Service' && object.metadata?.name === 'lensmill-api',
  );
  expect(hostname).toBe(`${service?.metadata?.name}.${service?.metadata?.namespace}.svc`);
  expect(service?.kind === 'Service' && service.spec?.ports).toContainEqual({
    name: 'metrics',
    port: Number(port),
    targetPort: 'metrics',
  });
  expect(pathname).toBe('/metrics');
  const { behavior } = scaled?.spec?.advanced?.horizontalPodAutoscalerConfig ?? {};
  expect(behavior?.scaleDown?.stabilizationWindowSeconds).toBe(Number(targetValue));
  // The figures of docs/kubernetes.md are of these.
  const { pollingInterval, cooldownPeriod, maxReplicaCount } = scaled?.spec ?? {};
  const bench = read('test/bench/autoscale.ts');
  expect(bench).toContain(
    `pollingSeconds: ${pollingInterval}, cooldownSeconds: ${cooldownPeriod}, stabilizationSeconds: ${targetValue} }`,
  );
  expect(bench).toContain(`maxReplicas = ${maxReplicaCount};`);
  // Who says how many there are: KEDA, and no manifest that is applied again.
  const worker = keda?.find(
    (object) => object.kind === 'Deployment' && object.metadata?.name === 'lensmill-worker',
  );
  expect(scaled?.spec?.scaleTargetRef.name).toBe(worker?.metadata?.name);
  expect(worker?.kind === 'Deployment' && worker.spec).not.toHaveProperty('replicas');
});

test('each pod reaches what it needs, and nothing else', () => {
  const objects = [...(keda ?? []), ...(monitoring ?? [])];
  const [worker, api, job] = ['worker', 'api', 'job'].map((component) => ({
    pod: podOf(objects, component),
  }));
  if (!worker || !api || !job) throw new Error('three components, three pods');
  const redis = { pod: podOf(objects, undefined) };
  const web = { address: '93.184.215.14' };
  const dns = { namespace: 'kube-system' };
  for (const ours of [worker, api, job]) {
    expect(reaches(objects, ours, redis, 6379)).toBe(true);
    expect(reaches(objects, ours, web, 443)).toBe(true);
    expect(reaches(objects, ours, { address: '2606:4700::1' }, 443)).toBe(true);
    expect(reaches(objects, ours, web, 22)).toBe(false);
    for (const address of ['169.254.169.254', 'fd00:ec2::254', 'fe80::1'])
      expect(reaches(objects, ours, { address }, 80)).toBe(false);
    expect(reaches(objects, redis, ours, 9464)).toBe(false);
    expect(reaches(objects, ours, worker, 9464)).toBe(false);
    expect(reaches(objects, { namespace: 'other' }, ours, 9464)).toBe(false);
  }
  for (const any of [worker, api, job, redis]) {
    expect(reaches(objects, any, dns, 53)).toBe(true);
    expect(reaches(objects, any, dns, 443)).toBe(false);
  }
  expect(reaches(objects, redis, web, 443)).toBe(false);
  expect(reaches(objects, { namespace: 'other' }, redis, 6379)).toBe(false);
  expect(reaches(objects, { namespace: 'other' }, api, 8152)).toBe(true);
  expect(reaches(objects, { namespace: 'keda' }, api, 9464)).toBe(true);
  expect(reaches(objects, { namespace: 'keda' }, worker, 9464)).toBe(false);
  for (const scraped of [worker, api])
    expect(reaches(objects, { namespace: 'monitoring' }, scraped, 9464)).toBe(true);
});

test('the commands of lensmill that the page has people run are commands of lensmill', async () => {
  const typed = blocks('console').flatMap((block) => [
    ...block.matchAll(/(?:run\.sh|-- lensmill) (.*?)(?: {2,}#.*)?$/gm),
  ]);
  expect(typed.length).toBeGreaterThan(4);
  for (const [, line = ''] of typed) await expect(parseCommand(line.split(' '))).resolves.toBeDefined();
});

/** The pod of lensmill's component; without one, that of Redis. */
function podOf(objects: readonly Manifest[] | undefined, component: string | undefined): IPodTemplateSpec {
  const all = (objects ?? []).flatMap((object) => podsOf(object) ?? []);
  const pod = all.find((one) => labelsOf(one)['app.kubernetes.io/component'] === component);
  if (!pod) throw new Error(`no pod of ${component}`);
  return pod;
}
