/**
 * GETs of whole objects and ranges without the SDK, which spends three quarters of their price on its own ways
 * (test/bench/read.ts). Only good answers are taken: what the SDK knows is not known here a second time.
 *
 *   1. A bucket's first GET goes through the SDK. Once it succeeds, its request tells where the bucket is: host, style of
 *      address, region, every redirect followed.
 *   2. The next ones are built alike, signed here (s3/sign.ts), and sent over connections of their own (undici).
 *   3. A 200 or 206 lands in its buffer as it comes. What another attempt may cure is thrown. Any other answer is left to
 *      the SDK, which asks again: it knows other regions, wrong clocks, and what each error means.
 *   4. Where that answer concerned more than the object, what was learnt is forgotten, and the next GET is a first one.
 */
import { type IncomingHttpHeaders, STATUS_CODES } from 'node:http';
import type { GetObjectCommandInput, S3Client } from '@aws-sdk/client-s3';
import type { Dispatcher, Pool } from 'undici';
import { version } from '../version.ts';
import { openSigner } from './sign.ts';

export interface GetBounds {
  /** For the headers, wait for a free connection included, and for each next piece of the body. */
  timeoutMs: number;
  connectionTimeoutMs: number;
  maxConnections: number;
}

export interface GetRequest {
  key: string;
  /** `bytes=0-9` */
  range?: string | undefined;
  /** Without its quotes. */
  etag?: string | undefined;
  /** Judges a good answer before its body is read, and gives its length. */
  accept(reply: GetReply): number;
  signal?: AbortSignal | undefined;
}

/** What a good answer's headers say. */
export interface GetReply {
  length: number | undefined;
  contentRange: string | undefined;
}

export interface Gets {
  /**
   * The body, in a buffer of its own; `undefined` where the SDK shall ask. One request, never repeated. Throws what `accept`
   * throws, the signal's reason, or an Error where the connection broke or stalled or the server is overloaded.
   */
  get(request: GetRequest): Promise<Uint8Array | undefined>;
  /** Breaks off what is under way. Safe to call twice. */
  close(): void;
}

/** Where the SDK's last good GET went. */
interface Place {
  origin: string;
  /** The header, as it was signed. */
  host: string;
  /** The path before the key: '/', '/bucket/'. */
  base: string;
  regionAndService: string;
}

/** `client` is watched, and must serve one bucket. */
export function openGets(client: S3Client, bounds: GetBounds): Gets {
  const sign = openSigner();
  let place: Place | undefined;
  let connections: { origin: string; pool: Promise<Pool> } | undefined;

  client.middlewareStack.add(
    (next, { commandName }) =>
      async (args) => {
        const result = await next(args);
        if (commandName === 'GetObjectCommand') {
          // What the SDK takes and gives for this command in Node; its types cover all others.
          const { statusCode } = result.response as { statusCode: number };
          if (isGood(statusCode))
            place = placeOf(args.request as SentRequest, args.input as GetObjectCommandInput);
        }
        return result;
      },
    { step: 'deserialize', priority: 'low', name: 'learnPlace' },
  );

  function poolOf(origin: string): Promise<Pool> {
    if (connections?.origin !== origin) {
      void connections?.pool.then((pool) => pool.close()); // once its last answer is read
      connections = { origin, pool: openPool(origin, bounds) };
    }
    return connections.pool;
  }

  return {
    async get({ key, range, etag, accept, signal }) {
      const known = place;
      if (!known || !isPlain(key, etag)) return undefined;
      // They are kept, and asked for again before they expire. Why there are none, the SDK says.
      const credentials = await client.config.credentials().catch(() => undefined);
      if (!credentials) return undefined;
      const { origin, host, base, regionAndService } = known;
      const path = base + escapeKey(key);
      const pool = await poolOf(origin);
      const now = new Date(Date.now() + client.config.systemClockOffset);
      const conditions = { ...(range && { range }), ...(etag && { 'if-match': `"${etag}"` }) };
      const headers = sign({ path, headers: { host, ...conditions }, regionAndService }, credentials, now);
      headers['user-agent'] = userAgent;
      const answer = await exchange(pool, { path, headers }, { accept, signal, timeoutMs: bounds.timeoutMs });
      if (answer instanceof Uint8Array) return answer;
      if (!concernsObject.has(answer) && place === known) place = undefined;
      return undefined;
    },

    close() {
      void connections?.pool.then((pool) => pool.destroy());
      connections = undefined;
    },
  };
}

const userAgent = `lensmill/${version}`;

/** Answers about the object alone: the others may be as good as ever. */
const concernsObject = new Set([404, 412, 416]);

