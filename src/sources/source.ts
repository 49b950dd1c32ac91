/**
 * Where items come from. A member lists its items in one fixed order and reads one of them.
 * test/sources.test.ts holds every member to this contract.
 */
import type { FailureCode } from '../errors.ts';
import type { S3Options } from '../s3/s3.ts';
import type { Item } from '../types.ts';

export interface Source {
  /** Canonical URI of the root, without credentials and without a trailing slash. */
  readonly uri: string;

  /**
   * Makes sure that the root can be listed. Throws ConfigError: 'no-source', 'no-bucket', 'bad-credentials',
   * 'access-denied', 'wrong-region', 'store-unreachable'.
   */
  probe(): Promise<void>;

  /**
   * Every item below the root, ordered by id (bytewise, UTF-8), page by page so that a billion are as cheap in
   * memory as a thousand. `after` (exclusive) continues a listing that was broken off. What the globs leave out is
   * counted, never lost from sight: a page carries how many objects it skipped. Throws ConfigError as `probe` does; what
   * cannot be examined is listed all the same, with etag '' and size 0, and fails when it is read.
   */
  list(options?: { after?: string; signal?: AbortSignal }): AsyncIterable<ItemPage>;

  /**
   * An item's bytes, in a buffer of their own, so that it can be transferred to another thread. Throws ReadError;
   * `transient` says whether another attempt may cure it. Reads once: the lane retries, and its signal bounds the time that
   * a read may take; on the web, where an item may wait long for its turn, the source bounds it. Where much is to be passed
   * before an item, as in a compressed tar, `onProgress` is called as it comes nearer, and the time begins anew.
   * An item whose etag is not what was listed is 'changed'; one over `maxBytes` is 'too-many-bytes' and is not read.
   * Throws ConfigError where not the item but the whole source is at fault ('bad-credentials', 'no-bucket'), so that a
   * key that expires fails a shard, not a million rows. An aborted read throws the signal's reason.
   */
  read(item: Item, options: ItemRead): Promise<Uint8Array>;

  /**
   * The item as a listing would show it now: with its etag and size of today. As given where it is gone or cannot be
   * examined. Throws ConfigError as `probe` does. A source that would have to list everything for it has no such method.
   */
  refresh?(item: Item): Promise<Item>;

  /** Safe to call twice. */
  close(): Promise<void>;
}

export interface ItemRead {
  maxBytes: number;
  signal?: AbortSignal;
  onProgress?: () => void;
}

export interface ItemPage {
  items: Item[];
  /** Objects on this page that the globs left out, or that are no files; a folder that is left out whole counts as one. */
  skipped: number;
}

/** What a run's items come from: all that decides which they are, and none of it secret. */
export interface SourceSpec {
  /** One or more, as `Source.uri` has them. */
  uris: readonly string[];
  /** Null: the usual extensions of images, and everything that a list names. */
  include: readonly string[] | null;
  exclude: readonly string[];
  /** Open the archives that are found below a folder or prefix. One that is named by a URI itself is always opened. */
  archives: boolean;
  /** How to read those that are lists. */
  list: ListColumns;
}

/** Columns of a list (CSV, JSONL, Parquet). */
export interface ListColumns {
  /** Null: `uri`, `url`, `path` or `file`, whichever is there. */
  uri: string | null;
  /** Null: the URI is the id. */
  id: string | null;
  /** Carried to the output, in each row's `extra`. */
  keep: readonly string[];
}

/** What the process that reads may and shall do; never part of a run, which whoever can write to the store could change. */
export interface SourceOptions {
  s3: S3Options;
  web: WebOptions;
  /** `file:` URIs and paths in a list are read. */
  allowFiles: boolean;
}

export interface WebOptions {
  /** Hosts that may be reached although their address is private, loopback, link-local …: `host` or `host:port`. */
  allowHosts: readonly string[];
  /** Requests at once to one host, of all lanes of a worker together. */
  perHost: number;
  /** Requests a second to one host, of all lanes together; 0: as many as `perHost` gives. */
  perSecond: number;
  /** For the headers, for each next piece of a body, and for a read as a whole from its turn on. */
  timeoutMs: number;
  /** Where the lanes of a worker count their requests together (host-gate.ts); absent: this thread alone. */
  gate?: SharedArrayBuffer;
}

/** Globs over ids, picomatch syntax, case-insensitive. An id is an item if some `include` and no `exclude` matches. */
export interface Globs {
  include: readonly string[];
  exclude: readonly string[];
}

/** An item could not be read. */
export class ReadError extends Error {
  override name = 'ReadError';
  readonly code: FailureCode;
  readonly transient: boolean;

  constructor(code: FailureCode, message: string, options: ErrorOptions & { transient?: boolean } = {}) {
    super(message, options);
    this.code = code;
    this.transient = options.transient ?? false;
  }
}
