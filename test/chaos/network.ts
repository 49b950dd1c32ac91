/** A network with everything on hosts of their own: Redis, the store, a producer, and workers that are given only addresses. */
import type { S3Server } from '../helpers/servers.ts';
import { startRadosgw } from '../helpers/servers.ts';
import { type Host, type Hosts, openHosts } from './netns.ts';
import { makeS3Place, type S3Place } from './place.ts';
import { type RedisServer, startRedis } from './redis.ts';

export interface Network {
  net: Hosts;
  redis: { host: Host; server: RedisServer };
  store: { host: Host; place: S3Place };
  producer: Host;
  workers: Host[];
  close(): Promise<void>;
}

/** What the pool uses. Auditors come to the store by another cable, so that they see it when it is cut off from the pool. */
export const lan = 'lan';
const audit = 'audit';

/** `folder`: of Redis's files. Throws CannotRunHere where there are no namespaces. */
export async function openNetwork({
  folder,
  workers,
}: {
  folder: string;
  workers: number;
}): Promise<Network> {
  const names = Array.from({ length: workers }, (_, n) => `worker-${n + 1}`);
  const cables: Record<string, string[]> = { redis: [lan], store: [lan, audit], producer: [lan] };
  for (const name of names) cables[name] = [lan];
  const net = openHosts(cables);
  const hostOf = (name: string): Host => {
    const host = net.hosts[name];
    if (!host) throw new Error(`no host ${name}: this is a bug`);
    return host;
  };
  const [redisHost, storeHost] = [hostOf('redis'), hostOf('store')];
  let redis: RedisServer | undefined;
  let store: (S3Server & { close(): Promise<void> }) | undefined;
  const close = async (): Promise<void> => {
    await redis?.close();
    await store?.close();
    net.close();
  };
  try {
    redis = await startRedis({ folder, host: redisHost.addressOf(lan), prefix: redisHost.prefix });
    store = await startRadosgw({ prefix: storeHost.prefix, address: storeHost.addressOf(audit) });
    const { port } = new URL(store.endpoint);
    const place = await makeS3Place(store, `http://${storeHost.addressOf(lan)}:${port}`);
    return {
      net,
      redis: { host: redisHost, server: redis },
      store: { host: storeHost, place },
      producer: hostOf('producer'),
      workers: names.map(hostOf),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
