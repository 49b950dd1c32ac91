/** Tars: a walk from header to header says where each member lies, so one is read without the rest, by one ranged read. */
import type { ObjectFacts, Objects } from '../objects/objects.ts';
import { ReadError } from '../sources/source.ts';
import type { Item } from '../types.ts';
import { schemeOf } from '../uri.ts';
import {
  type ArchiveKind,
  type ArchiveReader,
  archiveUriOf,
  type Member,
  throwIfSizeless,
} from './archive.ts';
import { openReadAhead } from './read-ahead.ts';
import { listTar, placeInTar, type TarBytes } from './tar-members.ts';

/** v7, ustar, pax and GNU tars, see tar-members.ts. */
export const tar: ArchiveKind = {
  extensions: ['.tar'],
  open: (objects) => new TarReader(objects),
};

class TarReader implements ArchiveReader {
  readonly #objects: Objects;
  readonly #ahead: Pick<Objects, 'readRange'>;

  constructor(objects: Objects) {
    this.#objects = objects;
    this.#ahead = openReadAhead(objects);
  }

  async list(
    uri: string,
    facts: ObjectFacts,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<{ members: Member[]; skipped: number }> {
    throwIfSizeless(uri, facts);
    return listTar(new RangedTar(this.#objects, uri, facts, signal), facts.etag);
  }

  async read(
    item: Item,
    { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal | undefined },
  ): Promise<Uint8Array> {
    signal?.throwIfAborted();
    const { archive, first, count } = placeInTar(item, maxBytes);
    const uri = archiveUriOf(item);
    const objects = schemeOf(uri) === 'file' ? this.#objects : this.#ahead;
    const bytes = await objects.readRange(uri, { etag: archive, first, count, signal });
    if (bytes.length === count) return bytes;
    throw new ReadError('corrupt', `its tar ends after ${bytes.length} of its ${count} bytes`);
  }

  async close(): Promise<void> {}
}

/**
 * How far it is worth to read on where the next header is not at hand. From a store a request costs as much time as some
 * 4 MB; a file is asked at once.
 */
const worthReading = { file: 65_536, store: 4 * 2 ** 20 };

/** Read where the next header is farther: headers stand alone there, with perhaps a long name. */
const loneHeaderBytes = 16_384;

/** A tar, read in windows. */
class RangedTar implements TarBytes {
  readonly uri: string;
  readonly unit = 'byte';
  position = 0;
  readonly #objects: Objects;
  readonly #facts: ObjectFacts;
  readonly #signal: AbortSignal | undefined;
  readonly #worthReading: number;
  /** Starts at `#first` of the tar. */
  #window: Buffer = Buffer.alloc(0);
  #first = 0;

  constructor(objects: Objects, uri: string, facts: ObjectFacts, signal: AbortSignal | undefined) {
    this.uri = uri;
    this.#objects = objects;
    this.#facts = facts;
    this.#signal = signal;
    this.#worthReading = schemeOf(uri) === 'file' ? worthReading.file : worthReading.store;
  }

  async take(count: number): Promise<Buffer> {
    const end = Math.min(this.position + count, this.#facts.size);
    if (end > Math.max(this.position, this.#first + this.#window.length))
      await this.#readOn(end - this.position);
    const bytes = this.#window.subarray(this.position - this.#first, end - this.#first);
    this.position = end;
    return bytes;
  }

  async skip(count: number): Promise<void> {
    this.position = Math.min(this.position + count, this.#facts.size);
  }

  async #readOn(count: number): Promise<void> {
    const gap = this.position - (this.#first + this.#window.length);
    const ahead = gap > this.#worthReading ? loneHeaderBytes : this.#worthReading;
    const { etag } = this.#facts;
    const range = { etag, first: this.position, count: Math.max(count, ahead), signal: this.#signal };
    const { buffer, byteOffset, byteLength } = await this.#objects.readRange(this.uri, range);
    this.#window = Buffer.from(buffer, byteOffset, byteLength);
    this.#first = this.position;
    if (byteLength < count) throw new ReadError('changed', 'it ends earlier than its size said');
  }
}
