/**
 * S3 and what is compatible with it, for the S3 source and the S3 store: one bucket, by way of the AWS SDK, which
 * s3/client.ts sets up. s3/get.ts reads objects without it where it can; s3/errors.ts says what an error means.
 *
 * What the SDK does not do by itself, and this file does:
 *   - repeat a GET whose body broke off (the SDK's retries end with the reply's headers);
 *   - repeat a conditional PUT that met another one in flight (409).
 */
import { hash } from 'node:crypto';
import type { S3 } from '@aws-sdk/client-s3';
import pRetry from 'p-retry';
import { ConfigError, messageOf } from '../errors.ts';
import { findS3Server, type S3Options, type S3Server } from './client.ts';
import { explainS3Error, notS3Error, type S3Act, S3Error } from './errors.ts';
import { type GetReply, type GetRequest, type Gets, openGets } from './get.ts';

export type { S3Options };

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
  readonly #server: S3Server;
  readonly #options: S3Options;
  #connection: Promise<{ client: S3; gets: Gets }> | undefined;

  /** Throws ConfigError: 'bad-uri', 'bad-endpoint'. Sends nothing. */
  constructor(uri: string, options: S3Options) {
    const [, name, path = ''] = /^s3:\/\/([^/]+)(?:\/(.*?)\/*)?$/is.exec(uri) ?? [];
    if (name === undefined)
      throw new ConfigError('bad-uri', `'${uri}' names no bucket; expected s3://BUCKET/PREFIX`);
    this.uri = path === '' ? `s3://${name}` : `s3://${name}/${path}`;
    this.#name = name;
    this.#prefix = path === '' ? '' : `${path}/`;
    this.#server = findS3Server(options);
    this.#options = options;
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
      maxBytes?: number | undefined;
      signal?: AbortSignal | undefined;
    } = {},
  ): Promise<Uint8Array> {
    const { range, etag, maxBytes, signal } = options;
    const request = {
      range: range && `bytes=${range.first}-${range.first + range.count - 1}`,
      etag,
      accept: (reply: GetReply) => this.#accept(key, reply, range?.first, maxBytes),
      signal,
    };
    return this.#repeat(isInterruption, async () => {
      const bytes = await this.#reading(key, signal, () =>
        this.#connect().then(({ gets }) => gets.get({ ...request, key: this.#prefix + key })),
      );
      if (bytes) return bytes;
      const { body, length } = await this.#open(key, request);
      return this.#reading(key, signal, () => readBody(body, length));
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
    const { body, length } = await this.#open(key, {
      range: first > 0 ? `bytes=${first}-` : undefined, // of an empty object, no range at all can be had
      etag,
      accept: (reply) => this.#accept(key, reply, first || undefined),
      signal,
    });
    let taken = 0;
    try {
      for await (const chunk of body) {
        taken += chunk.length;
        yield chunk;
      }
      if (taken < length) throw new Error(`${taken} of ${length} bytes came`);
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#interruption(key, error);
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
    const object = {
      ...this.#address(key),
      Body: body,
      Metadata: { sha256: hash('sha256', body) },
      ...(options.ifAbsent && { IfNoneMatch: '*' }),
    };
    await this.#repeat(isConflict, () => this.#send('write', key, (client) => client.putObject(object)));
  }

  /** `undefined` where there is no such object. */
  async head(
    key: string,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<S3Facts | undefined> {
    const head = (client: S3) => client.headObject(this.#address(key), abortBy(signal));
    try {
      const reply = await this.#send('read', key, head, signal);
      const { ContentLength: size = 0, ETag = '', Metadata } = reply;
      return { size, etag: unquote(ETag), sha256: Metadata?.sha256 };
    } catch (error) {
      if (error instanceof S3Error && error.code === 'not-found') return undefined;
      throw error;
    }
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
    const query = {
      Bucket: this.#name,
      Prefix: this.#prefix + prefix,
      // A key may hold characters that XML cannot.
      EncodingType: 'url' as const,
      ...(delimiter !== undefined && { Delimiter: delimiter }),
      ...(token !== undefined ? { ContinuationToken: token } : after && { StartAfter: this.#prefix + after }),
    };
    const list = (client: S3) => client.listObjectsV2(query, abortBy(signal));
    const page = await this.#send('list', prefix, list, signal);
    if (page.Name === undefined) throw notS3Error(this.#server.name);
    if (page.IsTruncated && !page.NextContinuationToken)
      throw new S3Error('unexpected', `${this.#server.name} broke off a listing without a token`);
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
    void this.#connection?.then(({ client, gets }) => {
      gets.close();
      client.destroy();
    });
  }

  #connect(): Promise<{ client: S3; gets: Gets }> {
    this.#connection ??= this.#server.openClient().then((client) => {
      const { requestTimeoutMs, connectionTimeoutMs, maxSockets } = this.#options;
      const bounds = { timeoutMs: requestTimeoutMs, connectionTimeoutMs, maxConnections: maxSockets };
      return { client, gets: openGets(client, bounds) };
    });
    return this.#connection;
  }

  /** A GET's reply, from the SDK. */
  async #open(
    key: string,
    { range, etag, accept, signal }: Omit<GetRequest, 'key'>,
  ): Promise<{ body: AsyncIterable<Uint8Array>; length: number }> {
    const object = {
      ...this.#address(key),
      ...(range && { Range: range }),
      ...(etag && { IfMatch: `"${etag}"` }),
    };
    const get = (client: S3) => client.getObject(object, abortBy(signal));
    const reply = await this.#send('read', key, get, signal);
    // In Node the SDK's body is a stream of Buffers; its type also covers browsers.
    const body = reply.Body as unknown as AsyncIterable<Uint8Array> & { destroy(): void };
    try {
      return { body, length: accept({ length: reply.ContentLength, contentRange: reply.ContentRange }) };
    } catch (error) {
      body.destroy();
      throw error;
    }
  }

  /** A reply's length. Throws S3Error 'too-many-bytes', and 'unsupported' where it does not begin at `first`. */
  #accept(key: string, { length, contentRange }: GetReply, first?: number, maxBytes = Infinity): number {
    if (first !== undefined && !contentRange?.startsWith(`bytes ${first}-`))
      throw new S3Error('unsupported', `${this.#server.name} cannot read a part of ${this.#uriOf(key)}`);
    if (length === undefined) throw this.#interruption(key, new Error('the reply has no Content-Length'));
    if (length > maxBytes) throw new S3Error('too-many-bytes', `${length} bytes, the limit is ${maxBytes}`);
    return length;
  }

  /** What `read` throws beside an answer's meaning is an Interruption. */
  async #reading<T>(key: string, signal: AbortSignal | undefined, read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof S3Error || error instanceof ConfigError) throw error;
      throw this.#interruption(key, error);
    }
  }

  #interruption(key: string, cause: unknown): Interruption {
    return new Interruption(`cannot read ${this.#uriOf(key)}: ${messageOf(cause)}`, { cause });
  }

  #address(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#name, Key: this.#prefix + key };
  }

  #uriOf(key: string): string {
    return `s3://${this.#name}/${this.#prefix}${key}`;
  }

  #repeat<T>(isCurable: (error: unknown) => boolean, act: () => Promise<T>): Promise<T> {
    return pRetry(act, {
      retries: this.#options.maxAttempts - 1,
      minTimeout: 100,
      randomize: true,
      shouldRetry: ({ error }) => isCurable(error),
    });
  }

  async #send<T>(
    act: S3Act,
    key: string,
    send: (client: S3) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    try {
      return await send((await this.#connect()).client);
    } catch (error) {
      signal?.throwIfAborted();
      throw explainS3Error(error, act, {
        uri: this.#uriOf(key),
        bucket: this.#name,
        server: this.#server.name,
      });
    }
  }
}

/** A read that broke off or stalled: nothing that the SDK would repeat. */
class Interruption extends ConfigError {
  constructor(message: string, options: ErrorOptions) {
    super('store-unreachable', message, options);
  }
}

function isInterruption(error: unknown): boolean {
  return error instanceof Interruption;
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
