/** What reading images and archives by URL promises (docs/web.md), against real servers on this machine. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ArchiveKind } from '../src/archives/archive.ts';
import { gzipTar } from '../src/archives/packed-tar.ts';
import { tar } from '../src/archives/tar.ts';
import { zip } from '../src/archives/zip.ts';
import { messageOf } from '../src/errors.ts';
import { makeGate, openGate } from '../src/objects/host-gate.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openWebObjects } from '../src/objects/web.ts';
import { hasCredentials, publicUrl } from '../src/objects/web-url.ts';
import type { WebOptions } from '../src/sources/source.ts';
import { type Extension, makeArchive } from './helpers/archives.ts';
import { moduleUrl } from './helpers/child.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { tempFolder } from './helpers/temp.ts';
import { serveWeb, type WebServer } from './helpers/web-server.ts';

const maxBytes = 1_000_000;
const picture = Buffer.from(Array.from({ length: 1_000 }, (_, at) => at % 251));

const keep = closeAfterEach<Objects>();
function open(server?: WebServer, change: Partial<WebOptions> = {}): Objects {
  const allowHosts = server ? [server.host] : [];
  return keep(openWebObjects({ allowHosts, perHost: 4, perSecond: 0, timeoutMs: 5_000, ...change }));
}
const read = (objects: Objects, uri: string, etag = ''): Promise<Uint8Array> =>
  objects.read(uri, { etag, maxBytes });

/** An object as a good server gives it: with a version, in parts if asked. */
function servePicture(etag: () => string = () => '"v1"'): Promise<WebServer> {
  return serveWeb(({ method, headers }, reply) => {
    const [, from, to] = /^bytes=([0-9]+)-([0-9]*)$/.exec(headers.range ?? '') ?? [];
    const first = Number(from ?? 0);
    const part = picture.subarray(first, to ? Number(to) + 1 : undefined);
    if (first >= picture.length) return reply.writeHead(416, { 'content-range': 'bytes */1000' }).end();
    const range = `bytes ${first}-${first + part.length - 1}/${picture.length}`;
    reply.writeHead(from === undefined ? 200 : 206, {
      etag: etag(),
      'content-length': part.length,
      ...(from !== undefined && { 'content-range': range }),
    });
    return reply.end(method === 'HEAD' ? '' : part);
  });
}

