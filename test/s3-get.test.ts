/** GETs without the SDK (src/s3/get.ts, s3/sign.ts): they ask as the SDK does, and know when to leave it to the SDK. */
import { setTimeout as sleep } from 'node:timers/promises';
import { GetObjectCommand, S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import fc from 'fast-check';
import { afterEach, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { placeOf, type SentRequest } from '../src/s3/get.ts';
import { Bucket, type S3Options } from '../src/s3/s3.ts';
import { openSigner } from '../src/s3/sign.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { type Spoil, type SpoilingProxy, startProxy } from './helpers/spoiling-proxy.ts';
import { serveWeb, type WebServer } from './helpers/web-server.ts';

afterEach(() => {
  vi.unstubAllEnvs();
});

function open(name: string, changes: Partial<S3Options> = {}): Bucket {
  const bucket = new Bucket(`s3://${name}`, testS3Options({ maxAttempts: 1, ...changes }));
  onTestFinished(() => {
    bucket.close();
    bucket.close();
  });
  return bucket;
}

/** The SDK says in its requests which operation it means. */
const isBySdk = (path: string | undefined): boolean => path?.includes('x-id=GetObject') ?? false;

const anyKey = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'grapheme', maxLength: 4 }),
      fc.constantFrom(
        '/',
        '//',
        '..',
        '.',
        ' ',
        '+',
        '%',
        '%20',
        '?',
        '#',
        '&',
        '=',
        "!'()*",
        '~',
        '\\',
        '"',
        'ß',
        '😀',
      ),
    ),
    { minLength: 1, maxLength: 6 },
  )
  .map((parts) => parts.join(''))
  .filter((key) => key !== '' && !key.includes('\0'));

