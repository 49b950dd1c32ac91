/** docs/kubernetes.md, typed: what it has people create is created by the real kubectl, as far as that goes without a cluster. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { isDeepStrictEqual } from 'node:util';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { parseRedisAddress } from '../src/redis/address.ts';
import { type Manifest, openKubectl, parseManifests, podsOf, schemaErrors } from './helpers/kubernetes.ts';
import {
  blocks,
  blockWith,
  createdBy,
  documentedSecrets,
  page,
  root,
  writeOverlays,
} from './helpers/kubernetes-docs.ts';
import { startKubernetes } from './helpers/kubernetes-server.ts';
import { tempFolder } from './helpers/temp.ts';

const kubectl = await openKubectl(tempFolder());
const secrets = await documentedSecrets(kubectl);
const keda = await kubectl.build(join(root, 'deploy/kubernetes/overlays/keda'));

test('run.sh makes a Job of any command, with the settings, secrets and image of what is deployed', async () => {
  const kubernetes = await startKubernetes(keda);
  const folder = tempFolder();
  writeFileSync(join(folder, 'config'), kubernetes.config);
  const run = (args: readonly string[]) =>
    execa(join(root, 'deploy/kubernetes/run.sh'), args, {
      env: { PATH: `${dirname(kubectl.path)}:${process.env.PATH}`, KUBECONFIG: join(folder, 'config') },
    });
  try {
    const args = ['enqueue', 's3://photos/a "b" \\c/', '--since', 'latest'];
    const { stdout } = await run(args);
    await run(['verify', 'RUN']);
    const [enqueue, verify] = kubernetes.created;
    expect(stdout).toContain(
      `kubectl logs --namespace lensmill --follow job/${enqueue?.object.metadata?.name}`,
    );
    expect(enqueue?.path).toBe('/apis/batch/v1/namespaces/lensmill/jobs');
    for (const { object } of kubernetes.created) expect(await schemaErrors(object)).toEqual([]);
    const pods = kubernetes.created.map(({ object }) => podsOf(object) ?? { spec: { containers: [] } });
    expect(pods.map(({ spec }) => spec?.containers[0]?.args)).toEqual([args, ['verify', 'RUN']]);
    const templates = keda.filter(({ kind }) => kind === 'CronJob').map(podsOf);
    for (const { spec } of pods) {
      const [container] = spec?.containers ?? [];
      const [asDeployed] = templates.flatMap((pod) => pod?.spec?.containers ?? []);
      expect(container?.image).toBe(asDeployed?.image);
      expect(container?.envFrom).toEqual(asDeployed?.envFrom);
    }
    // Each from its own template: one has 8 GiB for an output that is read whole.
    expect(verify?.object.metadata?.ownerReferences?.[0]?.name).toBe('lensmill-build-index');
    expect(enqueue?.object.metadata?.ownerReferences?.[0]?.name).toBe('lensmill-enqueue');
    const { exitCode } = await execa(join(root, 'deploy/kubernetes/run.sh'), { reject: false });
    expect(exitCode).toBe(2);
  } finally {
    await kubernetes.close();
  }
});

test('each change of an overlay that the page shows takes effect, and what it makes is valid', async () => {
  const fragments = blocks('yaml').filter((block) => block.startsWith('patches:'));
  expect(fragments.length).toBeGreaterThan(3);
  const unchanged = await kubectl.build(writeOverlays(tempFolder()).site);
  for (const fragment of fragments) {
    const objects = await kubectl.build(writeOverlays(tempFolder(), fragment).site);
    const changed = objects.filter((object, at) => !isDeepStrictEqual(object, unchanged[at]));
    expect(changed).not.toEqual([]);
    for (const object of changed) expect(await schemaErrors(object)).toEqual([]);
  }
});

test('the other objects that the page shows are valid, and lead to what is there', async () => {
  const shown = blocks('yaml').filter(
    (block) => block.startsWith('apiVersion') && !block.includes('Kustomization'),
  );
  const objects = shown.flatMap(parseManifests);
  expect(objects.map(({ kind }) => kind)).toEqual(['ScaledObject', 'TriggerAuthentication', 'Ingress']);
  for (const object of objects) {
    expect(await schemaErrors(object)).toEqual([]);
    if (object.kind === 'Ingress') {
      const { service } = object.spec?.rules?.[0]?.http?.paths[0]?.backend ?? {};
      const named = keda.find(({ kind, metadata }) => kind === 'Service' && metadata?.name === service?.name);
      expect(named?.kind === 'Service' && named.spec?.ports?.map(({ name }) => name)).toContain(
        service?.port?.name,
      );
    }
    if (object.kind === 'TriggerAuthentication') {
      const block = blockWith('console', 'generic lensmill-keda');
      const [secret] = await createdBy(kubectl, block, { env: { keda_password: 'a-password' } });
      for (const { name, key } of object.spec.secretTargetRef ?? []) {
        expect(name).toBe(secret?.metadata?.name);
        expect(secret?.kind === 'Secret' && secret.data).toHaveProperty(key);
      }
    }
  }
});

test("the users of the cluster's Redis are the page's on Redis, a probe, and nobody else", () => {
  const users = readFileSync(join(root, 'deploy/kubernetes/components/redis/users.acl'), 'utf8')
    .trim()
    .split('\n');
  const [, documented = ''] =
    /^(user lensmill (?:.*\\\n)*.*)$/m.exec(readFileSync(join(root, 'docs/redis.md'), 'utf8')) ?? [];
  expect(users).toEqual([
    'user default off',
    documented.replaceAll(/\s*\\\n\s*/g, ' '),
    'user probe on nopass resetchannels +ping',
  ]);
});

