/** Items from the objects below an S3 prefix. An id is the key below the prefix; the order is S3's own. */
import { ConfigError } from '../errors.ts';
import type { Objects } from '../objects/objects.ts';
import { openS3Objects } from '../objects/s3.ts';
import { listInParallel } from '../s3/listing.ts';
import { Bucket, type S3Options } from '../s3/s3.ts';
import type { Item } from '../types.ts';
import { compileGlobs, type GlobFilter } from './globs.ts';
import { type Globs, type ItemPage, ReadError, type Source } from './source.ts';

export class S3Source implements Source {
  readonly uri: string;
  readonly #bucket: Bucket;
  readonly #objects: Objects;
  readonly #globs: GlobFilter;

  /** Throws ConfigError: 'bad-uri', 'bad-endpoint', 'bad-glob'. */
  constructor(uri: string, globs: Globs, options: S3Options) {
    this.#bucket = new Bucket(uri, options);
    this.#objects = openS3Objects(options);
    this.uri = this.#bucket.uri;
    this.#globs = compileGlobs(globs);
  }

  async probe(): Promise<void> {
    for await (const _ of this.#bucket.list({})) break;
  }

  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    for await (const page of listInParallel(this.#bucket, { after, signal })) {
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
    return this.#objects.read(`${this.uri}/${item.id}`, { etag: item.etag, maxBytes, signal });
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
    await this.#objects.close();
  }
}

/** Consoles make folders visible by empty objects named 'folder/', or '' in the listed prefix itself. */
function isFolderMarker({ key, size }: { key: string; size: number }): boolean {
  return size === 0 && (key === '' || key.endsWith('/'));
}
