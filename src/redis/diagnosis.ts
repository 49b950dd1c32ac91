/**
 * Why no connection can be had, where ioredis does not say: of a Sentinel or a Cluster it tells only that the connection is
 * closed, and a server that speaks no TLS, spoken to in TLS, does not answer at all. So each node is asked once more, by a
 * socket of our own.
 */
import { connect as connectPlain, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import type { RedisAddress, RedisNode } from './address.ts';

/** What a socket met, for explainRedisError. */
export class RedisSpeaks extends Error {
  override name = 'RedisSpeaks';
  readonly tls: boolean;

  constructor(tls: boolean) {
    super(tls ? 'it speaks TLS' : 'it speaks no TLS');
    this.tls = tls;
  }
}

const patienceMs = 1_000;

/** The first trouble that one of the nodes has; `undefined` where a socket meets none. */
export async function diagnose(address: RedisAddress, tls: ConnectionOptions | undefined): Promise<unknown> {
  const troubles = await Promise.all(nodesOf(address).map((node) => troubleOf(node, tls)));
  return troubles.find((trouble) => trouble instanceof RedisSpeaks) ?? troubles.find(Boolean);
}

function nodesOf(address: RedisAddress): readonly RedisNode[] {
  switch (address.kind) {
    case 'socket':
      return [];
    case 'server':
      return [address.node];
    case 'sentinel':
      return address.sentinels;
    case 'cluster':
      return address.nodes;
  }
}

async function troubleOf(node: RedisNode, tls: ConnectionOptions | undefined): Promise<unknown> {
  const trouble = await (tls ? handshake(node, tls) : ping(node));
  if (trouble === undefined) return undefined;
  // The other way round?
  const isOther = (await (tls ? ping(node) : handshake(node, { rejectUnauthorized: false }))) === undefined;
  return isOther ? new RedisSpeaks(!tls) : trouble;
}

/** A server that wants a certificate of ours says so after the handshake: who hears nothing for a second has been taken. */
function handshake({ host, port }: RedisNode, tls: ConnectionOptions): Promise<unknown> {
  return outcomeOf(
    () => connectTls({ host, port, ...tls }),
    (socket, resolve, reject) => {
      let isSecure = false;
      socket.once('secureConnect', () => {
        isSecure = true;
        socket.write('PING\r\n');
      });
      socket.once('data', () => resolve());
      socket.setTimeout(patienceMs, () => (isSecure ? resolve() : reject(new Error('no TLS handshake'))));
    },
  );
}

/** Any line of Redis's own will do, NOAUTH too. */
function ping({ host, port }: RedisNode): Promise<unknown> {
  return outcomeOf(
    () => connectPlain({ host, port }),
    (socket, resolve, reject) => {
      socket.write('PING\r\n');
      socket.once('data', (data) => (/^[+-]/.test(String(data)) ? resolve() : reject(new Error('no Redis'))));
      socket.setTimeout(patienceMs, () => reject(new Error('timed out')));
    },
  );
}

/** What the socket met, `undefined` for nothing. */
async function outcomeOf(
  open: () => Socket,
  listen: (socket: Socket, resolve: () => void, reject: (error: unknown) => void) => void,
): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let socket: Socket | undefined;
  try {
    socket = open();
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('Connection is closed')));
    listen(socket, resolve, reject);
    await promise;
    return undefined;
  } catch (error) {
    return error;
  } finally {
    socket?.destroy();
  }
}
