/** Objects of any bucket, by `s3://bucket/key`. A key stands in its URI as it is, without escapes. */
import { ConfigError, type FailureCode } from '../errors.ts';
import { S3Error, type S3ErrorCode } from '../s3/errors.ts';
import { Bucket, type S3Options } from '../s3/s3.ts';
import { ReadError } from '../sources/source.ts';
import type { Objects } from './objects.ts';

/** A list may name any number of buckets, and each has connections of its own. */
const keptBuckets = 64;

/** Throws ConfigError 'bad-endpoint' at the first read. */
export function openS3Objects(options: S3Options): Objects {
  const buckets = new Map<string, Bucket>();

  /** Throws ReadError 'bad-uri'. */
  function locate(uri: string): { bucket: Bucket; key: string } {
    const [, name, key] = /^s3:\/\/([\w.:-]+)\/(.+)$/is.exec(uri) ?? [];
    if (name === undefined || key === undefined)
      throw new ReadError('bad-uri', `'${uri}' names no object; expected s3://BUCKET/KEY`);
    const bucket = buckets.get(name) ?? new Bucket(`s3://${name}`, { ...options, maxAttempts: 1 });
    buckets.delete(name);
    buckets.set(name, bucket);
    // The one that was unused for longest. It is not closed: its requests go on, and its idle connections keep nobody up.
    const [oldest = name] = buckets.keys();
    if (buckets.size > keptBuckets) buckets.delete(oldest);
    return { bucket, key };
  }

  async function ask<T>(
    uri: string,
    signal: AbortSignal | undefined,
    act: (bucket: Bucket, key: string) => Promise<T>,
  ): Promise<T> {
    signal?.throwIfAborted();
    try {
      const { bucket, key } = locate(uri);
      return await act(bucket, key);
    } catch (error) {
      throw explain(error);
    }
  }

  return {
    stat: (uri, { signal } = {}) =>
      ask(uri, signal, async (bucket, key) => {
        const facts = await bucket.head(key, { signal });
        if (!facts) throw new ReadError('not-found', `no object ${uri}`);
        return { etag: facts.etag, size: facts.size };
      }),

    read: (uri, { etag, maxBytes, signal }) =>
      ask(uri, signal, (bucket, key) => bucket.get(key, { etag, maxBytes, signal })),

    readRange: (uri, { etag, first, count, signal }) =>
      ask(uri, signal, async (bucket, key) => {
        if (count === 0) return new Uint8Array(); // S3 has no word for it
        try {
          return await bucket.get(key, { range: { first, count }, etag, signal });
        } catch (error) {
          if (isBehindEnd(error)) return new Uint8Array();
          throw error;
        }
      }),

    async *stream(uri, { etag, first = 0, signal }) {
      signal?.throwIfAborted();
      try {
        const { bucket, key } = locate(uri);
        yield* bucket.stream(key, { first, etag, signal });
      } catch (error) {
        if (!isBehindEnd(error)) throw explain(error);
      }
    },

    async close() {
      for (const bucket of buckets.values()) bucket.close();
    },
  };
}

function isBehindEnd(error: unknown): boolean {
  return error instanceof S3Error && error.code === 'out-of-range';
}

/** What is wrong with the object becomes a ReadError; a bucket that is gone or a key that expired concerns them all. */
function explain(error: unknown): unknown {
  const options = { cause: error };
  if (error instanceof S3Error) return new ReadError(failures[error.code], error.message, options);
  if (!(error instanceof ConfigError)) return error;
  if (error.code === 'access-denied') return new ReadError('access-denied', error.message, options);
  if (error.code === 'store-unreachable')
    return new ReadError('read-failed', error.message, { ...options, transient: true });
  return error;
}

const failures: Record<S3ErrorCode, FailureCode> = {
  'not-found': 'not-found',
  'precondition-failed': 'changed',
  'too-many-bytes': 'too-many-bytes',
  conflict: 'read-failed',
  'out-of-range': 'read-failed',
  unsupported: 'read-failed',
  unexpected: 'read-failed',
};
