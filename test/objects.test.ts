/** What every member of `Objects` promises (src/objects/objects.ts), held by each of them, and what each does in its own way. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { openFileObjects } from '../src/objects/file.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openObjects } from '../src/objects/open-objects.ts';
import { openS3Objects } from '../src/objects/s3.ts';
import { openWebObjects } from '../src/objects/web.ts';
import { moduleUrl, runAsNobody } from './helpers/child.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { type Spoil, type SpoilingProxy, startProxy } from './helpers/spoiling-proxy.ts';
import { tempFolder } from './helpers/temp.ts';
import { serveWeb } from './helpers/web-server.ts';

const bytes = (text: string) => Buffer.from(text);
const maxBytes = 10_000_000;
/** Large enough to come in several pieces; every place in it is unlike its neighbours. */
const large = Buffer.from(Uint32Array.from({ length: 750_000 }, (_, at) => at * 2_654_435_761).buffer);

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(stream));
}

const keep = closeAfterEach<Objects>();

/** Where a member finds its objects. */
interface Ground {
  open(): Objects;
  /** Writes an object of this name, or another version of it, and gives its URI. */
  put(name: string, body: Uint8Array): Promise<string>;
}

async function newFolder(): Promise<Ground> {
  const root = tempFolder();
  return {
    open: openFileObjects,
    put: async (name, body) => {
      writeFileSync(join(root, name), body);
      return pathToFileURL(join(root, name)).href;
    },
  };
}

async function newBucket(): Promise<Ground> {
  const bucket = await makeBucket();
  return {
    open: () => openS3Objects(testS3Options()),
    put: async (name, body) => {
      await putForeignObject(bucket, name, body);
      return `s3://${bucket}/${name}`;
    },
  };
}

async function newSite(): Promise<Ground> {
  const bodies = new Map<string, Uint8Array>();
  const server = await serveWeb((request, reply) => {
    const body = bodies.get(request.url ?? '');
    if (!body) return reply.writeHead(404).end();
    reply.setHeader('ETag', `"${createHash('sha256').update(body).digest('hex')}"`);
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    if (first === undefined) return reply.setHeader('Content-Length', body.length).end(body);
    if (Number(first) >= body.length)
      return reply.writeHead(416, { 'Content-Range': `bytes */${body.length}` }).end();
    const part = body.subarray(Number(first), last ? Number(last) + 1 : body.length);
    const end = Number(first) + part.length - 1;
    reply.writeHead(206, {
      'Content-Length': part.length,
      'Content-Range': `bytes ${first}-${end}/${body.length}`,
    });
    return reply.end(part);
  });
  return {
    open: () => openWebObjects({ allowHosts: [server.host], perHost: 32, perSecond: 0, timeoutMs: 5_000 }),
    put: async (name, body) => {
      bodies.set(`/${encodeURIComponent(name)}`, body);
      return `${server.url}/${encodeURIComponent(name)}`;
    },
  };
}

