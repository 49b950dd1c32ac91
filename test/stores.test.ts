/** What every store promises (src/stores/store.ts), held by each of them, and what each one does in its own way. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import pMap from 'p-map';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { S3Options } from '../src/s3/s3.ts';
import { FileStore } from '../src/stores/file.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { ListedObject, Store } from '../src/stores/store.ts';
import { moduleUrl, runAsNobody, runOnSmallDisk } from './helpers/child.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { type Spoil, type SpoilingProxy, startProxy } from './helpers/spoiling-proxy.ts';
import { tempFolder } from './helpers/temp.ts';

const text = (body: string) => Buffer.from(body);
const sha256 = (body: Uint8Array) => createHash('sha256').update(body).digest('hex');

async function keysOf(objects: AsyncIterable<ListedObject>): Promise<string[]> {
  return (await Array.fromAsync(objects)).map(({ key }) => key);
}

/** As another program would. */
async function putForeign(root: string, key: string): Promise<void> {
  const { protocol, host, pathname } = new URL(`${root}/${key}`);
  if (protocol === 's3:') await putForeignObject(host, pathname.slice(1), text('x'));
  else {
    mkdirSync(dirname(decodeURI(pathname)), { recursive: true });
    writeFileSync(decodeURI(pathname), 'x');
  }
}

const keep = closeAfterEach<Store>();
function open(uri: string, options: S3Options = testS3Options()): Store {
  return keep(openStore(uri, options));
}
describe.each([
  { name: 'file', newRoot: async () => pathToFileURL(join(tempFolder(), 'not yet there')).href },
  { name: 's3', newRoot: async () => `s3://${await makeBucket()}/some/prefix` },
])('$name store', ({ newRoot }) => {
  let root: string;
  let store: Store;
  beforeAll(async () => {
    root = await newRoot();
  });
  async function openProbed(): Promise<Store> {
    store = open(root);
    await store.probe();
    return store;
  }

  test('a probe finds conditional writes and leaves nothing behind', async () => {
    const fresh = open(await newRoot());
    await fresh.probe();
    expect(fresh.conditional).toBe(true);
    expect(await keysOf(fresh.list(''))).toEqual([]);
  });

  test('its URI opens the same objects, with or without a trailing slash', async () => {
    await openProbed();
    await store.create('uri/key', text('here'));
    expect(store.uri.endsWith('/')).toBe(false);
    expect(await open(`${store.uri}/`).read('uri/key')).toEqual(text('here'));
  });

  test('an object is created once and never changes', async () => {
    await openProbed();
    expect(await store.create('once/key.json', text('first'))).toBe(true);
    expect(await store.create('once/key.json', text('second'))).toBe(false);
    expect(await store.read('once/key.json')).toEqual(text('first'));
  });

  test('of eight writers at once one wins, and the object is that one whole', async () => {
    await openProbed();
    const bodies = Array.from({ length: 8 }, (_, writer) => Buffer.alloc(300_000, `writer ${writer} `));
    const won = await Promise.all(bodies.map((body) => open(root).create('race/part', body)));
    expect(won.filter(Boolean)).toHaveLength(1);
    const winner = bodies[won.indexOf(true)] ?? text('none');
    expect(sha256((await store.read('race/part')) ?? text('absent'))).toBe(sha256(winner));
    expect(await store.head('race/part')).toEqual({ size: winner.length, sha256: sha256(winner) });
  });

  test('an empty object is an object', async () => {
    await openProbed();
    expect(await store.create('empty', new Uint8Array())).toBe(true);
    expect(await store.read('empty')).toHaveLength(0);
    expect(await store.head('empty')).toEqual({ size: 0, sha256: sha256(text('')) });
  });

  test('what is not there is undefined, be it a folder of others or below an object', async () => {
    await openProbed();
    await store.create('absent/object', text('x'));
    for (const key of ['absent/other', 'absent', 'absent/object/below']) {
      expect(await store.read(key)).toBeUndefined();
      expect(await store.head(key)).toBeUndefined();
    }
    expect(await keysOf(store.list('nowhere/'))).toEqual([]);
  });

  test('a range is cut at the end of the object', async () => {
    await openProbed();
    await store.create('range', text('0123456789'));
    const read = async (first: number, count: number) =>
      Buffer.from((await store.read('range', { first, count })) ?? 'absent').toString();
    expect(await read(0, 3)).toBe('012');
    expect(await read(4, 1)).toBe('4');
    expect(await read(8, 100)).toBe('89');
    expect(await read(10, 1)).toBe('');
    expect(await read(3, 0)).toBe('');
    expect(await store.read('no-range', { first: 0, count: 0 })).toBeUndefined();
  });

  test('listing is ordered by the bytes of the whole key, and goes on after any key', async () => {
    await openProbed();
    // As bytes '-' < '.' < '/' < '0' < 'A' < '_' < 'a': a folder is not ordered by its bare name.
    const keys = ['a-b', 'a.json', 'a/1', 'a/b/2', 'a/b-3', 'a0', 'A', 'a_', 'b'].map(
      (key) => `order/${key}`,
    );
    for (const key of keys) await store.create(key, text(key));
    keys.sort();
    expect(await keysOf(store.list('order/'))).toEqual(keys);
    for (const [at, key] of keys.entries()) {
      expect(await keysOf(store.list('order/', key))).toEqual(keys.slice(at + 1));
    }
    expect(await keysOf(store.list('order/', 'order/a/'))).toEqual(keys.filter((key) => key > 'order/a/'));
    expect(await keysOf(store.list('order/a/b'))).toEqual(['order/a/b-3', 'order/a/b/2']);
    expect((await Array.fromAsync(store.list('order/a.j')))[0]).toEqual({ key: 'order/a.json', size: 12 });
  });

  test('a listing has nothing that others put there under a name that begins with a dot', async () => {
    await openProbed();
    await store.create('dots/run/part', text('x'));
    for (const key of ['dots/.DS_Store', 'dots/run/.nfs0001', 'dots/.folder/part'])
      await putForeign(store.uri, key);
    expect(await keysOf(store.list('dots/'))).toEqual(['dots/run/part']);
  });

  test('a listing of more than one page loses and repeats nothing', async () => {
    await openProbed();
    const keys = Array.from({ length: 1_101 }, (_, at) => `many/${String(at).padStart(5, '0')}`);
    await pMap(keys, (key) => store.create(key, text('x')), { concurrency: 24 });
    expect(await keysOf(store.list('many/'))).toEqual(keys);
    expect(await keysOf(store.list('many/', keys[999]))).toEqual(keys.slice(1000));
  });
});