describe('a signature', () => {
  test("is that of AWS's own example", () => {
    const { authorization } = openSigner()(
      {
        path: '/test.txt',
        headers: { host: 'examplebucket.s3.amazonaws.com', range: 'bytes=0-9' },
        regionAndService: 'us-east-1/s3',
      },
      { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' },
      new Date('2013-05-24T00:00:00Z'),
    );
    expect(authorization).toBe(
      'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ' +
        'SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, ' +
        'Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
    );
  });

  test("is the SDK's, whatever the path, the keys, the region and the day", async () => {
    const sign = openSigner();
    const text = fc.stringMatching(/^[!-~]{1,20}$/);
    const few = fc.constantFrom('one', 'two');
    await fc.assert(
      fc.asyncProperty(
        anyKey,
        fc.record({
          accessKeyId: few,
          secretAccessKey: few,
          sessionToken: fc.option(text, { nil: undefined }),
        }),
        fc.record({ host: text }, { noNullPrototype: true }),
        fc.record({ range: text, 'if-match': text }, { requiredKeys: [], noNullPrototype: true }),
        fc.constantFrom('us-east-1', 'eu-west-1'),
        fc.date({ min: new Date('2000-01-01'), max: new Date('2000-01-03'), noInvalidDate: true }),
        async (key, keys, host, conditions, region, now) => {
          const path = `/${key.split('/').map(encodeURIComponent).join('/')}`;
          const headers = { ...host, ...conditions };
          const credentials = {
            ...keys,
            ...(keys.sessionToken === undefined && { sessionToken: undefined }),
          };
          const client = new S3Client({
            region,
            credentials: credentials as typeof keys & { sessionToken: string },
          });
          const signer = await client.config.signer();
          const theirs = await signer.sign(
            { method: 'GET', protocol: 'http:', hostname: 'h', path, query: {}, headers },
            { signingDate: now, signingRegion: region, signingService: 's3' },
          );
          expect(sign({ path, headers, regionAndService: `${region}/s3` }, keys, now)).toEqual(
            theirs.headers,
          );
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('a request', () => {
  /** An S3 server that has an object of every name. */
  const serve = (): Promise<WebServer> =>
    serveWeb((_, reply) => reply.setHeader('Content-Length', 4).end('here'));

  test.each(['', '/below/a/path'])(
    "asks for every key as the SDK's does, at an endpoint with '%s'",
    async (path) => {
      const server = await serve();
      const endpoint = server.url + path;
      const bucket = open('bucket', { endpoint });
      await bucket.get('first');
      const sdk = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true });
      onTestFinished(() => sdk.destroy());
      await fc.assert(
        fc.asyncProperty(anyKey, async (key) => {
          await bucket.get(key);
          const reply = await sdk.send(new GetObjectCommand({ Bucket: 'bucket', Key: key }));
          await reply.Body?.transformToByteArray();
          const [ours, theirs] = server.requests.slice(-2);
          expect(isBySdk(ours?.path)).toBe(false);
          expect(ours?.path).toBe(theirs?.path.replace('?x-id=GetObject', ''));
          expect(ours?.headers.host).toBe(theirs?.headers.host);
        }),
        { numRuns: 30 },
      );
    },
  );

  const aws = { region: 'eu-west-1' };
  test.each([
    { bucket: 'photos', config: aws, origin: 'https://photos.s3.eu-west-1.amazonaws.com', base: '/' },
    { bucket: 'my.photos', config: aws, origin: 'https://s3.eu-west-1.amazonaws.com', base: '/my.photos/' },
    {
      bucket: 'photos',
      config: { ...aws, useDualstackEndpoint: true },
      origin: 'https://photos.s3.dualstack.eu-west-1.amazonaws.com',
      base: '/',
    },
    {
      bucket: 'photos',
      config: { ...aws, endpoint: 'http://[::1]:8333' },
      origin: 'http://[::1]:8333',
      base: '/photos/',
    },
    {
      bucket: 'photos',
      config: { ...aws, endpoint: 'http://host:80/p' },
      origin: 'http://photos.host',
      base: '/p/',
    },
  ])('goes where the SDK went: $origin$base', async ({ bucket, config, origin, base }) => {
    let sent: SentRequest | undefined;
    const handle = async (request: SentRequest) => {
      sent = request;
      throw new Error('far enough');
    };
    const sdk = new S3Client({ ...config, requestHandler: { handle }, maxAttempts: 1 } as S3ClientConfig);
    await expect(sdk.send(new GetObjectCommand({ Bucket: bucket, Key: 'a/b c' }))).rejects.toThrow('enough');
    const place = sent && placeOf(sent, { Bucket: bucket, Key: 'a/b c' });
    expect(place).toEqual({ origin, base, host: new URL(origin).host, regionAndService: 'eu-west-1/s3' });
  });

  test('without a key, or for one that is no text, is left to the SDK', async () => {
    const server = await serve();
    const bucket = open('bucket', { endpoint: server.url });
    await bucket.get('first');
    await bucket.get(''); // which asks for a listing
    await expect(bucket.get('\uD800')).rejects.toThrow();
    expect(server.requests.map(({ path }) => isBySdk(path))).toEqual([true, true]);
  });

  test('goes to the region that a redirect named, and to another once the bucket has moved', async () => {
    let region = 'eu-west-1';
    const server = await serveWeb(({ headers }, reply) => {
      const isHere = headers.authorization?.includes(`/${region}/s3/`);
      if (isHere) return reply.setHeader('Content-Length', 4).end('here');
      return reply
        .writeHead(301, { 'x-amz-bucket-region': region })
        .end('<Error><Code>PermanentRedirect</Code></Error>');
    });
    const bucket = open('bucket', { endpoint: server.url });
    const requestsOf = async (): Promise<boolean[]> => {
      const before = server.requests.length;
      expect(Buffer.from(await bucket.get('key')).toString()).toBe('here');
      return server.requests.slice(before).map(({ path }) => isBySdk(path));
    };
    expect(await requestsOf()).toEqual([true, true]);
    expect(await requestsOf()).toEqual([false]);
    region = 'eu-north-1';
    expect(await requestsOf()).toEqual([false, true, true]);
    expect(await requestsOf()).toEqual([false]);
  });

  test("is dated by the server's clock where ours is wrong", async () => {
    const hour = 3_600_000;
    const server = await serveWeb(({ headers }, reply) => {
      const time = String(headers['x-amz-date']).replace(/(....)(..)(..T..)(..)(..Z)/, '$1-$2-$3:$4:$5');
      const now = new Date(Date.now() + hour);
      reply.setHeader('Date', now.toUTCString());
      if (now.getTime() - Date.parse(time) < hour / 2)
        return reply.setHeader('Content-Length', 4).end('here');
      return reply.writeHead(403).end('<Error><Code>RequestTimeTooSkewed</Code></Error>');
    });
    const bucket = open('bucket', { endpoint: server.url, maxAttempts: 2 });
    for (let at = 0; at < 2; at++) expect(Buffer.from(await bucket.get('key')).toString()).toBe('here');
    expect(server.requests.map(({ path }) => isBySdk(path))).toEqual([true, true, false]);
  });

  test('is signed with credentials that are asked for again before they expire', async () => {
    let lent = 0;
    const lender = await serveWeb((_, reply) =>
      reply.end(
        JSON.stringify({
          AccessKeyId: `key-${++lent}`,
          SecretAccessKey: 'secret',
          Token: `token-${lent}`,
          Expiration: new Date(Date.now() + 60_000).toISOString(),
        }),
      ),
    );
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'])
      vi.stubEnv(name, undefined);
    vi.stubEnv('AWS_CONTAINER_CREDENTIALS_FULL_URI', `${lender.url}/role`);
    const server = await serve();
    const bucket = open('bucket', { endpoint: server.url });
    for (let at = 0; at < 3; at++) await bucket.get('key');
    const [, ...ours] = server.requests.map(({ path, headers }) => {
      const [, key] = /Credential=key-(\d+)\//.exec(headers.authorization ?? '') ?? [];
      expect(headers['x-amz-security-token']).toBe(`token-${key}`);
      return { bySdk: isBySdk(path), key: Number(key) };
    });
    expect(ours.map(({ bySdk }) => bySdk)).toEqual([false, false]);
    expect(ours[1]?.key).toBeGreaterThan(ours[0]?.key ?? Number.NaN);
  });
});

describe('an answer', () => {
  let name: string;
  const large = Buffer.alloc(200_000, 'a picture ');
  beforeAll(async () => {
    name = await makeBucket();
    await putForeignObject(name, 'known', Buffer.from('known'));
    await putForeignObject(name, 'large', large);
  });

  /** A bucket that has been read from, behind a proxy that spoils its next replies. */
  async function openKnown(
    spoils: Spoil[],
    changes: Partial<S3Options> = {},
  ): Promise<{ bucket: Bucket; proxy: SpoilingProxy }> {
    const left: Spoil[] = [undefined, ...spoils];
    const proxy = await startProxy(testEndpoint(), () => left.shift());
    onTestFinished(() => proxy.close());
    const bucket = open(name, { endpoint: proxy.endpoint, requestTimeoutMs: 500, ...changes });
    await bucket.get('known');
    proxy.requests.length = 0;
    return { bucket, proxy };
  }

  test('of a real server is read for odd keys, in part and of one version', async () => {
    const { bucket, proxy } = await openKnown([]);
    const keys = [...fc.sample(anyKey, { numRuns: 12, seed: 1 }), "a+b c%20/../d//e.!'()*~ß😀?#&=.jpg"];
    for (const key of keys) {
      const etag = await putForeignObject(name, key, Buffer.from(`0123 ${key}`));
      expect(Buffer.from(await bucket.get(key, { etag })).toString()).toBe(`0123 ${key}`);
      const part = await bucket.get(key, { range: { first: 1, count: 2 }, etag });
      expect(Buffer.from(part).toString()).toBe('12');
    }
    expect(proxy.requests.filter(isBySdk)).toEqual([]);
  });

  test.each(['drop', 'truncate', 'stall', 503, 429] as const)(
    'that ends in %s is told, and not asked for twice',
    async (spoil) => {
      const { bucket, proxy } = await openKnown([spoil]);
      await expect(bucket.get('large')).rejects.toMatchObject({
        name: 'ConfigError',
        code: 'store-unreachable',
      });
      expect(proxy.requests).toHaveLength(1);
      expect(Buffer.compare(await bucket.get('large'), large)).toBe(0);
      expect(proxy.requests.filter(isBySdk)).toEqual([]);
    },
  );

  test('that another attempt may cure is asked for as often as there are attempts', async () => {
    const { bucket, proxy } = await openKnown(['drop', 500, 'truncate', 503, 503], { maxAttempts: 3 });
    await expect(bucket.get('large')).rejects.toMatchObject({ code: 'store-unreachable' });
    expect(proxy.requests).toHaveLength(3);
    expect(Buffer.compare(await bucket.get('large'), large)).toBe(0);
    expect(proxy.requests).toHaveLength(6);
  });

  test('that concerns the object is explained by the SDK, and the next object is read without it', async () => {
    const { bucket, proxy } = await openKnown([]);
    await expect(bucket.get('missing')).rejects.toMatchObject({ name: 'S3Error', code: 'not-found' });
    await expect(bucket.get('known', { etag: 'another' })).rejects.toMatchObject({
      code: 'precondition-failed',
    });
    const behind = bucket.get('known', { range: { first: 5, count: 1 } });
    await expect(behind).rejects.toMatchObject({ code: 'out-of-range' });
    await bucket.get('known');
    expect(proxy.requests.map(isBySdk)).toEqual([false, true, false, true, false, true, false]);
  });

  test('that refuses is asked for by the SDK, which is asked first again', async () => {
    const { bucket, proxy } = await openKnown([403, 403]);
    await expect(bucket.get('known')).rejects.toMatchObject({ name: 'ConfigError', code: 'access-denied' });
    await bucket.get('known');
    await bucket.get('known');
    expect(proxy.requests.map(isBySdk)).toEqual([false, true, true, false]);
  });

  test('over the limit is not read, nor one that is another part', async () => {
    let head: Record<string, string | number> = { 'Content-Length': 4 };
    const server = await serveWeb((_, reply) => {
      reply.writeHead(200, head).write('here');
      if (head['Content-Length'] === 4) reply.end();
    });
    const bucket = open('bucket', { endpoint: server.url, requestTimeoutMs: 5_000 });
    await bucket.get('key');
    head = { 'Content-Length': 1_000_000 };
    const started = Date.now();
    await expect(bucket.get('key', { maxBytes: 999_999 })).rejects.toMatchObject({ code: 'too-many-bytes' });
    const part = bucket.get('key', { range: { first: 5, count: 10 } });
    await expect(part).rejects.toMatchObject({ code: 'unsupported' });
    head = {};
    await expect(bucket.get('key')).rejects.toMatchObject({ code: 'store-unreachable' });
    expect(Date.now() - started).toBeLessThan(4_000); // none waited for its body
    expect(server.requests.map(({ path }) => isBySdk(path))).toEqual([true, false, false, false]);
    await vi.waitFor(() => expect(server.open).toBe(0));
  });
});

describe('a wait', () => {
  /** Answers the first request, and begins to answer the others. */
  async function openStalling(changes: Partial<S3Options>): Promise<{ bucket: Bucket; server: WebServer }> {
    let answered = 0;
    const server = await serveWeb((_, reply) => {
      if (answered++ === 0) reply.setHeader('Content-Length', 4).end('here');
      else reply.writeHead(200, { 'Content-Length': 9 }).write('here');
    });
    const bucket = open('bucket', { endpoint: server.url, ...changes });
    await bucket.get('key');
    return { bucket, server };
  }

  test('for a free connection is bounded as one for an answer is', async () => {
    const { bucket, server } = await openStalling({ maxSockets: 1, requestTimeoutMs: 300 });
    const gets = [bucket.get('one'), bucket.get('two'), bucket.get('three')];
    for (const { status } of await Promise.allSettled(gets)) expect(status).toBe('rejected');
    await vi.waitFor(() => expect(server.open).toBe(0));
    expect(server.requests.map(({ path }) => path).slice(1)).toEqual(['/bucket/one']);
  });

  test('that is aborted ends at once, and its connection too', async () => {
    const { bucket, server } = await openStalling({ maxSockets: 1 });
    const abort = new AbortController();
    const gets = ['one', 'two'].map((key) => bucket.get(key, { signal: abort.signal }));
    await vi.waitFor(() => expect(server.open).toBe(1));
    await sleep(50); // its first bytes come
    abort.abort(new Error('enough'));
    for (const get of gets) await expect(get).rejects.toThrow('enough');
    await vi.waitFor(() => expect(server.open).toBe(0));
    await expect(bucket.get('three', { signal: abort.signal })).rejects.toThrow('enough');
    expect(server.requests).toHaveLength(2);
  });
});
