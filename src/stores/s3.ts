/**
 * Objects in S3. An object is written by one PUT with `If-None-Match: *`, so the server decides who is first, and
 * carries its SHA-256 as metadata, so that `head` need not read it.
 *
 * Not every server honours the condition, and some do not where several ask at once. Where `probe` finds that, `create` looks
 * first and then writes: not atomic, the later of two writers at once replaces the earlier.
 */
import { hash } from 'node:crypto';
import { S3Error } from '../s3/errors.ts';
import { Bucket, type S3Options } from '../s3/s3.ts';
import type { ByteRange, ListedObject, ObjectFacts, Store } from './store.ts';

/** It stays, so that nobody needs the right to delete it. */
const probeKey = '.probe';
/** Beside it, where more than one of those who created it at once was told to be the first. */
const wonTwiceKey = '.probe-won-twice';
/** As many try at once. */
const racers = 8;

export class S3Store implements Store {
  readonly uri: string;
  readonly #bucket: Bucket;
  /** `undefined` until `probe` knows; the condition is sent meanwhile. */
  #conditional: boolean | undefined;

  /** `known`: as an earlier `probe` found it. Throws ConfigError: 'bad-uri', 'bad-endpoint'. */
  constructor(uri: string, options: S3Options, known?: { conditional: boolean }) {
    this.#bucket = new Bucket(uri, options);
    this.#conditional = known?.conditional;
    this.uri = this.#bucket.uri;
  }

  get conditional(): boolean {
    return this.#conditional ?? false;
  }

  async probe(): Promise<void> {
    // First, as the kind of request whose refusal says most: to a HEAD the server answers without a word.
    await this.look();
    const body = Buffer.from('lensmill tries here whether an object is created only once\n');
    try {
      this.#conditional = await this.#createsOnce(body);
    } catch (error) {
      if (!(error instanceof S3Error && error.code === 'unsupported')) throw error;
      this.#conditional = false;
      await this.#bucket.put(probeKey, body, { ifAbsent: false });
    }
    await this.#bucket.get(probeKey);
  }

  async look(): Promise<void> {
    for await (const _ of this.#bucket.list({})) break;
  }

  async create(key: string, body: Uint8Array): Promise<boolean> {
    if (this.#conditional !== false) return this.#putIfAbsent(key, body);
    if (await this.#bucket.head(key)) return false;
    await this.#bucket.put(key, body, { ifAbsent: false });
    return true;
  }

  async read(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    if (range?.count === 0) return (await this.#bucket.head(key)) && new Uint8Array(); // S3 has no word for it
    try {
      return await this.#bucket.get(key, { range });
    } catch (error) {
      if (error instanceof S3Error && error.code === 'not-found') return undefined;
      if (error instanceof S3Error && error.code === 'out-of-range') return new Uint8Array();
      throw error;
    }
  }

  async head(key: string): Promise<ObjectFacts | undefined> {
    const facts = await this.#bucket.head(key);
    if (facts?.sha256) return { size: facts.size, sha256: facts.sha256 };
    // Another program's object, or one that was copied without its metadata.
    const body = facts && (await this.read(key));
    return body && { size: body.byteLength, sha256: hash('sha256', body) };
  }

  async *list(prefix: string, after?: string): AsyncGenerator<ListedObject> {
    for await (const page of this.#bucket.list({ prefix, after })) {
      for (const { key, size } of page) if (!/(^|\/)\./.test(key)) yield { key, size };
    }
  }

  async close(): Promise<void> {
    this.#bucket.close();
  }

  /** Only who comes first to an output can try the race; the others find what came of it. */
  async #createsOnce(body: Uint8Array): Promise<boolean> {
    if (!(await this.#bucket.head(probeKey))) {
      const tries = Array.from({ length: racers }, () => this.#putIfAbsent(probeKey, body));
      const winners = (await Promise.all(tries)).filter((isFirst) => isFirst);
      if (winners.length > 1) await this.#bucket.put(wonTwiceKey, body, { ifAbsent: false });
    }
    return !(await this.#putIfAbsent(probeKey, body)) && !(await this.#bucket.head(wonTwiceKey));
  }

  async #putIfAbsent(key: string, body: Uint8Array): Promise<boolean> {
    try {
      await this.#bucket.put(key, body, { ifAbsent: true });
      return true;
    } catch (error) {
      if (error instanceof S3Error && error.code === 'precondition-failed') return false;
      throw error;
    }
  }
}
