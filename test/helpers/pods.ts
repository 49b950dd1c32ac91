/** What a pod is: who selects it, whom it reaches, what it may do, and with which settings it starts what. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { BlockList, isIPv6 } from 'node:net';
import { dirname, join } from 'node:path';
import { Command, Option } from 'commander';
import type { INetworkPolicyPeer, INetworkPolicyPort } from 'kubernetes-models/networking.k8s.io/v1';
import type { IContainer, IPodTemplateSpec } from 'kubernetes-models/v1';
import { addCommands } from '../../src/cli/commands.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { type Settings, settingNames, settingsTable } from '../../src/settings/table.ts';
import type { Manifest } from './kubernetes.ts';
import { tempFolder } from './temp.ts';

type Labels = Record<string, string>;
type Selector = NonNullable<INetworkPolicyPeer['podSelector']>;

export function labelsOf(pod: IPodTemplateSpec): Labels {
  return pod.metadata?.labels ?? {};
}

/** As Kubernetes selects: all that is asked for holds; what asks for nothing selects all. */
export function selects({ matchLabels = {}, matchExpressions = [] }: Selector, labels: Labels): boolean {
  const isIn = (key: string, values: readonly string[] = []): boolean => values.includes(labels[key] ?? '');
  return (
    Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
    matchExpressions.every(({ key, operator, values }) => {
      if (operator !== 'In') throw new Error(`${operator} is not used here yet`);
      return isIn(key, values);
    })
  );
}

/** The pods that an object is about. */
export function selectorOf(object: Manifest): Selector | undefined {
  if (object.kind === 'Service') return { matchLabels: object.spec?.selector ?? {} };
  if (object.kind === 'NetworkPolicy') return object.spec?.podSelector ?? {};
  if (object.kind === 'Deployment' || object.kind === 'StatefulSet') return object.spec?.selector;
  if (object.kind === 'PodDisruptionBudget' || object.kind === 'PodMonitor') return object.spec?.selector;
  return undefined;
}

/** The ports that an object names of the pods that it selects. */
export function portNamesOf(object: Manifest): unknown[] {
  if (object.kind === 'Service') return (object.spec?.ports ?? []).map(({ targetPort }) => targetPort);
  if (object.kind === 'NetworkPolicy')
    return (object.spec?.ingress ?? []).flatMap(({ ports = [] }) => ports.map(({ port }) => port));
  if (object.kind === 'PodMonitor') return (object.spec.podMetricsEndpoints ?? []).map(({ port }) => port);
  return [];
}

/** Where something may be reached, or come from: a pod of ours, a pod of another namespace, an address outside. */
export type Place = { pod: IPodTemplateSpec } | { namespace: string } | { address: string };

/** Whether the policies of the objects let `from` reach a port of `to`. Both sides must: the one lets out, the other in. */
export function reaches(objects: readonly Manifest[], from: Place, to: Place, port: number): boolean {
  const policies = objects.filter((object) => object.kind === 'NetworkPolicy');
  const allows = (place: Place, direction: 'Ingress' | 'Egress', other: Place): boolean => {
    if (!('pod' in place)) return true;
    const ofPlace = policies.filter(
      ({ spec }) =>
        spec?.policyTypes?.includes(direction) && selects(spec.podSelector ?? {}, labelsOf(place.pod)),
    );
    const rules = ofPlace.flatMap(({ spec }) =>
      direction === 'Ingress'
        ? (spec?.ingress ?? []).map(({ from: peers, ports }) => ({ peers, ports }))
        : (spec?.egress ?? []).map(({ to: peers, ports }) => ({ peers, ports })),
    );
    const opens = ({
      peers,
      ports,
    }: {
      peers: INetworkPolicyPeer[] | undefined;
      ports: INetworkPolicyPort[] | undefined;
    }): boolean =>
      (!peers || peers.some((peer) => isPeer(peer, other))) &&
      (!ports || ports.some((one) => isPort(one.port, port, to)));
    return ofPlace.length === 0 || rules.some(opens);
  };
  return allows(from, 'Egress', to) && allows(to, 'Ingress', from);
}

function isPeer({ ipBlock, namespaceSelector, podSelector }: INetworkPolicyPeer, place: Place): boolean {
  if ('pod' in place) return !namespaceSelector && !!podSelector && selects(podSelector, labelsOf(place.pod));
  if ('namespace' in place)
    return (
      !!namespaceSelector && selects(namespaceSelector, { 'kubernetes.io/metadata.name': place.namespace })
    );
  return (
    !!ipBlock &&
    holds(ipBlock.cidr, place.address) &&
    !ipBlock.except?.some((one) => holds(one, place.address))
  );
}

function isPort(wanted: unknown, port: number, to: Place): boolean {
  if (typeof wanted === 'number' || !('pod' in to)) return wanted === port;
  return containersOf(to.pod).some(({ ports = [] }) =>
    ports.some(({ name, containerPort }) => name === wanted && containerPort === port),
  );
}

function holds(cidr: string, address: string): boolean {
  const [network = '', bits] = cidr.split('/');
  const block = new BlockList();
  block.addSubnet(network, Number(bits), isIPv6(network) ? 'ipv6' : 'ipv4');
  return isIPv6(network) === isIPv6(address) && block.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}

