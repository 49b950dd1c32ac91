/** A real HTTP server on this machine, for what reads the web. */
import { once } from 'node:events';
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { afterEach } from 'vitest';

export interface WebServer {
  /** 'http://127.0.0.1:PORT', or https. */
  url: string;
  /** '127.0.0.1:PORT', for `allowHosts`. */
  host: string;
  /** Of every request so far, with when it came (`Date.now()`). */
  requests: { method: string; path: string; headers: IncomingHttpHeaders; at: number }[];
  /** Requests whose answer is not over. */
  open: number;
  /** The most that were open at once. */
  peak: number;
  connections: number;
}

const closes: (() => void)[] = [];
afterEach(() => {
  for (const close of closes.splice(0)) close();
});

/** Closed after the test that asked for it. With `tls`, it speaks HTTPS. */
export async function serveWeb(
  answer: (request: IncomingMessage, reply: ServerResponse) => unknown,
  tls?: { key: string; cert: string },
): Promise<WebServer> {
  const listener: RequestListener = (request, reply) => {
    const { method = '', url = '', headers } = request;
    served.requests.push({ method, path: url, headers, at: Date.now() });
    served.peak = Math.max(served.peak, ++served.open);
    reply.on('close', () => served.open--);
    answer(request, reply);
  };
  const server = tls ? createSecureServer(tls, listener) : createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const served: WebServer = {
    url: `${tls ? 'https' : 'http'}://${host}`,
    host,
    requests: [],
    open: 0,
    peak: 0,
    connections: 0,
  };
  server.on('connection', () => served.connections++);
  closes.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return served;
}
