/** As much of Kubernetes' API as kubectl needs to make a Job of a CronJob: discovery, reading the one, taking the other. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import type { Manifest } from './kubernetes.ts';

export interface KubernetesServer {
  /** What kubectl reads to find it. */
  config: string;
  /** What was created, and where. */
  created: { path: string; object: Manifest }[];
  close(): Promise<void>;
}

const job = { group: 'batch', version: 'v1', kind: 'Job' };
const documents: Record<string, unknown> = {
  '/api': { kind: 'APIVersions', versions: ['v1'] },
  '/api/v1': { kind: 'APIResourceList', groupVersion: 'v1', resources: [] },
  '/apis': {
    kind: 'APIGroupList',
    groups: [
      {
        name: 'batch',
        versions: [{ groupVersion: 'batch/v1', version: 'v1' }],
        preferredVersion: { groupVersion: 'batch/v1', version: 'v1' },
      },
    ],
  },
  '/apis/batch/v1': {
    kind: 'APIResourceList',
    groupVersion: 'batch/v1',
    resources: [
      { name: 'cronjobs', singularName: 'cronjob', namespaced: true, kind: 'CronJob', verbs: ['get'] },
      { name: 'jobs', singularName: 'job', namespaced: true, kind: 'Job', verbs: ['create'] },
    ],
  },
  '/openapi/v3': { paths: { 'apis/batch/v1': { serverRelativeURL: '/openapi/v3/apis/batch/v1' } } },
  // That the server finds unknown fields, so that kubectl need not.
  '/openapi/v3/apis/batch/v1': {
    openapi: '3.0.0',
    info: { title: 'Kubernetes', version: 'v1' },
    paths: {
      '/apis/batch/v1/namespaces/{namespace}/jobs/{name}': {
        patch: {
          parameters: [{ name: 'fieldValidation', in: 'query' }],
          'x-kubernetes-group-version-kind': job,
        },
      },
    },
  },
};

/** Holds these objects. */
export async function startKubernetes(objects: readonly Manifest[]): Promise<KubernetesServer> {
  const created: KubernetesServer['created'] = [];
  const server = createServer(async (request, response) => {
    const path = new URL(request.url ?? '', 'http://kubernetes').pathname;
    const send = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (request.method === 'POST') {
      const object = (await json(request)) as Manifest; // the test holds it to its schema
      created.push({ path, object });
      return send(201, object);
    }
    const asked = objects.find(
      ({ kind, metadata }) =>
        kind === 'CronJob' &&
        path === `/apis/batch/v1/namespaces/${metadata?.namespace}/cronjobs/${metadata?.name}`,
    );
    const found = documents[path] ?? asked;
    send(found ? 200 : 404, found ?? { kind: 'Status', status: 'Failure', reason: 'NotFound', code: 404 });
  });
  server.listen({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // it listens at a port
  return {
    created,
    config: JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster: { server: `http://127.0.0.1:${port}` } }],
      contexts: [{ name: 'test', context: { cluster: 'test' } }],
      'current-context': 'test',
    }),
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
