/** Items from the objects below an S3 prefix. An id is the key below the prefix; the order is S3's own. */
import { ConfigError, type FailureCode } from '../errors.ts';
import { Bucket, type S3Options } from '../s3.ts';
import { S3Error, type S3ErrorCode } from '../s3-errors.ts';
import type { Item } from '../types.ts';
import { compileGlobs, type GlobFilter } from './globs.ts';
import { type Globs, type ItemPage, ReadError, type Source } from './source.ts';

export class S3Source implements Source {
  readonly uri: string;
  readonly #bucket: Bucket;
  /** Sends each request once: who reads items repeats them. */
  readonly #reader: Bucket;
  readonly #globs: GlobFilter;

  /** Throws ConfigError: 'bad-uri', 'bad-endpoint', 'bad-glob'. */
  constructor(uri: string, globs: Globs, options: S3Options) {
    this.#bucket = new Bucket(uri, options);
    this.#reader = new Bucket(uri, { ...options, maxAttempts: 1 });
    this.uri = this.#bucket.uri;
    this.#globs = compileGlobs(globs);
  }

  async probe(): Promise<void> {
    for await (const _ of this.#bucket.list({})) break;
  }

  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    for await (const page of this.#bucket.list({ after, signal })) {
      const items = page
        .filter((object) => !isFolderMarker(object) && this.#globs.isItem(object.key))
        .map(({ key, etag, size }): Item => ({ id: key, uri: `${this.uri}/${key}`, etag, size }));
      if (page.length > 0) yield { items, skipped: page.length - items.length };
    }
  }

  async read(
    item: Item,
    { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal },
  ): Promise<Uint8Array> {
    signal?.throwIfAborted();
    if (item.size > maxBytes)
      throw new ReadError('too-many-bytes', `${item.size} bytes, the limit is ${maxBytes}`);
    try {
      return await this.#reader.get(item.id, { etag: item.etag, maxBytes, signal });
    } catch (error) {
      throw explainRead(error);
    }
  }

  async refresh(item: Item): Promise<Item> {
    try {
      const facts = await this.#bucket.head(item.id);
      return facts ? { ...item, etag: facts.etag, size: facts.size } : item;
    } catch (error) {
      if (error instanceof ConfigError && error.code === 'access-denied') return item;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#bucket.close();
    this.#reader.close();
  }
}

/** Consoles make folders visible by empty objects named 'folder/', or '' in the listed prefix itself. */
function isFolderMarker({ key, size }: { key: string; size: number }): boolean {
  return size === 0 && (key === '' || key.endsWith('/'));
}

/** What is wrong with the item becomes a ReadError; a bucket that is gone or a key that expired concerns them all. */
function explainRead(error: unknown): unknown {
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