describe('reading', () => {
  test('an object is read whole, in parts, and as a stream, by one version', async () => {
    const server = await servePicture();
    const objects = open(server);
    const uri = `${server.url}/a%20b.jpg?x=1#part`;
    expect(await objects.stat(uri)).toEqual({ etag: '"v1"', size: 1000 });
    const whole = await read(objects, uri, '"v1"');
    expect(whole).toEqual(picture);
    expect(whole.buffer.byteLength).toBe(1000);
    const range = (first: number, count: number) => objects.readRange(uri, { etag: '"v1"', first, count });
    expect(await range(0, 10)).toEqual(picture.subarray(0, 10));
    expect(await range(990, 100)).toEqual(picture.subarray(990));
    expect(await range(1000, 5)).toHaveLength(0);
    expect(await range(5, 0)).toHaveLength(0);
    const streamed = (first?: number) =>
      Array.fromAsync(objects.stream(uri, { etag: '"v1"', ...(first !== undefined && { first }) }));
    expect(Buffer.concat(await streamed())).toEqual(picture);
    expect(Buffer.concat(await streamed(700))).toEqual(picture.subarray(700));
    expect(await streamed(1000)).toEqual([]);
    expect(server.requests[0]).toMatchObject({ method: 'HEAD', path: '/a%20b.jpg?x=1' });
    expect(server.requests[1]?.headers).toMatchObject({ 'accept-encoding': 'identity' });
    expect(server.requests[1]?.headers['user-agent']).toMatch(/^lensmill\/[0-9]/);
  });

  test('another version than the one asked for is refused, however it is read', async () => {
    let etag = '"v1"';
    const server = await servePicture(() => etag);
    const objects = open(server);
    const uri = `${server.url}/a`;
    for (etag of ['"v2"', 'W/"v1"']) {
      const changed = { name: 'ReadError', code: 'changed', transient: false };
      await expect(read(objects, uri, '"v1"')).rejects.toMatchObject(changed);
      await expect(objects.readRange(uri, { etag: '"v1"', first: 1, count: 2 })).rejects.toMatchObject(
        changed,
      );
      await expect(Array.fromAsync(objects.stream(uri, { etag: '"v1"' }))).rejects.toMatchObject(changed);
    }
    expect(await read(objects, uri)).toHaveLength(1000);
  });

  test('without an ETag the date of the last change is the version, and without that there is none', async () => {
    const date = 'Tue, 24 Nov 2026 10:00:00 GMT';
    const server = await serveWeb(({ url }, reply) =>
      reply.writeHead(200, url === '/dated' ? { 'last-modified': date } : {}).end('x'),
    );
    const objects = open(server);
    expect((await objects.stat(`${server.url}/dated`)).etag).toBe(date);
    expect(await read(objects, `${server.url}/dated`, date)).toHaveLength(1);
    expect((await objects.stat(`${server.url}/plain`)).etag).toBe('');
  });

  test('where HEAD is refused, the size is learned by GET', async () => {
    const server = await serveWeb(({ method, url }, reply) =>
      method === 'HEAD' ? reply.writeHead(Number(url?.slice(1))).end() : reply.end(picture),
    );
    for (const status of [403, 405, 501])
      expect(await open(server).stat(`${server.url}/${status}`)).toEqual({ etag: '', size: 1000 });
    await expect(open(server).stat(`${server.url}/404`)).rejects.toMatchObject({ code: 'not-found' });
  });

  test('an archive whose size no server tells is read where it can be read as one stream, else refused', async () => {
    const list = async (kind: ArchiveKind, extension: Extension) => {
      const archive = makeArchive(extension, [['a.jpg', 'a']]);
      const server = await serveWeb(({ method }, reply) => {
        reply.setHeader('transfer-encoding', 'chunked');
        reply.end(method === 'HEAD' ? '' : archive);
      });
      const objects = open(server);
      return kind.open(objects).list(server.url, await objects.stat(server.url));
    };
    expect(await list(gzipTar, '.tar.gz')).toMatchObject({ members: [{ name: 'a.jpg' }] });
    await expect(list(tar, '.tar')).rejects.toMatchObject({ code: 'bad-archive' });
    await expect(list(zip, '.zip')).rejects.toMatchObject({ code: 'bad-archive' });
  });

  test('a server that knows no ranges gives the beginning, and nothing else', async () => {
    const server = await serveWeb((_, reply) => reply.end(picture));
    const objects = open(server);
    expect(await objects.readRange(server.url, { etag: '', first: 0, count: 10 })).toEqual(
      picture.subarray(0, 10),
    );
    const refused = { code: 'read-failed', transient: false };
    await expect(objects.readRange(server.url, { etag: '', first: 1, count: 9 })).rejects.toMatchObject(
      refused,
    );
    await expect(Array.fromAsync(objects.stream(server.url, { etag: '', first: 1 }))).rejects.toMatchObject(
      refused,
    );
  });

  test('another part than was asked for is refused', async () => {
    let range = '';
    const server = await serveWeb((_, reply) =>
      reply.writeHead(206, range === '' ? {} : { 'content-range': range }).end('0123456789'),
    );
    const objects = open(server);
    for (range of [
      '',
      'bytes 6-14/100',
      'bytes 5-15/100',
      'bytes 5-4/100',
      'chars 5-14/100',
      'bytes 5-12/100',
    ])
      await expect(
        objects.readRange(server.url, { etag: '', first: 5, count: 10 }),
        range,
      ).rejects.toMatchObject({ code: 'read-failed', transient: false });
  });

  test('leaving a stream closes its connection', async () => {
    const closed = Promise.withResolvers<void>();
    const server = await serveWeb((_, reply) => {
      const more = setInterval(() => reply.write('more'), 5);
      reply.on('close', () => {
        clearInterval(more);
        closed.resolve();
      });
    });
    for await (const _ of open(server).stream(server.url, { etag: '' })) break;
    await closed.promise;
  });
});

