/** A single picture on the web. Its id is the last segment of its path. */
import type { Objects } from '../objects/objects.ts';
import { persistent } from '../objects/persistent.ts';
import { publicUrl } from '../objects/web-url.ts';
import type { Item } from '../types.ts';
import { explainList } from './archive-source.ts';
import { type ItemPage, ReadError, type Source } from './source.ts';

export class OneSource implements Source {
  readonly uri: string;
  /** `uri`, and with its signature where it has one. */
  readonly #url: string;
  readonly #objects: Objects;

  /** `objects` is this source's, and closed with it. */
  constructor(uri: string, objects: Objects) {
    this.uri = publicUrl(uri);
    this.#url = uri;
    this.#objects = objects;
  }

  async probe(): Promise<void> {
    await this.#stat();
  }

  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    const id = new URL(this.#url).pathname.split('/').at(-1) || 'index';
    if (after === undefined)
      yield { items: [{ id, uri: this.#url, ...(await this.#stat(signal)) }], skipped: 0 };
  }

  read(item: Item, { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal }): Promise<Uint8Array> {
    return this.#objects.read(item.uri, { etag: item.etag, maxBytes, signal });
  }

  async refresh(item: Item): Promise<Item> {
    try {
      return { ...item, ...(await this.#objects.stat(this.#url)) };
    } catch (error) {
      if (error instanceof ReadError) return item;
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#objects.close();
  }

  async #stat(signal?: AbortSignal): Promise<Pick<Item, 'etag' | 'size'>> {
    try {
      // Nobody repeats a listing.
      return await persistent(this.#objects).stat(this.#url, { signal });
    } catch (error) {
      signal?.throwIfAborted();
      throw explainList(error, this.#url);
    }
  }
}
