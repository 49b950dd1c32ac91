/** An HTTP proxy before a real S3 server, which spoils some of the server's replies. */
import { once } from 'node:events';
import {
  type ClientRequest,
  createServer,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * drop: the server does what it was asked, and its reply is lost. truncate: half of the body, then the connection
 * breaks. stall: half of the body, then nothing. A number: this status, without a body, in place of the reply.
 */
export type Spoil = 'drop' | 'truncate' | 'stall' | number | undefined;

export interface SpoilingProxy {
  endpoint: string;
  /** 'METHOD /path' of every request so far. */
  requests: string[];
  close(): Promise<void>;
}

/** `spoil` is asked for each reply; requests pass unchanged, signed host name included. */
export async function startProxy(
  target: string,
  spoil: (request: IncomingMessage, status: number) => Spoil,
): Promise<SpoilingProxy> {
  const requests: string[] = [];
  const server = createServer((incoming, outgoing) => {
    requests.push(`${incoming.method} ${incoming.url}`);
    const { hostname, port } = new URL(target);
    const { method, headers, url: path } = incoming;
    const upstream: ClientRequest = request({ hostname, port, method, headers, path }, (reply) => {
      relay(reply, outgoing, spoil(incoming, reply.statusCode ?? 0)).catch(() => outgoing.destroy());
    });
    upstream.on('error', () => outgoing.destroy());
    incoming.pipe(upstream);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    close: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function relay(reply: IncomingMessage, outgoing: ServerResponse, spoil: Spoil): Promise<void> {
  const body = Buffer.concat(await Array.fromAsync(reply as AsyncIterable<Buffer>));
  if (spoil === 'drop') {
    outgoing.destroy();
  } else if (typeof spoil === 'number') {
    outgoing.writeHead(spoil).end();
  } else if (spoil === undefined) {
    outgoing.writeHead(reply.statusCode ?? 0, reply.headers).end(body);
  } else {
    outgoing.writeHead(reply.statusCode ?? 0, reply.headers);
    outgoing.write(body.subarray(0, body.length / 2), () => {
      if (spoil === 'truncate') outgoing.destroy();
    });
  }
}