describe('what servers do wrong', () => {
  const statuses: [number, string, boolean][] = [
    [400, 'read-failed', false], [401, 'access-denied', false], [403, 'access-denied', false],
    [404, 'not-found', false], [407, 'access-denied', false], [408, 'read-failed', true], [410, 'not-found', false],
    [418, 'read-failed', false], [425, 'read-failed', true], [429, 'read-failed', true],
    [451, 'access-denied', false], [500, 'read-failed', true], [502, 'read-failed', true],
    [503, 'read-failed', true], [204, 'read-failed', false], [300, 'read-failed', false],
  ]; // biome-ignore format: a table

  test('a status says why an item fails, and whether to try again', async () => {
    const server = await serveWeb(({ url }, reply) => reply.writeHead(Number(url?.slice(1))).end());
    for (const [status, code, transient] of statuses)
      await expect(read(open(server), `${server.url}/${status}`)).rejects.toMatchObject({
        name: 'ReadError',
        code,
        transient,
        message: expect.stringContaining(`answers ${status}`),
      });
  });

  test('what is too large is not read, whether its size is told or not', async () => {
    let sent = 0;
    const server = await serveWeb(({ url }, reply) => {
      if (url === '/told') return reply.writeHead(200, { 'content-length': maxBytes + 1 }).write('x');
      const send = (): void => {
        for (let room = true; room && !reply.destroyed; sent += 1e4) room = reply.write(Buffer.alloc(1e4));
      };
      reply.on('drain', send);
      return send();
    });
    for (const path of ['/told', '/endless'])
      await expect(read(open(server), server.url + path)).rejects.toMatchObject({
        code: 'too-many-bytes',
        transient: false,
      });
    expect(sent).toBeLessThan(50 * maxBytes);
  });

  test('a body in single bytes is read, in a buffer of its own size', async () => {
    const server = await serveWeb((_, reply) => {
      for (const byte of picture) reply.write(Buffer.of(byte));
      reply.end();
    });
    const bytes = await read(open(server), server.url);
    expect(bytes).toEqual(picture);
    expect(bytes.buffer.byteLength).toBe(1000);
  });

  test('a body that breaks off is tried again, told length or not', async () => {
    const server = await serveWeb(({ url }, reply) => {
      reply.writeHead(200, url === '/told' ? { 'content-length': 1000 } : {});
      reply.write('half', () => reply.destroy());
    });
    for (const path of ['/told', '/chunked']) {
      const broken = { name: 'ReadError', code: 'read-failed', transient: true };
      await expect(read(open(server), server.url + path)).rejects.toMatchObject(broken);
      const stream = open(server).stream(server.url + path, { etag: '' });
      await expect(Array.fromAsync(stream)).rejects.toMatchObject(broken);
    }
  });

  test('a server that never answers, or stops in the middle, is given up', async () => {
    const server = await serveWeb(({ url }, reply) => {
      if (url === '/stalled') reply.writeHead(200, { 'content-length': 1000 }).write('half');
    });
    for (const path of ['/silent', '/stalled'])
      await expect(read(open(server, { timeoutMs: 200 }), server.url + path)).rejects.toMatchObject({
        name: 'ReadError',
        code: 'timeout',
        transient: true,
      });
  });

  test('an abort ends a read at once, with its reason', async () => {
    const server = await serveWeb(({ url }, reply) => {
      if (url === '/stalled') reply.writeHead(200).write('half');
    });
    for (const path of ['/silent', '/stalled']) {
      const signal = AbortSignal.any([AbortSignal.timeout(50)]);
      await expect(
        open(server).read(server.url + path, { etag: '', maxBytes, signal }),
      ).rejects.toMatchObject({
        name: 'TimeoutError',
      });
    }
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(open(server).stat(server.url, { signal })).rejects.toThrow('enough');
  });

  test('a compressed answer to a plain question is no picture', async () => {
    const server = await serveWeb((_, reply) =>
      reply.writeHead(200, { 'content-encoding': 'gzip' }).end('x'),
    );
    await expect(read(open(server), server.url)).rejects.toMatchObject({
      code: 'read-failed',
      transient: false,
    });
  });

  test('what is no HTTP, and a port where nobody listens, are errors of the item', async () => {
    const noise = createServer((socket) => socket.resume().end('SSH-2.0-x\r\n')).listen(0, '127.0.0.1');
    await new Promise((resolve) => noise.once('listening', resolve));
    const host = `127.0.0.1:${(noise.address() as { port: number }).port}`;
    const objects = open(undefined, { allowHosts: [host] });
    await expect(read(objects, `http://${host}/`)).rejects.toMatchObject({ name: 'ReadError' });
    await new Promise((resolve) => noise.close(resolve));
    await expect(read(objects, `http://${host}/`)).rejects.toMatchObject({
      name: 'ReadError',
      code: 'read-failed',
      transient: true,
    });
  });

  test('a certificate that nobody vouches for is refused, and not tried again', async ({ skip }) => {
    const folder = tempFolder();
    const [key, cert] = ['key.pem', 'cert.pem'].map((name) => join(folder, name)) as [string, string];
    try {
      execFileSync(
        'openssl',
        ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-days', '2'].concat([
          '-keyout',
          key,
          '-out',
          cert,
        ]),
        { stdio: 'pipe' },
      );
    } catch (error) {
      skip(`no certificate to test with: openssl: ${messageOf(error)}`);
    }
    const server = await serveWeb((_, reply) => reply.end('x'), {
      key: readFileSync(key, 'utf8'),
      cert: readFileSync(cert, 'utf8'),
    });
    await expect(read(open(server), server.url)).rejects.toMatchObject({
      code: 'read-failed',
      transient: false,
      message: expect.stringContaining('certificate'),
    });
    expect(server.requests).toEqual([]);
  });
});

