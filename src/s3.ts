/**
 * S3 and what is compatible with it: the one door of the AWS SDK, used by the S3 source and the S3 store.
 *
 * What the SDK does not do by itself, and this file does:
 *   - give up on a server that stops in the middle of a body (all four timeouts are needed for that);
 *   - repeat a GET whose body broke off (the SDK's retries end with the reply's headers);
 *   - repeat a conditional PUT that met another one in flight (409).
 * What an error means, and what to do about it, is in s3-errors.ts.
 */
import { hash } from 'node:crypto';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import pRetry from 'p-retry';
import { ConfigError, messageOf } from './errors.ts';
import { explainS3Error, notS3Error, type S3Act, S3Error } from './s3-errors.ts';

/** Credentials are no option: the SDK looks for them (AWS_ACCESS_KEY_ID …, profiles, instance roles). */
export interface S3Options {
  /** A server other than AWS, such as `http://localhost:8333`. Else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else AWS. */
  endpoint?: string | undefined;
  /** Else the SDK's search (AWS_REGION, profiles), else 'us-east-1', from where AWS redirects to the bucket's own. */
  region?: string | undefined;
  /** The bucket in the path rather than in the host name. Default: true for a server other than AWS. */
  forcePathStyle?: boolean | undefined;
  /** Longest wait for a reply's headers, upload and wait for a free socket included, and for each next piece of a body. */
  requestTimeoutMs: number;
  connectionTimeoutMs: number;
  /** Connections at once. */
  maxSockets: number;
  /** Times that a request is sent, the first included, before its error is thrown. */
  maxAttempts: number;
}

export interface S3Listed {
  key: string;
  size: number;
  /** Without its quotes. */
  etag: string;
}

interface ListOptions {
  /** Only keys that start with it. */
  prefix?: string;
  /** Only keys behind it. */
  after?: string | undefined;
  signal?: AbortSignal | undefined;
}

export interface S3Facts {
  size: number;
  /** Without its quotes. */
  etag: string;
  /** Hex, if the writer said so. */
  sha256: string | undefined;
}

/** The most that one PUT takes. Above it are multipart uploads, where not every server honours If-None-Match. */
const maxPutBytes = 5 * 2 ** 30;

/**
 * The objects of one bucket below one prefix; keys are relative to it. Every method throws ConfigError ('no-bucket',
 * 'bad-credentials', 'access-denied', 'wrong-region', 'store-unreachable') or S3Error, after `maxAttempts`;
 * an aborted one throws the signal's reason.
 */
export class Bucket {
  /** `s3://bucket/prefix`, without a trailing slash. */
  readonly uri: string;
  readonly #name: string;
  /** '' or ends in '/'. */
  readonly #prefix: string;
  readonly #client: S3Client;
  readonly #server: string;
  readonly #maxAttempts: number;