test('the address of a Redis elsewhere names the certificate where pods have it', async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, 'ca.crt'), 'a certificate');
  const block = blockWith('console', '--from-file=ca.crt');
  const [secret] = await createdBy(kubectl, block, { cwd: folder, env: { password: 'a-password' } });
  const data = secret?.kind === 'Secret' ? (secret.data ?? {}) : {};
  const address = parseRedisAddress(Buffer.from(data.url ?? '', 'base64').toString());
  const objects = await kubectl.build(writeOverlays(tempFolder()).elsewhere);
  for (const pod of objects.flatMap((object) => podsOf(object) ?? [])) {
    const volume = pod.spec?.volumes?.find((one) => one.secret?.secretName === secret?.metadata?.name);
    const mount = pod.spec?.containers[0]?.volumeMounts?.find(({ name }) => name === volume?.name);
    const [file = ''] = Object.keys(data).filter((key) => key !== 'url');
    expect(address).toMatchObject({
      kind: 'server',
      login: { username: 'lensmill', password: 'a-password' },
      tls: { ca: join(mount?.mountPath ?? '', file) },
    });
  }
});

test('the alerts become a PrometheusRule, and the dashboard a ConfigMap, by the commands of the page', async () => {
  const [rule] = await createdBy(kubectl, blockWith('console', 'PrometheusRule'));
  if (rule?.kind !== 'PrometheusRule') throw new Error('expected a PrometheusRule');
  expect(await schemaErrors(rule)).toEqual([]);
  const { groups } = parse(readFileSync(join(root, 'deploy/prometheus/alerts.yml'), 'utf8'));
  expect(rule.spec.groups).toEqual(groups);
  const [dashboard] = await createdBy(kubectl, blockWith('console', 'create configmap'));
  if (dashboard?.kind !== 'ConfigMap') throw new Error('expected a ConfigMap');
  expect(JSON.parse(dashboard.data?.['lensmill.json'] ?? '')).toHaveProperty('panels');
});