describe('where a URL may lead', () => {
  test('no spelling of this machine is reached: there is not even a connection', async () => {
    const server = await serveWeb((_, reply) => reply.end('secret'));
    const port = new URL(server.url).port;
    const hosts = [
      '127.0.0.1', '2130706433', '0x7f000001', '0x7f.1', '0177.0.0.1', '017700000001', '127.1', '127.0.1', '0', '0.0.0.0',
      '127.0.0.1.', '%31%32%37.0.0.1', '１２７。0.0.1', '[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]',
      '[::127.0.0.1]', '[64:ff9b::127.0.0.1]', '[2002:7f00:1::]', 'localhost', 'localhost.', 'LOCALHOST', 'ⓛocalhost',
      'user:pw@localhost',
    ]; // biome-ignore format: a table
    for (const host of hosts) {
      const failure = await read(open(), `http://${host}:${port}/`).catch((error) => error);
      if (failure.code === 'not-found' && host === 'localhost.') continue; // not every resolver knows it
      expect([host, failure.code, failure.transient]).toEqual([host, 'not-allowed', false]);
      expect(failure.message).toContain('--allow-host');
    }
    expect(server.connections).toBe(0);
  });

  test('an allowed name or address is reached, on the port that is allowed', async () => {
    const server = await serveWeb((_, reply) => reply.end('x'));
    const port = new URL(server.url).port;
    const attempt = (url: string, ...allowHosts: string[]) =>
      read(open(undefined, { allowHosts }), url).then(
        () => 'read',
        (error) => error.code,
      );
    expect(await attempt(server.url, '127.0.0.1')).toBe('read');
    expect(await attempt(server.url, '127.0.0.0/8')).toBe('read');
    expect(await attempt(`http://2130706433:${port}/`, server.host)).toBe('read');
    expect(await attempt(`http://localhost:${port}/`, `localhost:${port}`)).toBe('read');
    expect(await attempt(server.url, `127.0.0.1:${Number(port) + 1}`)).toBe('not-allowed');
    expect(await attempt(server.url, 'localhost')).toBe('not-allowed');
  });

  test('other schemes, and what is no URL, are refused', async () => {
    for (const uri of [
      'file:///etc/passwd',
      'ftp://host/x',
      'data:,x',
      'javascript:1',
      '//host/x',
      '',
      'http://[::1',
    ])
      await expect(read(open(), uri), uri).rejects.toMatchObject({ code: 'bad-uri', transient: false });
  });

  test('a proxy that the environment names is not asked', async () => {
    const proxy = await serveWeb((_, reply) => reply.end('by proxy'));
    process.env.HTTP_PROXY = proxy.url;
    try {
      await expect(read(open(), 'http://127.0.0.1:1/')).rejects.toMatchObject({ code: 'not-allowed' });
      expect(proxy.requests).toEqual([]);
    } finally {
      delete process.env.HTTP_PROXY;
    }
  });
});