  /** Throws ConfigError: 'bad-uri', 'bad-endpoint'. Sends nothing. */
  constructor(uri: string, options: S3Options) {
    const [, name, path = ''] = /^s3:\/\/([^/]+)(?:\/(.*?)\/*)?$/is.exec(uri) ?? [];
    if (name === undefined)
      throw new ConfigError('bad-uri', `'${uri}' names no bucket; expected s3://BUCKET/PREFIX`);
    // The SDK reads these two itself, but does not tell, and the address style depends on it.
    const { AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
    const endpoint = options.endpoint || AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL;
    if (endpoint && !(URL.canParse(endpoint) && /^https?:\/\//i.test(endpoint))) {
      throw new ConfigError(
        'bad-endpoint',
        `'${endpoint}' is no S3 endpoint; expected such as http://localhost:8333`,
      );
    }
    this.uri = path === '' ? `s3://${name}` : `s3://${name}/${path}`;
    this.#name = name;
    this.#prefix = path === '' ? '' : `${path}/`;
    this.#server = endpoint ? new URL(endpoint).origin : 'AWS';
    this.#maxAttempts = options.maxAttempts;
    this.#client = new S3Client({
      ...(endpoint && { endpoint }),
      region: options.region || defaultRegion,
      followRegionRedirects: true,
      forcePathStyle: options.forcePathStyle ?? Boolean(endpoint),
      // Other servers may refuse the checksum trailers that the SDK sends and expects by default.
      requestChecksumCalculation: endpoint ? 'WHEN_REQUIRED' : 'WHEN_SUPPORTED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      maxAttempts: options.maxAttempts,
      requestHandler: {
        connectionTimeout: options.connectionTimeoutMs,
        requestTimeout: options.requestTimeoutMs,
        throwOnRequestTimeout: true,
        socketTimeout: options.requestTimeoutMs,
        httpAgent: { maxSockets: options.maxSockets },
        httpsAgent: { maxSockets: options.maxSockets },
      },
    });
  }

  /**
   * An object's bytes, whole or `[first, first + count)` with a count of at least 1. Throws S3Error 'not-found',
   * 'precondition-failed' (its etag is not `etag`), 'too-many-bytes' (before it reads the body), 'out-of-range'.
   */
  async get(
    key: string,
    options: {
      range?: { first: number; count: number } | undefined;
      etag?: string | undefined;
      maxBytes?: number;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<Uint8Array> {
    const { range, etag, maxBytes = Number.POSITIVE_INFINITY, signal } = options;
    return this.#repeat(isBrokenBody, async () => {
      const { body, length } = await this.#open(key, { range, etag, signal });
      if (length > maxBytes) {
        body.destroy();
        throw new S3Error('too-many-bytes', `${length} bytes, the limit is ${maxBytes}`);
      }
      try {
        return await readBody(body, length);
      } catch (error) {
        signal?.throwIfAborted();
        throw this.#broken(key, error);
      }
    });
  }

  /**
   * An object's bytes from `first` on, as fast as they are taken; a reader who takes longer than `requestTimeoutMs` for a
   * piece is hung up on. Leaving the loop ends the request. Nothing is repeated. Throws S3Error 'not-found',
   * 'precondition-failed', 'out-of-range'.
   */
  async *stream(
    key: string,
    options: { first?: number; etag?: string | undefined; signal?: AbortSignal | undefined } = {},
  ): AsyncGenerator<Uint8Array> {
    const { first = 0, etag, signal } = options;
    const range = first > 0 ? { first } : undefined; // of an empty object, no range at all can be had
    const { body, length } = await this.#open(key, { range, etag, signal });
    let taken = 0;
    try {
      for await (const chunk of body) {
        taken += chunk.length;
        yield chunk;
      }
      if (taken < length) throw new Error(`${taken} of ${length} bytes came`);
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#broken(key, error);
    }
  }

  /**
   * Writes an object in one request, with its SHA-256 as metadata for `head`. With `ifAbsent`, throws S3Error
   * 'precondition-failed' where the key is taken, be it by this very call after a lost reply, and 'unsupported' where
   * the server refuses the condition. Some ignore it.
   */
  async put(key: string, body: Uint8Array, options: { ifAbsent: boolean }): Promise<void> {
    if (body.byteLength > maxPutBytes) {
      const gib = (body.byteLength / 2 ** 30).toFixed(1);
      throw new ConfigError(
        'too-large',
        `${this.#uriOf(key)} would be ${gib} GiB, S3 takes 5: use a smaller --shard-size`,
      );
    }
    const command = new PutObjectCommand({
      ...this.#address(key),
      Body: body,
      Metadata: { sha256: hash('sha256', body) },
      ...(options.ifAbsent && { IfNoneMatch: '*' }),
    });
    await this.#repeat(isConflict, () => this.#send('write', key, () => this.#client.send(command)));
  }

  /** `undefined` where there is no such object. */
  async head(
    key: string,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<S3Facts | undefined> {
    const command = new HeadObjectCommand(this.#address(key));
    try {
      const reply = await this.#send('read', key, () => this.#client.send(command, abortBy(signal)), signal);
      const { ContentLength: size = 0, ETag = '', Metadata } = reply;
      return { size, etag: unquote(ETag), sha256: Metadata?.sha256 };
    } catch (error) {
      if (error instanceof S3Error && error.code === 'not-found') return undefined;
      throw error;
    }
  }

  async delete(key: string): Promise<void> {
    await this.#send('delete', key, () => this.#client.send(new DeleteObjectCommand(this.#address(key))));
  }

  /** Pages of up to 1000 objects, ordered by key (bytewise); at least one page, if an empty one. */
  async *list(options: ListOptions): AsyncGenerator<S3Listed[]> {
    for (let token: string | undefined, isFirst = true; isFirst || token !== undefined; isFirst = false) {
      const page = await this.listPage({ ...options, token });
      yield page.objects;
      token = page.next;
    }
  }

  /** With `delimiter`, keys that have one behind `prefix` are not listed: all up to it stands once among `folders`. */
  async listPage(
    options: ListOptions & { delimiter?: string; token?: string | undefined },
  ): Promise<{ objects: S3Listed[]; folders: string[]; next: string | undefined }> {
    const { prefix = '', after, delimiter, token, signal } = options;
    const command = new ListObjectsV2Command({
      Bucket: this.#name,
      Prefix: this.#prefix + prefix,
      // A key may hold characters that XML cannot.
      EncodingType: 'url',
      ...(delimiter !== undefined && { Delimiter: delimiter }),
      ...(token !== undefined ? { ContinuationToken: token } : after && { StartAfter: this.#prefix + after }),
    });
    const page = await this.#send('list', prefix, () => this.#client.send(command, abortBy(signal)), signal);
    if (page.Name === undefined) throw notS3Error(this.#server);
    if (page.IsTruncated && !page.NextContinuationToken)
      throw new S3Error('unexpected', `${this.#server} broke off a listing without a token`);
    const keyOf = (text = ''): string =>
      (page.EncodingType === 'url' ? decodeKey(text) : text).slice(this.#prefix.length);
    return {
      objects: (page.Contents ?? []).map(({ Key, Size = 0, ETag = '' }) => ({
        key: keyOf(Key),
        size: Size,
        etag: unquote(ETag),
      })),
      folders: (page.CommonPrefixes ?? []).map(({ Prefix }) => keyOf(Prefix)),
      next: page.IsTruncated ? page.NextContinuationToken : undefined,
    };
  }

  close(): void {
    this.#client.destroy();
  }

  /** A GET's reply. Throws S3Error 'unsupported' where the server sends another part than `range`. */
  async #open(
    key: string,
    options: {
      range?: { first: number; count?: number } | undefined;
      etag?: string | undefined;
      signal?: AbortSignal | undefined;
    },
  ): Promise<{ body: AsyncIterable<Uint8Array> & { destroy(): void }; length: number }> {
    const { range, etag, signal } = options;
    const last = range?.count === undefined ? '' : range.first + range.count - 1;
    const command = new GetObjectCommand({
      ...this.#address(key),
      ...(range && { Range: `bytes=${range.first}-${last}` }),
      ...(etag && { IfMatch: `"${etag}"` }),
    });
    const reply = await this.#send('read', key, () => this.#client.send(command, abortBy(signal)), signal);
    // In Node the SDK's body is a stream of Buffers; its type also covers browsers.
    const body = reply.Body as unknown as AsyncIterable<Uint8Array> & { destroy(): void };
    const { ContentLength: length, ContentRange } = reply;
    if (range && !ContentRange?.startsWith(`bytes ${range.first}-`)) {
      body.destroy();
      throw new S3Error('unsupported', `${this.#server} cannot read a part of ${this.#uriOf(key)}`);
    }
    if (length === undefined) {
      body.destroy();
      throw this.#broken(key, new Error('the reply has no Content-Length'));
    }
    return { body, length };
  }

  #broken(key: string, cause: unknown): BrokenBody {
    return new BrokenBody(`${this.#uriOf(key)} broke off: ${messageOf(cause)}`, { cause });
  }

  #address(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#name, Key: this.#prefix + key };
  }

  #uriOf(key: string): string {
    return `s3://${this.#name}/${this.#prefix}${key}`;
  }

  #repeat<T>(isCurable: (error: unknown) => boolean, act: () => Promise<T>): Promise<T> {
    return pRetry(act, {
      retries: this.#maxAttempts - 1,
      minTimeout: 50,
      randomize: true,
      shouldRetry: ({ error }) => isCurable(error),
    });
  }

  async #send<T>(act: S3Act, key: string, send: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    try {
      return await send();
    } catch (error) {
      signal?.throwIfAborted();
      throw explainS3Error(error, act, { uri: this.#uriOf(key), bucket: this.#name, server: this.#server });
    }
  }
}

/** A reply's body broke off or stalled. */
class BrokenBody extends ConfigError {
  constructor(message: string, options: ErrorOptions) {
    super('store-unreachable', message, options);
  }
}

function isBrokenBody(error: unknown): boolean {
  return error instanceof BrokenBody;
}

function isConflict(error: unknown): boolean {
  return error instanceof S3Error && error.code === 'conflict';
}

function abortBy(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal ? { abortSignal: signal } : {};
}

/** The bytes lie in a buffer of their own (not in Node's pool), so that they can be transferred to another thread. */
async function readBody(body: AsyncIterable<Uint8Array>, length: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let filled = 0;
  for await (const chunk of body) {
    bytes.set(chunk, filled);
    filled += chunk.length;
  }
  if (filled < length) throw new Error(`${filled} of ${length} bytes came`);
  return bytes;
}

function unquote(etag: string): string {
  return etag.replaceAll('"', '');
}

/** Undoes EncodingType 'url', a form encoding: '+' is a space. */
function decodeKey(key: string): string {
  return decodeURIComponent(key.replaceAll('+', ' '));
}

async function defaultRegion(): Promise<string> {
  const client = new S3Client({});
  return client.config.region().catch(() => 'us-east-1');
}