function isGood(status: number): boolean {
  return status === 200 || status === 206;
}

/** Whether it can be sent as it is. Without a key it would be a listing. */
function isPlain(key: string, etag = ''): boolean {
  return key !== '' && key.isWellFormed() && /^[\x21-\x7e]*$/.test(etag);
}

/** As the SDK does it: everything but '/' and the unreserved characters of RFC 3986. */
function escapeKey(key: string): string {
  return encodeURIComponent(key)
    .replaceAll('%2F', '/')
    .replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** A request as the SDK's handler takes it. */
export interface SentRequest {
  protocol: string;
  hostname: string;
  port?: number;
  path: string;
  headers: Record<string, string>;
}

/** `undefined` for what cannot be built by hand: another kind of signature, or keys of a session. */
export function placeOf(
  { protocol, hostname, port, path, headers }: SentRequest,
  { Key: key = '' }: GetObjectCommandInput,
): Place | undefined {
  const { host, authorization = '' } = headers;
  const [, regionAndService] =
    /^AWS4-HMAC-SHA256 Credential=.*?\/\d{8}\/(.*?)\/aws4_request,/.exec(authorization) ?? [];
  const escaped = escapeKey(key);
  const base = path.slice(0, -escaped.length);
  if (!host || !regionAndService || 'x-amz-s3session-token' in headers || base + escaped !== path)
    return undefined;
  return { origin: `${protocol}//${hostname}${port ? `:${port}` : ''}`, host, base, regionAndService };
}

/** Loaded where it is used: undici takes as long as the SDK itself. */
async function openPool(origin: string, bounds: GetBounds): Promise<Pool> {
  const { Pool } = await import('undici');
  return new Pool(origin, {
    connections: bounds.maxConnections,
    connect: { timeout: bounds.connectionTimeoutMs },
    allowH2: false,
    // `exchange` has a timer of its own, which also covers the wait for a connection.
    headersTimeout: 0,
    bodyTimeout: 0,
  });
}

/** More of an error's body is not read to its end for the sake of its connection. */
const mostDroppedBytes = 64 * 1024;

/** The body of a good answer, the status of any other. */
function exchange(
  pool: Pool,
  { path, headers }: { path: string; headers: Record<string, string> },
  { accept, signal, timeoutMs }: Pick<GetRequest, 'accept' | 'signal'> & { timeoutMs: number },
): Promise<Uint8Array | number> {
  return new Promise((resolve, reject) => {
    let controller: Dispatcher.DispatchController | undefined;
    let givenUp: Error | undefined;
    let status = 0;
    let body: Buffer | undefined;
    let filled = 0;

    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
    const fail = (error: unknown): void => {
      finish();
      reject(error);
    };
    /** At once, be it still without a connection. */
    const giveUp = (error: Error): void => {
      fail(error);
      givenUp = error;
      controller?.abort(error);
    };
    const onAbort = (): void => giveUp(signal?.reason);
    const conclude = (): void => {
      finish();
      if (body && filled < body.length) reject(new Error(`${filled} of ${body.length} bytes came`));
      else if (mayPass(status)) reject(new Error(`${status} ${STATUS_CODES[status]}`));
      else resolve(body ?? status);
    };
    const timer = setTimeout(() => giveUp(new Error(`nothing came for ${timeoutMs / 1000} s`)), timeoutMs);
    if (signal?.aborted) return onAbort();
    signal?.addEventListener('abort', onAbort);

    pool.dispatch(
      { method: 'GET', path, headers },
      {
        onRequestStart(started) {
          controller = started;
          if (givenUp) started.abort(givenUp);
        },
        onResponseStart(_, code, head) {
          timer.refresh();
          status = code;
          if (isGood(code)) body = Buffer.allocUnsafeSlow(accept(replyOf(head)));
        },
        onResponseData(started, chunk) {
          timer.refresh();
          body?.set(chunk, filled);
          filled += chunk.length;
          if (body || filled <= mostDroppedBytes) return;
          conclude();
          started.abort(new Error('too long an error'));
        },
        onResponseEnd: conclude,
        onResponseError: (_, error) => fail(error),
      },
    );
  });
}

/** Whether another attempt may cure it; s3/errors.ts calls the same ones unreachable. */
function mayPass(status: number): boolean {
  return status === 429 || (status >= 500 && status !== 501);
}

function replyOf(head: IncomingHttpHeaders): GetReply {
  const length = head['content-length'];
  return { length: length === undefined ? undefined : Number(length), contentRange: head['content-range'] };
}