describe.each([
  { name: 'file', newGround: newFolder },
  { name: 's3', newGround: newBucket },
  { name: 'web', newGround: newSite },
])('$name objects', ({ newGround }) => {
  let ground: Ground;
  let objects: Objects;
  beforeEach(async () => {
    ground = await newGround();
    objects = keep(ground.open());
  });

  test('an object is read whole, in part and as a stream, all of the version that it was', async () => {
    const uri = await ground.put('large', large);
    const { etag, size } = await objects.stat(uri);
    expect(size).toBe(large.length);
    expect(etag).not.toBe('');
    expect(Buffer.compare(await objects.read(uri, { etag, maxBytes }), large)).toBe(0);
    expect(await objects.readRange(uri, { etag, first: 1_000_001, count: 9 })).toEqual(
      large.subarray(1_000_001, 1_000_010),
    );
    expect(Buffer.compare(await collect(objects.stream(uri, { etag })), large)).toBe(0);
    const rest = await collect(objects.stream(uri, { etag, first: 2_000_001 }));
    expect(Buffer.compare(rest, large.subarray(2_000_001))).toBe(0);
  });

  test('what is asked for behind the end is not there, and no error', async () => {
    const uri = await ground.put('small', bytes('0123456789'));
    const { etag } = await objects.stat(uri);
    const range = async (first: number, count: number) =>
      Buffer.from(await objects.readRange(uri, { etag, first, count })).toString();
    expect(await range(7, 100)).toBe('789');
    expect(await range(10, 1)).toBe('');
    expect(await range(1_000, 1)).toBe('');
    expect(await range(3, 0)).toBe('');
    expect(await range(0, 1)).toBe('0');
    for (const first of [10, 11])
      expect(await collect(objects.stream(uri, { etag, first }))).toEqual(bytes(''));
  });

  test('an empty object is empty', async () => {
    const uri = await ground.put('empty', bytes(''));
    const { etag, size } = await objects.stat(uri);
    expect(size).toBe(0);
    expect(await objects.read(uri, { etag, maxBytes })).toHaveLength(0);
    expect(await objects.readRange(uri, { etag, first: 0, count: 5 })).toHaveLength(0);
    expect(await collect(objects.stream(uri, { etag }))).toHaveLength(0);
  });

  test('another version is changed, however it is read; without an etag any version will do', async () => {
    const uri = await ground.put('object', bytes('first'));
    const { etag } = await objects.stat(uri);
    await ground.put('object', bytes('the second'));
    const changed = { name: 'ReadError', code: 'changed', transient: false };
    await expect(objects.read(uri, { etag, maxBytes })).rejects.toMatchObject(changed);
    await expect(objects.readRange(uri, { etag, first: 0, count: 2 })).rejects.toMatchObject(changed);
    await expect(objects.readRange(uri, { etag, first: 500, count: 2 })).rejects.toMatchObject(changed);
    await expect(collect(objects.stream(uri, { etag }))).rejects.toMatchObject(changed);
    expect(await objects.read(uri, { etag: '', maxBytes })).toEqual(bytes('the second'));
    expect(await objects.readRange(uri, { etag: '', first: 4, count: 3 })).toEqual(bytes('sec'));
    expect(await collect(objects.stream(uri, { etag: '' }))).toEqual(bytes('the second'));
  });

  test('one that is not there is not found', async () => {
    const uri = `${await ground.put('there', bytes('x'))}.not`;
    const missing = { name: 'ReadError', code: 'not-found', transient: false };
    await expect(objects.stat(uri)).rejects.toMatchObject(missing);
    await expect(objects.read(uri, { etag: '', maxBytes })).rejects.toMatchObject(missing);
    await expect(objects.readRange(uri, { etag: '', first: 0, count: 1 })).rejects.toMatchObject(missing);
    await expect(collect(objects.stream(uri, { etag: '' }))).rejects.toMatchObject(missing);
  });

  test('one over the limit is too many bytes, one at the limit is not', async () => {
    const uri = await ground.put('ten', bytes('0123456789'));
    const read = (limit: number) => objects.read(uri, { etag: '', maxBytes: limit });
    await expect(read(9)).rejects.toMatchObject({ code: 'too-many-bytes', transient: false });
    expect(await read(10)).toEqual(bytes('0123456789'));
  });

  test('bytes lie in a buffer of their own, so that they can be given to another thread', async () => {
    const uri = await ground.put('small', bytes('012'));
    expect((await objects.read(uri, { etag: '', maxBytes })).buffer.byteLength).toBe(3);
    expect((await objects.readRange(uri, { etag: '', first: 1, count: 9 })).buffer.byteLength).toBe(2);
  });

  test('an abort is thrown with its reason, in the middle of a stream too', async () => {
    const uri = await ground.put('large', large);
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(objects.stat(uri, { signal })).rejects.toThrow('enough');
    await expect(objects.read(uri, { etag: '', maxBytes, signal })).rejects.toThrow('enough');
    await expect(objects.readRange(uri, { etag: '', first: 0, count: 1, signal })).rejects.toThrow('enough');
    await expect(collect(objects.stream(uri, { etag: '', signal }))).rejects.toThrow('enough');
    const later = new AbortController();
    const begun = (async () => {
      for await (const _ of objects.stream(uri, { etag: '', signal: later.signal }))
        later.abort(new Error('enough'));
    })();
    await expect(begun).rejects.toThrow('enough');
  });

  test('a stream that is left early leaves nothing open', async () => {
    const uri = await ground.put('large', large);
    for (let round = 0; round < 40; round++) {
      for await (const piece of objects.stream(uri, { etag: '' })) {
        expect(piece.length).toBeGreaterThan(0);
        break;
      }
    }
    // Forty connections or descriptors that stayed open would stop this (test/helpers/s3.ts: 32 sockets).
    expect(await objects.readRange(uri, { etag: '', first: 0, count: 4 })).toEqual(large.subarray(0, 4));
  });

  test('odd names are read', async () => {
    for (const name of [
      'a b+c.jpg',
      '100%25.jpg',
      'q?x=1#y&z.jpg',
      'umläut 😀.jpg',
      `'"!.jpg`,
      '\uFFFD.jpg',
    ]) {
      const uri = await ground.put(name, bytes(name));
      expect(await objects.read(uri, { etag: '', maxBytes })).toEqual(bytes(name));
    }
  });
});

