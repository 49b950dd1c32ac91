/**
 * The port that an orchestrator looks at, apart from everything that users see:
 *   /healthz   503 where only another process helps: restart us
 *   /readyz    503 where no work should be expected of us now
 *   /metrics   for Prometheus
 * It has no token and tells nothing worth one: counts, names of devices and models. It stands for itself, so that no plug-in of the
 * other server slows it down or refuses it.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { messageOf } from '../src/errors.ts';
import type { Logger } from '../src/telemetry/log.ts';
import { explainListening, shownHost } from '../src/web/listening.ts';

export interface Health {
  /** Why this process should be replaced, a sentence each; none where it is well. */
  ailments(): string[];
  /** Why it is not ready. */
  obstacles(): string[];
  /** What else /readyz tells; goes into its JSON. */
  describe?(): Record<string, unknown>;
  /** As Prometheus reads it. Without it, there is no /metrics. */
  metrics?: (() => Promise<{ contentType: string; body: string }>) | undefined;
}

export interface HealthServer {
  /** 'http://127.0.0.1:9464' */
  readonly url: string;
  /** Safe to call twice. */
  close(): Promise<void>;
}

/** A probe's request has no body and few headers: who needs longer keeps a connection from others. */
const requestMs = 5_000;
/** Of a connection on which nothing moves: Prometheus comes back after 15 or 30 s. */
const idleMs = 60_000;
const mostConnections = 256;

/** Listens when it resolves. Throws ConfigError 'port-in-use', 'port-refused' and 'no-such-address'. */
export async function openHealth(
  health: Health,
  { host, port, log }: { host: string; port: number; log: Logger },
): Promise<HealthServer> {
  const server = createServer(
    {
      headersTimeout: requestMs,
      requestTimeout: requestMs,
      connectionsCheckingInterval: requestMs,
      keepAliveTimeout: idleMs,
    },
    (request, response) => {
      answer(health, request, response).catch((error) => {
        log.error({ err: error, url: request.url }, 'health request failed');
        if (response.headersSent) response.destroy();
        else sendJson(request, response, 500, { status: 'failed', reasons: [messageOf(error)] });
      });
    },
  );
  server.maxConnections = mostConnections;
  server.setTimeout(idleMs);
  await listen(server, host, port);
  const { port: bound } = server.address() as AddressInfo; // it listens at a port
  const url = `http://${shownHost(host)}:${bound}`;
  log.info({ url }, 'health and metrics are served');
  return {
    url,
    async close() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  server.listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (error) {
    throw explainListening(error, { host, port, flag: '--metrics-port' });
  }
}

async function answer(health: Health, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method = '', url = '' } = request;
  const path = url.split('?', 1)[0] ?? '';
  const handlers: Record<string, (() => Promise<void> | void) | undefined> = {
    '/healthz': () => sendReasons(health.ailments(), ['well', 'failing']),
    '/readyz': () => sendReasons(health.obstacles(), ['ready', 'not ready'], health.describe?.()),
    '/metrics': health.metrics && sendMetrics,
  };
  const handle = Object.hasOwn(handlers, path) ? handlers[path] : undefined;
  if (!handle) {
    const paths = Object.keys(handlers).filter((known) => handlers[known]);
    return sendJson(request, response, 404, { status: 'failed', reasons: [`there is no ${path}`], paths });
  }
  if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return sendJson(request, response, 405, { status: 'failed', reasons: [`${path} is for GET`] });
  }
  await handle();

  function sendReasons(reasons: string[], [good, bad]: readonly [string, string], more = {}): void {
    const isGood = reasons.length === 0;
    sendJson(request, response, isGood ? 200 : 503, { status: isGood ? good : bad, reasons, ...more });
  }

  async function sendMetrics(): Promise<void> {
    const { contentType, body } = (await health.metrics?.()) ?? { contentType: 'text/plain', body: '' };
    send(request, response, 200, contentType, body);
  }
}

function sendJson(request: IncomingMessage, response: ServerResponse, status: number, value: object): void {
  send(request, response, status, 'application/json', `${JSON.stringify(value)}\n`);
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  type: string,
  body: string,
): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}
