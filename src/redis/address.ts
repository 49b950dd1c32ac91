/**
 * How a Redis is named, in one grammar for every command:
 *
 *     redis://[user:password@]host[:6379][/db]                            one server
 *     redis-sentinel://[user:password@]host[:26379],host…/name[/db]       the primary that Sentinels call `name`
 *     redis-cluster://[user:password@]host[:6379],host…                   a Cluster; any of its nodes will do
 *     /path/redis.sock[?db=n], unix://[user:password@]/path/redis.sock    a socket of this machine
 *
 * rediss, rediss-sentinel and rediss-cluster speak TLS, and take files in PEM: `?ca=…` that vouch for the server (else those
 * of Node, and NODE_EXTRA_CA_CERTS), `cert=…&key=…` that vouch for us; and `servername=…`, the name that its certificate must
 * have, where that is not the host's. Sentinels with a password of their own: `?sentinel-user=…&sentinel-password=…`.
 * A password stands alone as `:password@`. What is special in a URL is escaped (`%2F` for /).
 */
import { ConfigError } from '../errors.ts';

export interface RedisNode {
  host: string;
  port: number;
}

export interface RedisLogin {
  /** Absent: the user `default`. */
  username?: string;
  password: string;
}

/** Paths of files. */
export interface RedisTls {
  ca?: string;
  cert?: string;
  key?: string;
  servername?: string;
}

export type RedisAddress = { login?: RedisLogin } & (
  | { kind: 'socket'; path: string; db: number }
  | { kind: 'server'; node: RedisNode; db: number; tls?: RedisTls }
  | {
      kind: 'sentinel';
      sentinels: RedisNode[];
      /** What they call the primary. */
      name: string;
      db: number;
      sentinelLogin?: RedisLogin;
      tls?: RedisTls;
    }
  | { kind: 'cluster'; nodes: RedisNode[]; tls?: RedisTls }
);

const schemes = {
  redis: { kind: 'server', tls: false },
  rediss: { kind: 'server', tls: true },
  'redis-sentinel': { kind: 'sentinel', tls: false },
  'rediss-sentinel': { kind: 'sentinel', tls: true },
  'redis-cluster': { kind: 'cluster', tls: false },
  'rediss-cluster': { kind: 'cluster', tls: true },
  unix: { kind: 'socket', tls: false },
} as const;

const choices =
  'redis://host:6379, rediss:// (TLS), redis-sentinel://host,host/name, redis-cluster://host,host or the path of a socket';

const tlsWords = ['ca', 'cert', 'key', 'servername'] as const;

/** Reads no file and asks no server. Throws ConfigError 'bad-redis-address', which shows no password. */
export function parseRedisAddress(text: string): RedisAddress {
  const fail = (what: string): never => {
    throw new ConfigError('bad-redis-address', `'${hidePasswords(text)}': ${what}`);
  };
  const url = text.startsWith('/') ? `unix://${text}` : text;
  const match = /^([a-z-]+):\/\/(?:([^/?#]*)@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?$/i.exec(url);
  if (!match) return fail(`no Redis address; there are ${choices}`);
  const [, word = '', user, place = '', path = '', query = ''] = match;
  const scheme = Object.entries(schemes).find(([name]) => name === word.toLowerCase())?.[1];
  if (!scheme) return fail(`no scheme '${word}'; there are ${choices}`);
  const { kind, tls: isTls } = scheme;

  const words = new Map(new URLSearchParams(query.replaceAll('+', '%2B')));
  /** The value of a word, which is then known. */
  const take = (name: string): string | undefined => {
    const value = words.get(name);
    if (value === '') fail(`?${name}= has no value`);
    words.delete(name);
    return value;
  };
  const unescaped = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      return fail('a % stands for itself as %25');
    }
  };
  const login = user === undefined ? undefined : parseLogin(user);
  const address = { ...(login && { login }) };
  const parsed = parsePlace();
  for (const name of words.keys()) return fail(`?${name} is not known for ${word}://`);
  return parsed;

  function parseLogin(part: string): RedisLogin {
    const colon = part.indexOf(':');
    const [username, password] = colon < 0 ? [part, ''] : [part.slice(0, colon), part.slice(colon + 1)];
    if (password === '') fail('a user without a password; a password alone is written :password@');
    return { ...(username !== '' && { username: unescaped(username) }), password: unescaped(password) };
  }

  function parsePlace(): RedisAddress {
    const [first = '', second, ...more] = path.split('/').slice(1);
    switch (kind) {
      case 'socket':
        if (place !== '' || path.length < 2)
          fail('a socket is an absolute path, as in unix:///run/redis.sock');
        return { ...address, kind, path: unescaped(path), db: parseDb(take('db')) };
      case 'server': {
        const nodes = parseNodes(6379);
        const [node] = nodes;
        if (node === undefined || nodes.length > 1)
          return fail(`one host; for several there are ${word}-sentinel:// and ${word}-cluster://`);
        if (second !== undefined) fail('nothing stands behind the number of the database');
        return { ...address, kind, node, db: parseDb(first || take('db')), ...parseTls() };
      }
      case 'sentinel': {
        const sentinels = parseNodes(26379);
        if (first === '' || more.length > 0)
          fail('the name that Sentinels give the primary is missing: …/name');
        return {
          ...address,
          kind,
          sentinels,
          name: unescaped(first),
          db: parseDb(second ?? take('db')),
          ...parseSentinelLogin(),
          ...parseTls(),
        };
      }
      case 'cluster':
        if (path.length > 1) fail('a Cluster has one database, and nothing stands behind its hosts');
        return { ...address, kind, nodes: parseNodes(6379), ...parseTls() };
    }
  }

  function parseNodes(defaultPort: number): RedisNode[] {
    return place.split(',').map((one) => {
      const [, bracketed, plain, digits] =
        /^(?:\[([\da-f:.]+)\]|([^:[\]\s]+))(?::(\d{1,5}))?$/i.exec(one) ?? [];
      const host = bracketed ?? plain;
      const port = digits === undefined ? defaultPort : Number(digits);
      if (host === undefined || port < 1 || port > 65535)
        return fail('expected host or host:port; / ? # @ of a password are written %2F %3F %23 %40');
      return { host, port };
    });
  }

  function parseDb(digits = '0'): number {
    return /^\d{1,9}$/.test(digits) ? Number(digits) : fail('the database is a number');
  }

  function parseSentinelLogin(): { sentinelLogin?: RedisLogin } {
    const username = take('sentinel-user');
    const password = take('sentinel-password');
    if (password === undefined)
      return username === undefined ? {} : fail('?sentinel-user= goes with sentinel-password=');
    return { sentinelLogin: { ...(username !== undefined && { username }), password } };
  }

  function parseTls(): { tls?: RedisTls } {
    // Of an address without TLS, they are words that nobody takes.
    if (!isTls) return {};
    const tls: RedisTls = {};
    for (const name of tlsWords) {
      const value = take(name);
      if (value !== undefined) tls[name] = value;
    }
    if ((tls.cert === undefined) !== (tls.key === undefined)) fail('?cert= and key= go together');
    return { tls };
  }
}

/** For printing: passwords become `***`, also of an address that is not well formed. */
export function hidePasswords(text: string): string {
  return text.replace(/([?&][\w-]*password=)[^&#]*/gi, '$1***').replace(/(\/\/(?:[^/@:]*:)?).*@/, '$1***@');
}

/** For messages: an address without its credentials and words. */
export function redisPlace(text: string): string {
  return text.replace(/\?.*$/, '').replace(/\/\/.*@/, '//');
}