describe('redirects', () => {
  const redirect = (to: (path: string) => string, status = 302) =>
    serveWeb(({ url = '' }, reply) =>
      url === '/picture' ? reply.end('picture') : reply.writeHead(status, { location: to(url) }).end('moved'),
    );

  test('are followed, five at most, relative ones too', async () => {
    const server = await redirect((path) => (path === '/5' ? 'picture' : `/${Number(path.slice(1)) + 1}`));
    expect(Buffer.from(await read(open(server), `${server.url}/1`)).toString()).toBe('picture');
    await expect(read(open(server), `${server.url}/0`)).rejects.toMatchObject({
      code: 'read-failed',
      transient: false,
    });
    for (const status of [301, 303, 307, 308]) {
      const other = await redirect(() => '/picture', status);
      expect(await read(open(other), other.url)).toHaveLength(7);
    }
  });

  test('a loop ends', async () => {
    const server = await redirect((path) => path);
    await expect(read(open(server), `${server.url}/loop`)).rejects.toMatchObject({ code: 'read-failed' });
    expect(server.requests).toHaveLength(6);
  });

  test('each is checked as if a list had named it', async () => {
    const inner = await serveWeb((_, reply) => reply.end('secret'));
    const refused = {
      'http://169.254.169.254/latest/meta-data/': 'not-allowed',
      'http://[fd00:ec2::254]/latest/meta-data/': 'not-allowed',
      [inner.url]: 'not-allowed',
      [inner.url.replace('127.0.0.1', 'localhost')]: 'not-allowed',
      'file:///etc/passwd': 'bad-uri',
      'http://[': 'bad-uri',
    };
    for (const [target, code] of Object.entries(refused)) {
      const server = await redirect(() => target);
      await expect(read(open(server), server.url), target).rejects.toMatchObject({ code, transient: false });
    }
    expect(inner.requests).toEqual([]);
  });
});

