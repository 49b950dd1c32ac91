/**
 * Single objects by their URIs, whatever holds them: what lists name, and what archives and lists are themselves.
 * A member reads the objects of one scheme. test/objects.test.ts holds every member to this contract.
 *
 * Every method throws ReadError where the object is at fault ('not-found', 'changed', 'access-denied' …; `transient` says
 * whether another attempt may cure it) and ConfigError where all of them are ('bad-credentials', 'no-bucket'). An aborted
 * one throws the signal's reason. Each reads once: the caller repeats.
 */
export interface Objects {
  /** The object as it is now. */
  stat(uri: string, options?: { signal?: AbortSignal | undefined }): Promise<ObjectFacts>;

  /**
   * All of it, in a buffer of its own. With an `etag` other than '' one that is not that version is 'changed'; one over
   * `maxBytes` is 'too-many-bytes', told before it is read where its size is known, else as soon as that many have come.
   */
  read(uri: string, options: WholeRead): Promise<Uint8Array>;

  /** Bytes [first, first + count), in a buffer of their own, of exactly this version; fewer where the object ends. */
  readRange(uri: string, options: RangeRead): Promise<Uint8Array>;

  /** From `first` to the end, of exactly this version. Leaving the loop closes it. */
  stream(uri: string, options: StreamRead): AsyncIterable<Uint8Array>;

  /** Safe to call twice. */
  close(): Promise<void>;
}

export interface ObjectFacts {
  etag: string;
  size: number;
}

export interface WholeRead {
  etag: string;
  maxBytes: number;
  signal?: AbortSignal | undefined;
}

export interface RangeRead {
  etag: string;
  first: number;
  count: number;
  signal?: AbortSignal | undefined;
}

export interface StreamRead {
  etag: string;
  first?: number;
  signal?: AbortSignal | undefined;
}
