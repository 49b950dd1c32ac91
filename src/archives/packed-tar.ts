/**
 * Tars that are compressed as a whole. Nothing in them can be reached but through all that is before it: reading them costs
 * every lane a pass through the archive, and in another order than the tar's (beyond passes.ts's 32 MB) many. WebDataset's
 * writers, and `tar --sort=name`, make the order in which members are read. A plain tar or a zip has no such price.
 */
import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { errnoOf } from '../errno.ts';
import { ConfigError, messageOf } from '../errors.ts';
import type { ObjectFacts, Objects } from '../objects/objects.ts';
import { persistent } from '../objects/persistent.ts';
import { type ItemRead, ReadError } from '../sources/source.ts';
import type { Item } from '../types.ts';
import { cutAtFrames } from '../zstd-frames.ts';
import { type ArchiveKind, type ArchiveReader, archiveUriOf, badArchive, type Member } from './archive.ts';
import { type OpenStream, Passes } from './passes.ts';
import { listTar, placeInTar, type TarBytes } from './tar-members.ts';

/** Places of members are those in the unpacked tar. */
export const gzipTar: ArchiveKind = {
  extensions: ['.tar.gz', '.tgz'],
  open: (objects) =>
    new PackedTarReader(objects, (packed) => ({ packed, decoder: createGunzip({ chunkSize }) })),
};

export const zstdTar: ArchiveKind = {
  extensions: ['.tar.zst', '.tzst'],
  open: (objects) =>
    new PackedTarReader(objects, (packed) => ({
      packed: cutAtFrames(packed),
      decoder: createZstdDecompress({ chunkSize }),
    })),
};

/** The size of unpacked pieces. */
const chunkSize = 128 * 1024;

/** What turns packed bytes, in the pieces that it wants, into unpacked ones. */
type OpenDecoder = (packed: AsyncIterable<Uint8Array>) => {
  packed: AsyncIterable<Uint8Array>;
  decoder: Transform;
};

class PackedTarReader implements ArchiveReader {
  readonly #objects: Objects;
  readonly #openDecoder: OpenDecoder;
  readonly #passes = new Passes();

  constructor(objects: Objects, openDecoder: OpenDecoder) {
    this.#objects = persistent(objects);
    this.#openDecoder = openDecoder;
  }

  async list(
    uri: string,
    { etag }: ObjectFacts,
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<{ members: Member[]; skipped: number }> {
    const tar = new StreamedTar(uri, this.#unpack(uri, etag, signal));
    try {
      return await listTar(tar, etag);
    } finally {
      await tar.close();
    }
  }

  async read(item: Item, { maxBytes, ...options }: ItemRead): Promise<Uint8Array> {
    const { archive, first, count } = placeInTar(item, maxBytes);
    const uri = archiveUriOf(item);
    const open: OpenStream = (signal) => this.#unpack(uri, archive, signal);
    try {
      return await this.#passes.read(`${archive} ${uri}`, open, { first, count, ...options });
    } catch (error) {
      if (!(error instanceof ConfigError && error.code === 'bad-archive')) throw error;
      throw new ReadError('corrupt', error.message, { cause: error });
    }
  }

  close(): Promise<void> {
    return this.#passes.close();
  }

  /** Throws ConfigError 'bad-archive' where it is damaged, or a bomb; ReadError as `Objects` does. */
  async *#unpack(uri: string, etag: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
    let packedBytes = 0;
    let bytes = 0;
    const objects = this.#objects;
    async function* counted(): AsyncGenerator<Uint8Array> {
      for await (const chunk of objects.stream(uri, { etag, signal })) {
        packedBytes += chunk.length;
        yield chunk;
      }
    }
    const { packed, decoder } = this.#openDecoder(counted());
    try {
      // Either's error is thrown by the loop, and leaving the loop ends both.
      pipeline(Readable.from(packed, { highWaterMark: 1 }), decoder, () => undefined);
      for await (const chunk of decoder as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > harmlessBytes && bytes > maxRatio * packedBytes)
          throw badArchive(uri, `byte ${packedBytes}`, `it has become ${bytes} bytes, as no pictures do`);
        yield chunk;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (!/^Z(?:STD)?_/.test(errnoOf(error) ?? '')) throw error;
      throw badArchive(uri, `unpacked byte ${bytes}`, messageOf(error), { cause: error });
    }
  }
}

/** Deflate's limit is 1,032 : 1, reached by zeros; a tar of pictures is at 1 : 1. */
const maxRatio = 1000;

/** Up to here no ratio is suspect. */
const harmlessBytes = 2 ** 30;

class StreamedTar implements TarBytes {
  readonly uri: string;
  readonly unit = 'unpacked byte';
  position = 0;
  readonly #chunks: AsyncGenerator<Buffer>;
  /** What has come and was not taken. */
  #rest: Buffer = Buffer.alloc(0);

  constructor(uri: string, chunks: AsyncGenerator<Buffer>) {
    this.uri = uri;
    this.#chunks = chunks;
  }

  async take(count: number): Promise<Buffer> {
    const parts = [];
    for (let missing = count; missing > 0; ) {
      const part = await this.#next(missing);
      if (part.length === 0) break;
      parts.push(part);
      missing -= part.length;
    }
    return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
  }

  async skip(count: number): Promise<void> {
    for (let missing = count; missing > 0; ) {
      const { length } = await this.#next(missing);
      if (length === 0) break;
      missing -= length;
    }
  }

  async close(): Promise<void> {
    await this.#chunks.return(undefined);
  }

  /** Up to `most` bytes; none at the end. */
  async #next(most: number): Promise<Buffer> {
    while (this.#rest.length === 0) {
      const chunk = await this.#chunks.next();
      if (chunk.done) return this.#rest;
      this.#rest = chunk.value;
    }
    const part = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(part.length);
    this.position += part.length;
    return part;
  }
}