describe('file objects', () => {
  let root: string;
  let objects: Objects;
  beforeEach(() => {
    root = tempFolder();
    objects = keep(openFileObjects());
  });
  const readText = async (uri: string) =>
    Buffer.from(await objects.read(uri, { etag: '', maxBytes })).toString();

  test('a path is itself, a file: URI is undone to the byte', async () => {
    writeFileSync(join(root, '100%25.jpg'), 'path');
    writeFileSync(Buffer.from(`${root}/caf\xE9`, 'latin1'), 'latin1');
    expect(await readText(`${root}/100%25.jpg`)).toBe('path');
    expect(await readText(`file://${root}/100%2525.jpg`)).toBe('path');
    expect(await readText(`FILE://localhost${root}/caf%E9`)).toBe('latin1');
    expect(await readText(`file://${root}/caf%e9`)).toBe('latin1');
  });

  test.each([
    '', 'relative.jpg', './a', 'file:a', 'file:/etc/passwd', 'file://host/a', 'file:///a%', 'file:///a%2', 'file:///a%zz',
    'file:///a%00', 'file:///a%2Fb', 'file:///a?b', 'file:///a#b', '/a\0b', 'data:text/plain,x',
  ])('%j names no file', async (uri) => {
    await expect(objects.stat(uri)).rejects.toMatchObject({ name: 'ReadError', code: 'bad-uri' });
    await expect(readText(uri)).rejects.toMatchObject({ code: 'bad-uri', transient: false });
  }); // biome-ignore format: a table

  test('what is no file is not found, and blocks nobody', async () => {
    execFileSync('mkfifo', [join(root, 'fifo')]);
    mkdirSync(join(root, 'folder'));
    symlinkSync('loop', join(root, 'loop'));
    const names = [
      `${root}/fifo`,
      `${root}/folder`,
      `${root}/loop`,
      '/dev/zero',
      `${root}/${'n'.repeat(300)}`,
    ];
    for (const uri of names) {
      await expect(objects.stat(uri)).rejects.toMatchObject({ code: 'not-found', transient: false });
      await expect(readText(uri)).rejects.toMatchObject({ code: 'not-found', transient: false });
    }
  });

  test('a file that is written while it is streamed is changed', async () => {
    const path = join(root, 'growing');
    writeFileSync(path, large);
    const read = (async () => {
      for await (const _ of objects.stream(path, { etag: '' })) writeFileSync(path, 'short');
    })();
    await expect(read).rejects.toMatchObject({ code: 'changed' });
  });

  test('a file that may not be read is said to be so', async () => {
    writeFileSync(join(root, 'secret'), 'x');
    chmodSync(join(root, 'secret'), 0o000);
    chmodSync(root, 0o755);
    const output = await runAsNobody(`
      import { openFileObjects } from ${JSON.stringify(moduleUrl('src/objects/file.ts'))};
      const read = openFileObjects().read(${JSON.stringify(join(root, 'secret'))}, { etag: '', maxBytes: 9 });
      await read.catch((error) => console.log(error.name, error.code, error.transient));`);
    expect(output).toBe('ReadError access-denied false\n');
  });
});

