/** An HTTP proxy before a real S3 server that makes a share of all requests go wrong, in every way that a network knows. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * refuse: 503, and the server never hears of it. fail: 500, the same. cut: the connection breaks before the server hears.
 * lose: the server does what it was asked, and its reply is lost. truncate: half of the reply's body, then the connection
 * breaks. stall: half of the body, then nothing, until the client gives up. slow: a few kB a second for a while.
 */
export const faults = ['refuse', 'fail', 'cut', 'lose', 'truncate', 'stall', 'slow'] as const;
export type Fault = (typeof faults)[number];

export interface FaultProxy {
  endpoint: string;
  requests(): number;
  /** How often each fault struck. */
  counts(): Record<Fault, number>;
  /** PUTs that the server carried out and whose reply was lost. */
  lostCommits(): number;
  /** From now on: 0 is a good network. */
  setRate(rate: number): void;
  close(): void;
}

export interface FaultProxyOptions {
  /** Share of requests that go wrong, 0 to 1. */
  rate: number;
  random(): number;
  host?: string;
  /** Called before the request goes on, or wrong. */
  onRequest?(method: string, path: string): void;
}

/** Requests pass unchanged, signed host name included. */
export async function startFaultProxy(target: string, options: FaultProxyOptions): Promise<FaultProxy> {
  const { random, host = '127.0.0.1', onRequest } = options;
  const { hostname, port } = new URL(target);
  const counts: Record<Fault, number> = {
    refuse: 0,
    fail: 0,
    cut: 0,
    lose: 0,
    truncate: 0,
    stall: 0,
    slow: 0,
  };
  let { rate } = options;
  let requests = 0;
  let lostCommits = 0;

  const drawFault = (): Fault | undefined => {
    const fault = random() < rate ? faults[Math.floor(random() * faults.length)] : undefined;
    if (fault) counts[fault] += 1;
    return fault;
  };

  const server = createServer((incoming, outgoing) => {
    requests += 1;
    onRequest?.(incoming.method ?? '', incoming.url ?? '');
    const fault = drawFault();
    if (fault === 'cut') {
      incoming.socket.destroy();
      return;
    }
    if (fault === 'refuse' || fault === 'fail') {
      incoming.resume().on('end', () => outgoing.writeHead(fault === 'refuse' ? 503 : 500).end());
      return;
    }
    const { method, headers, url: path } = incoming;
    const upstream = request({ hostname, port, method, headers, path }, (reply) => {
      if (fault === 'lose' && method === 'PUT' && reply.statusCode === 200) lostCommits += 1;
      relay(reply, outgoing, fault).catch(() => outgoing.destroy());
    });
    upstream.on('error', () => outgoing.destroy());
    incoming.on('error', () => upstream.destroy());
    incoming.pipe(upstream);
  });
  server.listen(0, host);
  await once(server, 'listening');
  return {
    endpoint: `http://${host}:${(server.address() as AddressInfo).port}`, // it listens on TCP
    requests: () => requests,
    counts: () => ({ ...counts }),
    lostCommits: () => lostCommits,
    setRate(to) {
      rate = to;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function relay(
  reply: IncomingMessage,
  outgoing: ServerResponse,
  fault: Fault | undefined,
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of reply) chunks.push(chunk as Buffer); // no encoding is set
  const body = Buffer.concat(chunks);
  if (fault === 'lose') {
    outgoing.destroy();
    return;
  }
  outgoing.writeHead(reply.statusCode ?? 0, reply.headers);
  // A reply without a body can only be lost whole or come late.
  const half = body.subarray(0, body.length / 2);
  if (fault === 'truncate') {
    if (half.length === 0) outgoing.destroy();
    else outgoing.write(half, () => outgoing.destroy());
  } else if (fault === 'stall') {
    if (half.length > 0) outgoing.write(half);
    else outgoing.flushHeaders();
    if (body.length === 0) outgoing.destroy();
  } else if (fault === 'slow') {
    await writeSlowly(outgoing, body);
  } else {
    outgoing.end(body);
  }
}

/** 4 kB/s for two seconds, then the rest at once. */
async function writeSlowly(outgoing: ServerResponse, body: Buffer): Promise<void> {
  const pieceBytes = 400;
  const pieces = 20;
  for (let n = 0; n < pieces && n * pieceBytes < body.length && !outgoing.destroyed; n++) {
    outgoing.write(body.subarray(n * pieceBytes, (n + 1) * pieceBytes));
    await sleep(100);
  }
  outgoing.end(body.subarray(pieces * pieceBytes));
}