export function containersOf({ spec }: IPodTemplateSpec): IContainer[] {
  return [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])];
}

/**
 * What of a pod the restricted Pod Security Standard does not let in:
 * https://kubernetes.io/docs/concepts/security/pod-security-standards/
 */
export function breaches(pod: IPodTemplateSpec): string[] {
  const spec = pod.spec ?? { containers: [] };
  const sources = [
    'configMap',
    'csi',
    'downwardAPI',
    'emptyDir',
    'ephemeral',
    'persistentVolumeClaim',
    'projected',
    'secret',
  ];
  const found: [breach: unknown, what: string][] = [
    [spec.hostNetwork || spec.hostPID || spec.hostIPC, 'a namespace of the host'],
    [spec.securityContext?.sysctls?.length, 'sysctls'],
    ...(spec.volumes ?? []).map(({ name, ...source }): [unknown, string] => [
      !Object.keys(source).every((key) => sources.includes(key)),
      `volume ${name} of a forbidden kind`,
    ]),
  ];
  for (const { name, ports = [], securityContext: own = {} } of containersOf(pod)) {
    const context = { ...spec.securityContext, ...own };
    found.push(
      [context.privileged, `${name} is privileged`],
      [context.allowPrivilegeEscalation !== false, `${name} may gain privileges`],
      [context.runAsNonRoot !== true || context.runAsUser === 0, `${name} may be root`],
      [context.seccompProfile?.type !== 'RuntimeDefault', `${name} has no seccomp profile`],
      [!context.capabilities?.drop?.includes('ALL') || context.capabilities.add, `${name} has capabilities`],
      [context.procMount && context.procMount !== 'Default', `${name} sees more of /proc`],
      [ports.some(({ hostPort }) => hostPort), `${name} has a port of the host`],
      // Beyond the standard.
      [context.readOnlyRootFilesystem !== true, `${name} may write where no volume is`],
    );
  }
  return found.filter(([breach]) => breach).map(([, what]) => what);
}

/**
 * The command that a pod's container starts, and the settings that this takes from its flags and variables; secrets are as in
 * `secrets`, by name and key. Throws on a command, flag or variable that lensmill does not have, and on a value that it refuses.
 */
export async function startOf(
  pod: IPodTemplateSpec,
  objects: readonly Manifest[],
  secrets: ReadonlyMap<string, Record<string, string>>,
): Promise<{ command: string; settings: Settings }> {
  const { args = [] } = pod.spec?.containers[0] ?? {};
  const command = await parseCommand(args);
  const flags: Record<string, unknown> = command.opts();
  const chosen = settingNames.map((name) => [
    name,
    flags[new Option(settingsTable[name].flag).attributeName()],
  ]);
  const env = environmentOf(pod, objects, secrets);
  return { command: command.name(), settings: resolveSettings(Object.fromEntries(chosen), env, {}).values };
}

/** As `lensmill` takes a command line, without doing what it says. Throws where it does not take it. */
export async function parseCommand([name = '', ...args]: readonly string[]): Promise<Command> {
  const program = new Command();
  await addCommands(program, name);
  const command = program.commands.find((one) => one.name() === name);
  if (!command) throw new Error(`lensmill has no command '${name}'`);
  const { operands, unknown } = command.parseOptions(args);
  if (unknown.length > 0) throw new Error(`lensmill ${name} does not take ${unknown.join(' ')}`);
  const { registeredArguments: taken } = command;
  const least = taken.filter(({ required }) => required).length;
  const most = taken.some(({ variadic }) => variadic) ? Number.POSITIVE_INFINITY : taken.length;
  if (operands.length < least || operands.length > most)
    throw new Error(`lensmill ${name} does not take ${operands.length} arguments`);
  return command;
}

/** As the container has it. Paths of secrets lead to files, as they would be mounted. */
function environmentOf(
  pod: IPodTemplateSpec,
  objects: readonly Manifest[],
  secrets: ReadonlyMap<string, Record<string, string>>,
): Record<string, string> {
  const [container] = pod.spec?.containers ?? [];
  const folder = tempFolder();
  for (const { name, mountPath } of container?.volumeMounts ?? []) {
    const secret = pod.spec?.volumes?.find((volume) => volume.name === name)?.secret;
    for (const [key, value] of Object.entries(secrets.get(secret?.secretName ?? '') ?? {})) {
      const path = join(folder, mountPath, key);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, value);
    }
  }
  const env: Record<string, string> = {};
  for (const { configMapRef } of container?.envFrom ?? []) {
    for (const object of objects)
      if (object.kind === 'ConfigMap' && object.metadata?.name === configMapRef?.name)
        Object.assign(env, object.data);
  }
  for (const { name, value = '' } of container?.env ?? [])
    env[name] = name.endsWith('_FILE') ? join(folder, value) : value;
  const known = settingNames.flatMap((name) => [settingsTable[name].env, `${settingsTable[name].env}_FILE`]);
  // The AWS SDK's own.
  known.push('AWS_SHARED_CREDENTIALS_FILE');
  for (const name of Object.keys(env)) if (!known.includes(name)) throw new Error(`nobody reads ${name}`);
  return env;
}
