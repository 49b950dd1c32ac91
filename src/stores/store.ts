/**
 * Where output goes: objects under one root, created once and never changed.
 *
 * Keys are relative, '/'-separated, of [A-Za-z0-9._-] segments that do not begin with a dot (src/layout.ts makes all of
 * them). Any method may throw ConfigError with the codes of `probe`: after `maxAttempts`, so 'store-unreachable' in the
 * middle of a run is a failed shard like any other.
 * A member keeps these promises, and test/stores.test.ts holds every member to them:
 *   - A reader sees a whole object or none.
 *   - Of several `create` calls for one key, one wins; the object never changes afterwards.
 *   - Errors that another attempt may cure are retried inside; what is thrown has been retried.
 */
export interface Store {
  /** Canonical URI of the root, without a trailing slash: `file:///data/out`, `s3://bucket/prefix`. */
  readonly uri: string;

  /**
   * Whether `create` is atomic against other writers: known after `probe`. Where it is false (an S3 server that
   * ignores If-None-Match), the commit step writes attempt-suffixed keys instead.
   */
  readonly conditional: boolean;

  /**
   * Makes sure that the root can be written, read and listed, and learns `conditional`: to be called before the first
   * `create`. Makes a missing folder, but no bucket; leaves nothing that `list` shows. Deletes nothing in S3, where who may
   * write need not be who may delete.
   * Throws ConfigError: 'no-bucket', 'bad-credentials', 'access-denied', 'wrong-region', 'store-unreachable',
   * 'not-writable', 'disk-full'.
   */
  probe(): Promise<void>;

  /**
   * Makes sure that the root can be listed, for whoever only reads; writes nothing, and does not learn `conditional`. A folder
   * that is not there holds nothing. Throws as `probe`.
   */
  look(): Promise<void>;

  /**
   * Creates an object unless its key is taken. True: this call's bytes are the object. False: another object has
   * the key (or this call's own, after a lost reply: compare `digest`).
   */
  create(key: string, body: Uint8Array): Promise<boolean>;

  /** The object's bytes, whole or `[first, first + count)` as far as it goes; `undefined` where there is none. */
  read(key: string, range?: ByteRange): Promise<Uint8Array | undefined>;

  /** The object's size and SHA-256 (hex), or `undefined`. S3 answers from metadata that `create` wrote. */
  head(key: string): Promise<ObjectFacts | undefined>;

  /**
   * Every object whose key starts with `prefix`, ordered by key (bytewise), page by page; `after` is exclusive. What others put
   * there under a name that begins with a dot (`.DS_Store`) is none.
   */
  list(prefix: string, after?: string): AsyncIterable<ListedObject>;

  /** Safe to call twice. */
  close(): Promise<void>;
}

export interface ByteRange {
  first: number;
  count: number;
}

export interface ListedObject {
  key: string;
  /** Bytes. */
  size: number;
}

export interface ObjectFacts {
  size: number;
  sha256: string;
}
