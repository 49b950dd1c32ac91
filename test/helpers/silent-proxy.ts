/** A proxy whose connections can go silent without an end, as when a router forgets them or the other machine has lost power. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface SilentProxy {
  /** `host:port`. */
  address: string;
  /** All connections there are say nothing from now on, both ways, and stay open; new ones work. */
  silence(): void;
  close(): void;
}

/** `target`: a Unix socket's path. */
export async function startSilentProxy(target: string): Promise<SilentProxy> {
  const pairs = new Set<readonly [Socket, Socket]>();
  const server = createServer((near) => {
    const far = connect(target);
    pairs.add([near, far]);
    near.pipe(far);
    far.pipe(near);
    for (const end of [near, far]) end.on('error', () => [near, far].map((one) => one.destroy()));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`, // it listens on TCP
    silence() {
      for (const [near, far] of pairs) {
        near.unpipe(far).pause();
        far.unpipe(near).pause();
      }
    },
    close() {
      server.close();
      for (const pair of pairs) for (const end of pair) end.destroy();
    },
  };
}
