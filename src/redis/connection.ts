/** The door to ioredis: every connection that lensmill makes to Redis, of whichever kind its address asks for. */
import { readFileSync } from 'node:fs';
import type { ConnectionOptions } from 'node:tls';
import { Cluster, Redis } from 'ioredis';
import { ConfigError, messageOf } from '../errors.ts';
import { parseRedisAddress, type RedisAddress, type RedisTls, redisPlace } from './address.ts';
import { diagnose } from './diagnosis.ts';
import { explainRedisError } from './errors.ts';

/** What both have: commands, events, `duplicate` and `disconnect`. All our keys have one slot, so both do all that we ask. */
export type RedisClient = Redis | Cluster;

const connectMs = 5_000;
/**
 * Redis owes an answer for so long: another connection is tried. Of a network that swallows packets TCP tells nothing for a
 * quarter of an hour, and when it is mended TCP may wait as long again as the outage was, since it doubles its pauses. A
 * worker's locks have expired by then.
 */
const silenceMs = 10_000;
const longestWaitMs = 2_000;
/** A Cluster chooses a new primary in seconds; meanwhile a command is tried this often, for two minutes in all. */
const failover = { everyMs: 200, times: 600 };

/**
 * A connection that waits for a Redis that is away, and goes on when it is back, or when another has taken its place. Throws
 * ConfigError 'bad-redis-address', 'bad-redis-file'.
 */
export function openRedis(url: string): RedisClient {
  const waitMs = (times: number): number => Math.min(100 * 2 ** times, longestWaitMs);
  const redis = connectTo(parseRedisAddress(url), {
    lazyConnect: false,
    waitMs,
    redirections: failover.times,
  });
  // ioredis retries by itself; a listener keeps a lost connection from ending the process.
  redis.on('error', () => undefined);
  return redis;
}

/**
 * Asks something of a Redis that has to be there: gives up where a connection cannot be had at once. Throws ConfigError with
 * the codes of `openRedis` and of `explainRedisError`.
 */
export async function askRedis<T>(url: string, ask: (redis: RedisClient) => Promise<T>): Promise<T> {
  const address = parseRedisAddress(url);
  const redis = connectTo(address, { lazyConnect: true, waitMs: () => null, redirections: 3 });
  // A refused password is told by events alone: 'error' of a server, 'sentinelError', 'node error' of a Cluster. What
  // rejects then says that the connection is closed.
  const said: unknown[] = [];
  const note = (error: unknown): void => void said.push(error);
  for (const event of ['error', 'sentinelError', 'node error']) redis.on(event, note);
  // A Cluster whose slots nobody serves is given up without a word.
  const { promise: ended, reject } = Promise.withResolvers<never>();
  redis.once('end', () => reject(new Error('Connection is closed')));
  try {
    const answer = await Promise.race([redis.connect().then(() => ask(redis)), ended]);
    // ioredis goes on in database 0.
    const misled = said.find((error) => /DB index is out of range/.test(messageOf(error)));
    if (misled) throw misled;
    return answer;
  } catch (error) {
    const told = mostTelling([...said, error], url);
    if (!(told instanceof ConfigError && told.code === 'redis-unreachable')) throw told;
    const tls = 'tls' in address && address.tls ? readTls(address.tls) : undefined;
    const found = await diagnose(address, tls);
    if (found === undefined && address.kind === 'cluster')
      throw new ConfigError(
        'redis-not-ready',
        `the Cluster at ${redisPlace(url)} serves no keys: \`redis-cli --cluster check host:port\` says why`,
      );
    throw explainRedisError(found ?? told, url);
  } finally {
    redis.disconnect();
  }
}

/**
 * Whether a Redis is there, takes us and takes writes: a key of ours is asked to forget what it does not hold. Throws as
 * `askRedis`.
 */
export async function checkRedis(url: string): Promise<void> {
  await askRedis(url, (redis) => redis.hdel('{lensmill}:check', 'nothing'));
}

