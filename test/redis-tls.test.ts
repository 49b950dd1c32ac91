/** Redis over TLS, and what is said where a connection cannot be had: certificates by openssl, real servers. */
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { checkRedis, openRedis } from '../src/redis/connection.ts';
import { type Authority, type Certificate, makeAuthority } from './helpers/certificates.ts';
import { type RedisServer, startSentinels, startServer } from './helpers/redis-servers.ts';
import { tempFolder } from './helpers/temp.ts';

let authority: Authority;
let ours: Certificate;
let open: RedisServer;
let mutual: RedisServer;
let plain: RedisServer;

beforeAll(async () => {
  authority = makeAuthority();
  ours = authority.sign('DNS:worker');
  const here = authority.sign('DNS:localhost,IP:127.0.0.1');
  [open, mutual, plain] = await Promise.all([
    serve(here),
    serve(here, ['tls-auth-clients yes']),
    startServer(),
  ]);
  await Promise.all([trusted(open), trusted(mutual, `&cert=${ours.cert}&key=${ours.key}`)].map(untilUp));
});

function serve({ cert, key }: Certificate, more = ['tls-auth-clients no']): Promise<RedisServer> {
  const files = [`tls-ca-cert-file ${authority.cert}`, `tls-cert-file ${cert}`, `tls-key-file ${key}`];
  return startServer([...files, ...more], { tls: true });
}

const trusted = ({ port }: RedisServer, more = ''): string =>
  `rediss://127.0.0.1:${port}?ca=${authority.cert}${more}`;

/** A server takes a moment to listen. */
async function untilUp(url: string): Promise<void> {
  const redis = openRedis(url);
  await redis.ping();
  redis.disconnect();
}

function refused(url: string, code: string, message: RegExp): Promise<void> {
  return expect(checkRedis(url)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
}

test('a server whose certificate is trusted is spoken to, one that wants ours gets it', async () => {
  await checkRedis(trusted(open));
  await checkRedis(`rediss://localhost:${open.port}?ca=${authority.cert}`);
  await checkRedis(trusted(mutual, `&cert=${ours.cert}&key=${ours.key}`));
});

test('each certificate that does not do is told apart, with what to write', async () => {
  const other = makeAuthority();
  const strange = other.sign('DNS:worker');
  await refused(`rediss://127.0.0.1:${open.port}`, 'redis-tls', /self-signed.*\?ca=/);
  await refused(`rediss://127.0.0.1:${open.port}?ca=${other.cert}`, 'redis-tls', /signed by nobody.*\?ca=/);
  await refused(`rediss-cluster://127.0.0.1:${open.port}?ca=${other.cert}`, 'redis-tls', /signed by nobody/);
  await refused(
    `rediss-sentinel://127.0.0.1:${open.port}/m?ca=${other.cert}`,
    'redis-tls',
    /signed by nobody/,
  );
  await refused(trusted(mutual), 'redis-tls', /wants a certificate of ours.*\?cert=/);
  await refused(
    trusted(mutual, `&cert=${strange.cert}&key=${strange.key}`),
    'redis-tls',
    /does not take our/,
  );
  await refused(trusted(mutual, `&cert=${ours.cert}&key=${strange.key}`), 'redis-tls', /do not go together/);
  await refused(trusted(open, '&cert=none.pem&key=none.key'), 'bad-redis-file', /none\.pem.*ENOENT/);
});

test('a certificate that is over, or of another host, says so; ?servername= names that host', async () => {
  const [over, elsewhere] = await Promise.all([
    serve(authority.sign('IP:127.0.0.1', { days: -1 })),
    serve(authority.sign('DNS:redis.internal')),
  ]);
  await untilUp(trusted(elsewhere, '&servername=redis.internal'));
  await refused(trusted(elsewhere), 'redis-tls', /of another host.*\?servername=/);
  await refused(trusted(over), 'redis-tls', /not valid today \(certificate has expired\)/);
});

test('TLS to a server that speaks none, and none to one that speaks it, are recognised', async () => {
  await plain.client().ping();
  await refused(`redis://127.0.0.1:${open.port}`, 'redis-tls', /speaks TLS: write rediss/);
  // Redis waits for more of what it takes for a command.
  await refused(trusted(plain), 'redis-tls', /speaks no TLS: write redis /);
});

test('a certificate that was renewed is used for the next connection, without a restart', async () => {
  const folder = tempFolder();
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  const put = (from: Certificate): void => {
    copyFileSync(from.cert, cert);
    copyFileSync(from.key, key);
  };
  put(ours);
  const redis = openRedis(trusted(mutual, `&cert=${cert}&key=${key}`));
  try {
    await redis.ping();
    put(makeAuthority().sign('DNS:worker'));
    const failing = new Promise((resolve) => redis.once('error', resolve));
    await mutual.client({ tls: tlsOf(ours) }).call('CLIENT', 'KILL', 'SKIPME', 'yes');
    await failing;
    put(ours);
    expect(await redis.ping()).toBe('PONG');
  } finally {
    redis.disconnect();
  }
});

test('the kinds of Redis are told apart, and what each is asked for that it has not', async () => {
  const [{ sentinels }, node] = await Promise.all([
    startSentinels('secret'),
    startServer(['cluster-enabled yes']),
  ]);
  await Promise.all([plain, node].map(({ client }) => client().ping()));
  const watch = sentinels[0]?.port;
  const other = 'redis-other-kind';
  await refused(`redis://127.0.0.1:${watch}`, other, /is a Sentinel: write redis-sentinel:/);
  await refused(`redis-sentinel://:secret@127.0.0.1:${watch}/mian`, other, /know no primary of that name/);
  await refused(`redis-sentinel://127.0.0.1:${plain.port}/main`, other, /is no Sentinel/);
  await refused(`redis-cluster://127.0.0.1:${plain.port}`, other, /is no Cluster: write redis:/);
  await refused(`redis://127.0.0.1:${plain.port}/99`, other, /no database of that number/);
  await refused(`redis-cluster://127.0.0.1:${node.port}`, 'redis-not-ready', /serves no keys/);
  await refused(`redis-sentinel://127.0.0.1:${watch}/main`, 'redis-refused', /wants a password/);
  for (const scheme of ['redis-cluster', 'redis-sentinel', 'redis'])
    await refused(
      `${scheme}://:s3cret@127.0.0.1:1/${scheme === 'redis-sentinel' ? 'main' : ''}`,
      'redis-unreachable',
      /^(?!.*s3cret).*ECONNREFUSED/,
    );
});

function tlsOf({ cert, key }: Certificate) {
  const read = (path: string): Buffer => readFileSync(path);
  return { ca: read(authority.cert), cert: read(cert), key: read(key) };
}