describe('s3 objects', () => {
  let bucket: string;
  let proxy: SpoilingProxy | undefined;
  beforeAll(async () => {
    bucket = await makeBucket();
    await putForeignObject(bucket, 'large', large);
    await putForeignObject(bucket, 'small', bytes('0123456789'));
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await proxy?.close();
    proxy = undefined;
  });

  /** Behind a proxy that spoils replies as `spoils` says, one after the other; those behind them pass. */
  async function openSpoiled(...spoils: Spoil[]): Promise<Objects> {
    proxy = await startProxy(testEndpoint(), () => spoils.shift());
    return keep(openS3Objects(testS3Options({ endpoint: proxy.endpoint, requestTimeoutMs: 1_000 })));
  }
  const transient = { name: 'ReadError', code: 'read-failed', transient: true };

  test.each(['drop', 'truncate', 'stall', 503] as const)(
    'what ends in %s may be tried again, and is not tried twice by itself',
    async (spoil) => {
      const objects = await openSpoiled(spoil, spoil, spoil);
      const uri = `s3://${bucket}/large`;
      await expect(objects.read(uri, { etag: '', maxBytes })).rejects.toMatchObject(transient);
      const range = objects.readRange(uri, { etag: '', first: 5, count: 90_000 });
      await expect(range).rejects.toMatchObject(transient);
      await expect(collect(objects.stream(uri, { etag: '', first: 7 }))).rejects.toMatchObject(transient);
      expect(proxy?.requests).toHaveLength(3);
    },
  );

  test('a stream that stalls has given what came', async () => {
    const objects = await openSpoiled('stall');
    const pieces: Uint8Array[] = [];
    const read = (async () => {
      for await (const piece of objects.stream(`s3://${bucket}/large`, { etag: '' })) pieces.push(piece);
    })();
    await expect(read).rejects.toMatchObject(transient);
    const came = Buffer.concat(pieces);
    expect(came.length).toBeGreaterThan(0);
    expect(Buffer.compare(came, large.subarray(0, came.length))).toBe(0);
  });

  test('an object that may not be read fails alone; credentials and buckets concern all', async () => {
    const denied = await openSpoiled(403, 403);
    await expect(denied.stat(`s3://${bucket}/small`)).rejects.toMatchObject({ code: 'access-denied' });
    await expect(collect(denied.stream(`s3://${bucket}/small`, { etag: '' }))).rejects.toMatchObject({
      name: 'ReadError',
      code: 'access-denied',
      transient: false,
    });
    const objects = keep(openS3Objects(testS3Options()));
    await expect(
      objects.read('s3://no-such-bucket-anywhere/a', { etag: '', maxBytes }),
    ).rejects.toMatchObject({ name: 'ConfigError', code: 'no-bucket' });
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'wrong');
    const wrong = keep(openS3Objects(testS3Options()));
    await expect(wrong.read(`s3://${bucket}/small`, { etag: '', maxBytes })).rejects.toMatchObject({
      name: 'ConfigError',
      code: 'bad-credentials',
    });
  });

  test.each(['s3://', 's3://bucket', 's3://bucket/', 's3:///key', 's3://user@host/key', 's3://a b/key'])(
    '%j names no object',
    async (uri) => {
      const objects = keep(openS3Objects(testS3Options()));
      await expect(objects.stat(uri)).rejects.toMatchObject({ name: 'ReadError', code: 'bad-uri' });
    },
  );

  test('more buckets than are kept are read all the same', async () => {
    const objects = keep(openS3Objects(testS3Options()));
    for (let at = 0; at < 70; at++) {
      const gone = objects.readRange(`s3://no-such-${at}-anywhere/a`, { etag: '', first: 0, count: 0 });
      expect(await gone).toHaveLength(0);
    }
    expect(await objects.read(`s3://${bucket}/small`, { etag: '', maxBytes })).toEqual(bytes('0123456789'));
  });
});

describe('objects of every scheme', () => {
  const open = () =>
    keep(
      openObjects({
        s3: testS3Options(),
        web: { allowHosts: [], perHost: 1, perSecond: 0, timeoutMs: 1_000 },
        allowFiles: true,
      }),
    );

  test('a URI is read by the member of its scheme', async () => {
    const objects = open();
    for (const ground of [await newFolder(), await newBucket()]) {
      const uri = await ground.put('object', bytes('object'));
      const { etag } = await objects.stat(uri);
      expect(await objects.read(uri, { etag, maxBytes })).toEqual(bytes('object'));
      expect(await objects.readRange(uri, { etag, first: 1, count: 2 })).toEqual(bytes('bj'));
      expect(await collect(objects.stream(uri, { etag, first: 3 }))).toEqual(bytes('ect'));
    }
  });

  test('a scheme that nobody reads is one bad URI', async () => {
    const objects = open();
    const refused = { name: 'ReadError', code: 'bad-uri', transient: false };
    await expect(objects.stat('ftp://host/x')).rejects.toMatchObject(refused);
    await expect(collect(objects.stream('gopher://host/x', { etag: '' }))).rejects.toMatchObject(refused);
  });
});