test('the page tells what each pod has', async () => {
  const cpu = await kubectl.build(join(root, 'deploy/kubernetes/overlays/cpu'));
  const rowOf = (
    name: string,
    objects: readonly Manifest[],
    kind: Manifest['kind'],
    object: string,
  ): string => {
    const found = objects.find((one) => one.kind === kind && one.metadata?.name === `lensmill-${object}`);
    const { requests, limits } = (found && podsOf(found))?.spec?.containers[0]?.resources ?? {};
    const cores = (cpu: unknown): string => {
      const count = String(cpu).endsWith('m') ? Number.parseInt(String(cpu), 10) / 1000 : Number(cpu);
      return `${count} ${count === 1 ? 'core' : 'cores'}`;
    };
    const amounts = [requests, limits].map((amount) => {
      const { cpu: count, memory } = amount ?? {};
      const gpu = limits?.['nvidia.com/gpu'] === undefined ? '' : `, ${limits['nvidia.com/gpu']} GPU`;
      return `${cores(count)}, ${String(memory).replace(/([MG]i)$/, ' $1B')}${gpu}`;
    });
    return `| ${name} | ${amounts.join(' | ')} |`;
  };
  for (const row of [
    rowOf('worker, CPU', cpu, 'Deployment', 'worker'),
    rowOf('worker, GPU', keda, 'Deployment', 'worker'),
    rowOf('API, two', keda, 'Deployment', 'api'),
    rowOf('`enqueue`', keda, 'CronJob', 'enqueue'),
    rowOf('`build-index`, `verify`', keda, 'CronJob', 'build-index'),
    rowOf('Redis', keda, 'StatefulSet', 'redis'),
  ])
    expect(page).toContain(row);
});

test('the secret of the store is a file of the AWS SDK, and without it the SDK goes on to what the cloud mounts', async () => {
  const folder = tempFolder();
  const credentials = secrets.get('lensmill-s3')?.credentials ?? '';
  writeFileSync(join(folder, 'credentials'), credentials);
  writeFileSync(join(folder, 'token'), 'a token of EKS');
  const asked: URLSearchParams[] = [];
  const sts = createServer(async (request, response) => {
    asked.push(new URLSearchParams(await text(request)));
    response.end(assumedRole);
  }).listen(0, '127.0.0.1');
  await once(sts, 'listening');
  const { port } = sts.address() as AddressInfo; // it listens at a port
  /** In a process of its own: the SDK keeps what it once read of a file. */
  const keyOf = async (env: Record<string, string>): Promise<string> => {
    const script = `
      const { findS3Server } = await import(${JSON.stringify(join(root, 'src/s3/client.ts'))});
      const server = findS3Server({ requestTimeoutMs: 5000, connectionTimeoutMs: 5000, maxSockets: 1, maxAttempts: 1 });
      const client = await server.openClient();
      process.stdout.write((await client.config.credentials()).accessKeyId);`;
    const { PATH = '' } = process.env;
    const options = { env: { PATH, AWS_REGION: 'us-east-1', ...env }, extendEnv: false };
    return (await execa(process.execPath, ['--input-type=module', '--eval', script], options)).stdout;
  };
  try {
    expect(await keyOf({ AWS_SHARED_CREDENTIALS_FILE: join(folder, 'credentials') })).toBe('AKIA…');
    const byRole = {
      AWS_SHARED_CREDENTIALS_FILE: join(folder, 'not-mounted'),
      AWS_ROLE_ARN: 'arn:aws:iam::111122223333:role/lensmill',
      AWS_WEB_IDENTITY_TOKEN_FILE: join(folder, 'token'),
      AWS_ENDPOINT_URL_STS: `http://127.0.0.1:${port}`,
    };
    expect(await keyOf(byRole)).toBe('ASIAROLE');
    expect(asked.map((one) => [one.get('RoleArn'), one.get('WebIdentityToken')])).toEqual([
      [byRole.AWS_ROLE_ARN, 'a token of EKS'],
    ]);
  } finally {
    sts.close();
    sts.closeAllConnections();
  }
});

/** What AWS answers to AssumeRoleWithWebIdentity. */
const assumedRole = `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken>
    <Expiration>2099-01-01T00:00:00Z</Expiration>
  </Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>`;