describe('file store', () => {
  test('temporary files are never listed, and those of dead writers are swept', async () => {
    const root = tempFolder();
    const store = open(root);
    await store.create('kept', text('x'));
    const [dead, alive] = ['1-dead', '2-alive'].map((name) => join(root, '.tmp', name));
    for (const path of [dead, alive]) writeFileSync(path ?? '', 'half an obj');
    utimesSync(dead ?? '', new Date(), new Date(Date.now() - 2 * 3_600_000));
    expect(await keysOf(store.list(''))).toEqual(['kept']);
    await store.probe();
    expect(readdirSync(join(root, '.tmp'))).toEqual(['2-alive']);
  });

  test('where there are no hard links, objects are still whole and the store says that it is not conditional', async () => {
    const root = tempFolder();
    const linkFile = () => Promise.reject(Object.assign(new Error('as FAT says it'), { code: 'EPERM' }));
    const store = new FileStore(root, { linkFile });
    await store.probe();
    expect(store.conditional).toBe(false);
    expect(await store.create('a/key', text('first'))).toBe(true);
    expect(await store.create('a/key', text('second'))).toBe(false);
    expect(await store.read('a/key')).toEqual(text('first'));
    expect(await keysOf(store.list(''))).toEqual(['a/key']);
  });

  test('a linked folder holds objects like any other', async () => {
    const [root, elsewhere] = [tempFolder(), tempFolder()];
    symlinkSync(elsewhere, join(root, 'runs'));
    const store = open(root);
    await store.create('runs/key', text('x'));
    expect(await keysOf(store.list(''))).toEqual(['runs/key']);
    expect(readdirSync(elsewhere)).toEqual(['key']);
  });

  test('a key cannot leave the root', async () => {
    const store = open(tempFolder());
    for (const key of ['../up', '/etc/passwd', 'a/../../b', 'a//b', '.tmp/x', '']) {
      await expect(store.create(key, text('x'))).rejects.toThrow('this is a bug');
    }
  });

  test('a root inside a file is not writable', async () => {
    const file = join(tempFolder(), 'file');
    writeFileSync(file, 'x');
    await expect(open(file).probe()).rejects.toMatchObject({ code: 'not-writable' });
    await expect(open(join(file, 'below')).probe()).rejects.toMatchObject({ code: 'not-writable' });
  });

  test('a full disk is told apart, and leaves neither object nor temporary file', async () => {
    const root = tempFolder();
    const output = await runOnSmallDisk(
      root,
      '1m',
      `
      ${openIn(root)}
      await store.probe();
      console.log(await store.create('big', Buffer.alloc(4 << 20)).catch((error) => error.code));
      console.log(await store.head('big'), readdirSync(${JSON.stringify(join(root, '.tmp'))}));`,
    );
    expect(output).toBe('disk-full\nundefined []\n');
  });

  test('without the right to write it is not-writable, without the right to read it is access-denied', async () => {
    const root = tempFolder();
    writeFileSync(join(root, 'secret'), 'x', { mode: 0o000 });
    chmodSync(root, 0o555);
    const output = await runAsNobody(`
      ${openIn(root)}
      const show = (error) => console.log(error.name, error.code);
      await store.probe().catch(show);
      await store.create('a/b', Buffer.from('x')).catch(show);
      await store.read('secret').catch(show);
      await store.head('secret').catch(show);`);
    chmodSync(root, 0o755);
    expect(output.trim().split('\n')).toEqual([
      'ConfigError not-writable',
      'ConfigError not-writable',
      'ConfigError access-denied',
      'ConfigError access-denied',
    ]);
  });
});