describe('passwords and signatures', () => {
  test('are sent to the host that they are for, and to no other', async () => {
    const other = await serveWeb((_, reply) => reply.end('x'));
    const server = await serveWeb(({ url }, reply) =>
      reply.writeHead(302, { location: url === '/1' ? '/2' : other.url.replace('//', '//x:y@') }).end(),
    );
    const objects = open(server, { allowHosts: ['127.0.0.1'] });
    await read(objects, `${server.url.replace('//', '//us%65r:p%40ss@')}/1`);
    const authorization = `Basic ${Buffer.from('user:p@ss').toString('base64')}`;
    expect(server.requests.map(({ headers }) => headers.authorization)).toEqual([
      authorization,
      authorization,
    ]);
    expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
  });

  test('stand in no error', async () => {
    const server = await serveWeb(({ url }, reply) => {
      if (url?.startsWith('/moved')) return reply.writeHead(302, { location: url }).end();
      return url?.startsWith('/broken') ? reply.destroy() : reply.writeHead(404).end();
    });
    const secrets = 'x=1&X-Amz-Signature=hush&token=hush&sig=hush';
    for (const uri of [
      `${server.url}/404?${secrets}`,
      `${server.url}/moved?${secrets}`,
      `${server.url}/broken?${secrets}`,
      `http://localhost/?${secrets}`,
      `ftp://localhost/?${secrets}`,
      `http://localhost:99999/?${secrets}`,
    ]) {
      // biome-ignore format: a table
      const failure = await read(open(server), uri.replace('//', '//user:hush@')).catch((error) => error);
      expect(failure).toMatchObject({ name: 'ReadError' });
      for (let error = failure; error !== undefined; error = error.cause)
        expect(`${error.stack} ${JSON.stringify(error)}`).not.toContain('hush');
    }
  });

  test('a URL is shown without them, and else as it is', () => {
    expect(publicUrl('https://u:p@host/a?b=c&Sig=x&x-amz-credential=y#access_token=z')).toBe(
      'https://host/a?b=c&Sig=***&x-amz-credential=***#access_token=***',
    );
    for (const uri of [
      'https://host/a@b:c@d?w=200&h=%20#x',
      '/a?key=1@b',
      's3://b/a?key=1',
      'file:///a@b.jpg',
    ])
      expect(publicUrl(uri)).toBe(uri);
    expect(['https://u@h/', 'http:u:p@h', 'https://:p@h/'].map(hasCredentials)).toEqual([true, true, true]);
    expect(['https://h/u@v', 'u:p@h', '/a@b', ''].map(hasCredentials)).toEqual([false, false, false, false]);
  });

  test('no spelling of a URL hides a password from publicUrl', () => {
    const odd = fc
      .array(fc.constantFrom(...'/\\@:?#\t\n .ab%[]'), { maxLength: 6 })
      .map((all) => all.join(''));
    fc.assert(
      fc.property(
        fc.constantFrom('http:', 'HTTPS:', ' ht\ntp:', 'ftp:'),
        odd,
        odd,
        odd,
        (scheme, a, b, c) => {
          const uri = `${scheme}${a}hush${b}@${c}host/`;
          const url = URL.parse(uri);
          if (url && `${url.username}${url.password}`.includes('hush')) {
            expect(hasCredentials(uri)).toBe(true);
            expect(publicUrl(uri)).not.toContain('hush');
          }
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

describe('politeness', () => {
  interface ThreadReads {
    /** `Date.now()` */
    began: number;
    results: string[];
  }

  /** As a lane does: `count` reads at once in a thread of its own. Gives what became of them. */
  async function readInThread(uri: string, count: number, options: WebOptions): Promise<ThreadReads> {
    const script = `
      const { parentPort, workerData } = require('node:worker_threads');
      import(workerData.module).then(async ({ openWebObjects }) => {
        const objects = openWebObjects(workerData.options);
        const began = Date.now();
        const reads = Array.from({ length: workerData.count }, () =>
          objects.read(workerData.uri, { etag: '', maxBytes: 1e6 }).then(() => 'read', (error) => error.code));
        parentPort.postMessage({ began, results: await Promise.all(reads) });
        await objects.close();
      });`;
    const module = moduleUrl('src/objects/web.ts');
    const worker = new Worker(script, { eval: true, workerData: { module, uri, count, options } });
    return new Promise((resolve, reject) => {
      worker.once('message', resolve).once('error', reject);
    });
  }
  const optionsFor = (server: WebServer, change: Partial<WebOptions>): WebOptions => ({
    allowHosts: [server.host],
    perHost: 4,
    perSecond: 0,
    timeoutMs: 5_000,
    gate: makeGate(),
    ...change,
  });

  test('two threads together send a host no more requests at once than are allowed, and all in the end', async () => {
    const server = await serveWeb((_, reply) => setTimeout(() => reply.end('x'), 20));
    const options = optionsFor(server, { perHost: 3 });
    const both = [20, 20].map((count) => readInThread(server.url, count, options));
    expect((await Promise.all(both)).flatMap(({ results }) => results)).toEqual(Array(40).fill('read'));
    expect(server.peak).toBe(3);
  });

  test('two threads together keep to the rate', async () => {
    const server = await serveWeb((_, reply) => reply.end('x'));
    const options = optionsFor(server, { perSecond: 20 });
    const threads = await Promise.all([8, 8].map((count) => readInThread(server.url, count, options)));
    const began = Math.min(...threads.map((thread) => thread.began));
    // 15 intervals of 50 ms, one of which may be 20 ms short; 5 ms for clocks of whole milliseconds.
    expect((server.requests.at(-1)?.at ?? 0) - began).toBeGreaterThan(15 * 50 - 20 - 5);
    expect(server.requests).toHaveLength(16);
  });

  test.each([
    ['in seconds', () => '1'],
    ['as a date', () => new Date(Math.ceil(Date.now() / 1000) * 1000).toUTCString()],
  ])('a host that asks for rest %s gets it from both threads', async (_, retryAfter) => {
    let asked = 0;
    let until = 0;
    const early: number[] = [];
    const server = await serveWeb((_, reply) => {
      if (until > 0 && performance.now() < until) early.push(until - performance.now());
      if (asked++ > 0) return reply.end('x');
      until = performance.now() + 950;
      return reply.writeHead(429, { 'retry-after': retryAfter() }).end();
    });
    const options = optionsFor(server, { perHost: 1 });
    const threads = await Promise.all([3, 3].map((count) => readInThread(server.url, count, options)));
    expect(threads.flatMap(({ results }) => results).toSorted()).toEqual([
      'read',
      'read',
      'read',
      'read',
      'read',
      'read-failed',
    ]);
    expect(early).toEqual([]);
  });

  test('one host that rests holds up no other', async () => {
    const resting = await serveWeb((_, reply) => reply.writeHead(503, { 'retry-after': '3600' }).end());
    const server = await serveWeb((_, reply) => reply.end('x'));
    const named = resting.url.replace('127.0.0.1', 'localhost');
    const objects = open(undefined, { allowHosts: ['127.0.0.1', 'localhost'] });
    await expect(read(objects, named)).rejects.toMatchObject({
      transient: true,
      message: expect.stringContaining('3600 s'),
    });
    const signal = AbortSignal.timeout(100);
    await expect(objects.read(named, { etag: '', maxBytes, signal })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
    expect(resting.requests).toHaveLength(1);
    expect(await read(objects, server.url)).toHaveLength(1);
  });

  test('who gives up waiting keeps nobody else from a turn', async () => {
    const server = await serveWeb((_, reply) => setTimeout(() => reply.end('x'), 100));
    const objects = open(server, { perHost: 1 });
    const first = read(objects, server.url);
    await sleep(20);
    const impatient = Array.from({ length: 5 }, () =>
      objects.read(server.url, { etag: '', maxBytes, signal: AbortSignal.timeout(20) }),
    );
    const last = read(objects, server.url);
    for (const { status } of await Promise.allSettled(impatient)) expect(status).toBe('rejected');
    expect(await first).toHaveLength(1);
    expect(await last).toHaveLength(1);
    expect(server.requests).toHaveLength(2);
  });

  test('a failed request gives its turn back, and an open stream keeps none', async () => {
    const server = await serveWeb(({ url }, reply) => {
      if (url === '/stream') reply.writeHead(200).write('x');
      else if (url === '/broken') reply.destroy();
      else reply.writeHead(url === '/404' ? 404 : 200, { 'content-length': 1 }).end('x');
    });
    const objects = open(server, { perHost: 1 });
    const stream = objects.stream(`${server.url}/stream`, { etag: '' })[Symbol.asyncIterator]();
    await stream.next();
    for (const path of ['/404', '/broken'])
      await expect(read(objects, server.url + path)).rejects.toMatchObject({ name: 'ReadError' });
    await expect(read(objects, `${server.url}/ok`, '"other"')).rejects.toMatchObject({ code: 'changed' });
    expect((await objects.stat(`${server.url}/ok`)).size).toBe(1);
    expect(await read(objects, `${server.url}/ok`)).toHaveLength(1);
    await stream.return?.(undefined);
  });

  test('more hosts than there are places are all served, those that are done making room', async () => {
    const gate = openGate(makeGate(), { perHost: 8, perSecond: 0 });
    for (let at = 0; at < 10_000; at++) (await gate.enter(`passing-${at}`)).leave();
    const permits = await Promise.all(Array.from({ length: 5_000 }, (_, at) => gate.enter(`busy-${at}`)));
    for (const permit of permits) permit.leave();
  });
});