/** Of what went wrong, what says more than that nobody answers. */
function mostTelling(errors: readonly unknown[], url: string): unknown {
  const explained = errors.map((error) => explainRedisError(error, url));
  const found = explained.filter((error) => error instanceof ConfigError);
  return found.find(({ code }) => code !== 'redis-unreachable') ?? found[0] ?? explained.at(-1);
}

interface Manner {
  /** Not before `connect`. BullMQ, given such a client, fails for good where its first connection does. */
  lazyConnect: boolean;
  /** Before the n-th attempt; null: no further one. */
  waitMs: (times: number) => number | null;
  /** How often a command is sent again within a Cluster that is not in order. */
  redirections: number;
}

function connectTo(address: RedisAddress, { lazyConnect, waitMs, redirections }: Manner): RedisClient {
  const common = {
    // Two commands a connection for a name that Redis 7.2 shows: two rights more for an ACL to give.
    disableClientInfo: true,
    // Who only asks is told that it is still loading, and warned of no INFO that an ACL forbids.
    enableReadyCheck: !lazyConnect,
    connectTimeout: connectMs,
    socketTimeout: silenceMs,
    maxRetriesPerRequest: null,
    ...address.login,
  };
  switch (address.kind) {
    case 'socket':
      return new Redis({ ...common, lazyConnect, path: address.path, db: address.db, retryStrategy: waitMs });
    case 'server': {
      const { node, db, tls } = address;
      const files = tls && { tls: readTls(tls) };
      return new Redis({ ...common, ...files, lazyConnect, ...node, db, retryStrategy: waitMs });
    }
    case 'sentinel': {
      const { sentinels, name, db, sentinelLogin, tls } = address;
      const files = tls && readTls(tls);
      return new Redis({
        ...common,
        lazyConnect,
        sentinels,
        name,
        db,
        ...(sentinelLogin?.username !== undefined && { sentinelUsername: sentinelLogin.username }),
        ...(sentinelLogin && { sentinelPassword: sentinelLogin.password }),
        ...(files && { tls: files, sentinelTLS: files, enableTLSForSentinelMode: true }),
        retryStrategy: waitMs,
        sentinelRetryStrategy: waitMs,
        // A primary that froze says nothing when it loses its place: Sentinels do.
        failoverDetector: true,
        // One that lost its place and is there still refuses writes: ask for the new one, and send the command to that.
        reconnectOnError: ({ message }) => (message.startsWith('READONLY') ? 2 : false),
      });
    }
    case 'cluster': {
      const { nodes, tls } = address;
      return new Cluster(nodes, {
        lazyConnect,
        redisOptions: { ...common, ...(tls && { tls: readTls(tls) }) },
        clusterRetryStrategy: waitMs,
        slotsRefreshTimeout: connectMs,
        maxRedirections: redirections,
        retryDelayOnFailover: failover.everyMs,
        retryDelayOnClusterDown: failover.everyMs,
        retryDelayOnTryAgain: failover.everyMs,
        // A certificate is of a name, and ioredis would connect to that name's address.
        ...(tls && { dnsLookup: asItIs }),
      });
    }
  }
}

function asItIs(host: string, found: (error: null, address: string) => void): void {
  found(null, host);
}

/**
 * Files are read again for each connection, so that certificates may be renewed while a worker runs; one that cannot be read
 * then is as it was. Throws ConfigError 'bad-redis-file'.
 */
function readTls({ ca, cert, key, servername }: RedisTls): ConnectionOptions {
  const tls = { ...(servername !== undefined && { servername }) };
  for (const [name, path] of Object.entries({ ca, cert, key })) {
    if (path === undefined) continue;
    let last = readOnce(name, path);
    Object.defineProperty(tls, name, {
      enumerable: true,
      get() {
        try {
          last = readFileSync(path);
        } catch {
          // Being replaced.
        }
        return last;
      },
    });
  }
  return tls;
}

function readOnce(name: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ConfigError('bad-redis-file', `?${name}=${path} of REDIS_URL: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