/** The first lines of a script for another process. */
function openIn(root: string): string {
  return `import { readdirSync } from 'node:fs';
    import { FileStore } from ${JSON.stringify(moduleUrl('src/stores/file.ts'))};
    const store = new FileStore(${JSON.stringify(root)});`;
}

describe('s3 store', () => {
  let bucket: string;
  let proxy: SpoilingProxy | undefined;
  beforeAll(async () => {
    bucket = await makeBucket();
  });
  afterEach(async () => {
    await proxy?.close();
    proxy = undefined;
  });

  /** A store behind a proxy that spoils what `spoil` says. */
  async function openBehind(spoil: (request: IncomingMessage, status: number) => Spoil): Promise<Store> {
    proxy = await startProxy(testEndpoint(), spoil);
    const options = testS3Options({ endpoint: proxy.endpoint, requestTimeoutMs: 500 });
    return open(`s3://${bucket}/${randomUUID()}`, options);
  }

  /** Spoils the first reply to a method, and no other. */
  function first(method: string, spoil: Spoil): (request: IncomingMessage) => Spoil {
    let isSpent = false;
    return (request) => {
      if (isSpent || request.method !== method) return undefined;
      isSpent = true;
      return spoil;
    };
  }

  test('a PUT whose reply is lost ends as false, and the object is the one that was sent', async () => {
    const store = await openBehind(first('PUT', 'drop'));
    const body = randomBytes(100_000);
    expect(await store.create('part', body)).toBe(false);
    expect(await store.head('part')).toEqual({ size: body.length, sha256: sha256(body) });
    expect(proxy?.requests.filter((line) => line.startsWith('PUT'))).toHaveLength(2);
  });

  test('a conflict with another conditional write is tried again', async () => {
    let conflicts = 0;
    const store = await openBehind(({ method }) => (method === 'PUT' && conflicts++ < 1 ? 409 : undefined));
    // The proxy forwards what it then calls a conflict, so the second attempt finds the first one's object.
    expect(await store.create('part', text('x'))).toBe(false);
    expect(conflicts).toBe(2);
  });

  test.each(['truncate', 'stall'] as const)('a body that breaks off (%s) is read again', async (spoil) => {
    const store = await openBehind(first('GET', spoil));
    const body = randomBytes(200_000);
    await store.create('part', body);
    expect(sha256((await store.read('part')) ?? text('absent'))).toBe(sha256(body));
    expect(proxy?.requests.filter((line) => line.startsWith('GET'))).toHaveLength(2);
  });

  test.each(['drop', 'truncate', 503] as const)(
    'a listing that ends in %s is asked for again',
    async (spoil) => {
      const store = await openBehind(first('GET', spoil));
      await store.create('part', text('x'));
      expect(await keysOf(store.list(''))).toEqual(['part']);
    },
  );

  test('a server that keeps failing is unreachable, once all attempts are used', async () => {
    const store = await openBehind(() => 503);
    await expect(store.read('part')).rejects.toMatchObject({
      name: 'ConfigError',
      code: 'store-unreachable',
    });
    expect(proxy?.requests).toHaveLength(3);
  });

  test('a server that ignores If-None-Match is found out; create then looks before it writes', async () => {
    const store = await openBehind((_, status) => (status === 412 ? 200 : undefined));
    await store.probe();
    expect(store.conditional).toBe(false);
    expect(await keysOf(store.list(''))).toEqual([]);
    expect(await store.create('part', text('first'))).toBe(true);
    expect(await store.create('part', text('second'))).toBe(false);
    expect(await store.read('part')).toEqual(text('first'));
  });

  test('a server that heeds If-None-Match, but not where several ask at once, is found out by the first and known to all', async () => {
    let lies = 3;
    const store = await openBehind((_, status) => (status === 412 && lies-- > 0 ? 200 : undefined));
    await store.probe();
    expect(store.conditional).toBe(false);
    const later = open(store.uri);
    await later.probe();
    expect(later.conditional, 'though this one was told the truth').toBe(false);
    expect(await keysOf(later.list(''))).toEqual([]);
  });

  test('a server that refuses If-None-Match as not implemented is written to without it', async () => {
    const store = await openBehind(({ headers }) => ('if-none-match' in headers ? 501 : undefined));
    await store.probe();
    expect(store.conditional).toBe(false);
    expect(await store.create('part', text('first'))).toBe(true);
    expect(await store.create('part', text('second'))).toBe(false);
  });

  test("another program's object has its hash too, by reading it", async () => {
    const store = open(`s3://${bucket}/foreign`);
    await putForeignObject(bucket, 'foreign/key', text('not ours'));
    expect(await store.head('key')).toEqual({ size: 8, sha256: sha256(text('not ours')) });
  });

  test('prefixes that begin alike do not see each other', async () => {
    const [one, other] = [open(`s3://${bucket}/alike`), open(`s3://${bucket}/alike-2`)];
    await other.create('key', text('x'));
    expect(await keysOf(one.list(''))).toEqual([]);
    expect(await keysOf(other.list(''))).toEqual(['key']);
  });

  test('more than a single PUT takes is refused before anything is sent', async () => {
    const store = open(`s3://${bucket}/large`, testS3Options({ endpoint: 'http://127.0.0.1:9' }));
    const body = new Uint8Array(5 * 2 ** 30 + 1); // zero pages that nobody touches
    await expect(store.create('part', body)).rejects.toMatchObject({ code: 'too-large' });
  });

  describe('what the operator must change is one line with a code:', () => {
    const servers: Server[] = [];
    afterEach(() => {
      vi.unstubAllEnvs();
      for (const server of servers.splice(0)) {
        server.closeAllConnections();
        server.close();
      }
    });
    /** A web server that has never heard of S3. */
    async function serve(answer: RequestListener): Promise<string> {
      const server = createServer(answer).listen(0, '127.0.0.1');
      servers.push(server);
      await once(server, 'listening');
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    }
    async function probeError(root: string, changes: Partial<S3Options> = {}): Promise<unknown> {
      const store = open(root, testS3Options({ maxAttempts: 2, requestTimeoutMs: 300, ...changes }));
      const error = await store.probe().then(
        () => new Error('the probe found nothing'),
        (thrown) => thrown,
      );
      expect(error).toMatchObject({ name: 'ConfigError', message: expect.stringMatching(/^.+$/) });
      return error.code;
    }

    test('no such bucket', async () => {
      expect(await probeError(`s3://${randomUUID()}/x`)).toBe('no-bucket');
    });

    test.each([
      ['a wrong secret', { AWS_SECRET_ACCESS_KEY: 'wrong' }],
      ['a user nobody knows', { AWS_ACCESS_KEY_ID: 'nobody' }],
      [
        'no credentials',
        { AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '', AWS_EC2_METADATA_DISABLED: 'true' },
      ],
    ])('%s', async (_, environment) => {
      for (const [name, value] of Object.entries(environment)) vi.stubEnv(name, value);
      expect(await probeError(`s3://${bucket}`)).toBe('bad-credentials');
    });

    test.each([
      ['nobody listens', async () => 'http://127.0.0.1:9'],
      ['no such host', async () => 'http://no-such-host.invalid'],
      ['https where http is spoken', async () => testEndpoint().replace('http:', 'https:')],
      ['a web server', () => serve((_, reply) => reply.end('<html><body>It works!</body></html>'))],
      ['a web server without this page', () => serve((_, reply) => reply.writeHead(404).end('<html>'))],
      ['a server of JSON', () => serve((_, reply) => reply.end('{"ok": true}'))],
      ['a server that says nothing', () => serve(() => {})],
      ['a server that is overloaded', () => serve((_, reply) => reply.writeHead(503).end())],
    ])('%s', async (_, endpoint) => {
      expect(await probeError(`s3://${bucket}`, { endpoint: await endpoint() })).toBe('store-unreachable');
    });

    test('credentials that may not do it', async () => {
      const endpoint = await serve((_, reply) => reply.writeHead(403).end());
      expect(await probeError(`s3://${bucket}`, { endpoint })).toBe('access-denied');
    });
  });
});

test.each([
  ['ftp://host/x', 'unknown-scheme'],
  ['s3://', 'bad-uri'],
  ['s3:///key', 'bad-uri'],
  ['', 'bad-uri'],
  ['file://host/x', 'bad-uri'],
  ['file:///%FF', 'bad-uri'],
])('%j names no store', (uri, code) => {
  expect(() => openStore(uri, testS3Options())).toThrow(
    expect.objectContaining({ name: 'ConfigError', code }),
  );
});

test('an endpoint without http:// is refused', () => {
  const options = testS3Options({ endpoint: 'localhost:8333' });
  expect(() => openStore('s3://bucket', options)).toThrow(expect.objectContaining({ code: 'bad-endpoint' }));
});
