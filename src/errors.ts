/**
 * Errors come in three tiers, by who can act on them.
 *   1. The item is bad: a `Failure`, a value. It becomes the item's row.
 *   2. The shard failed: any other exception. The queue retries the shard.
 *   3. The operator must change something: a `ConfigError`. The CLI prints its one line and exits with 2. In a worker it
 *      is a `RunBlocked`, and the run waits for its operator.
 */

/** Why an item has no embedding. The words are stable: they are stored in parts and may be filtered on. */
export type FailureCode =
  | 'empty' // zero bytes
  | 'unsupported-format' // not a picture, or a format that is switched off (SVG, PDF …)
  | 'truncated' // starts as a picture and ends too early
  | 'corrupt' // a picture that its decoder refuses for another reason
  | 'too-many-pixels'
  | 'too-many-bytes'
  | 'not-found' // gone since it was listed
  | 'changed' // other content than when it was listed
  | 'access-denied'
  | 'encrypted' // a member of an archive that wants a password
  | 'bad-uri' // a list names what no source reads
  | 'not-allowed' // an address or a file that is not opened for a list (`--allow-host`, `--allow-files`)
  | 'read-failed' // the source kept failing after retries
  | 'timeout'
  | 'crashed-worker'; // decoding it ends the process

/** A bad item. `message` is for people and one line long. */
export interface Failure {
  error: FailureCode;
  message: string;
}

/** The operator must change something. The message is one line: the value, what is wrong, what to type instead. */
export class ConfigError extends Error {
  override name = 'ConfigError';
  readonly code: string;

  /** `code` is for tests and scripts, such as 'no-bucket'; `message` is for people. */
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** An image that was asked for by its name cannot be had. */
export class ImageError extends Error {
  override name = 'ImageError';
  readonly code: FailureCode;

  constructor(id: string, { error, message }: Failure) {
    super(`${id}: ${error}, ${message}`);
    this.code = error;
  }
}

/**
 * A shard met what only the operator can mend, and what every other shard of its run would meet too: a key that expired, a
 * bucket that is gone, a full disk. The run is blocked with this reason, and no shard is burnt.
 */
export class RunBlocked extends Error {
  override name = 'RunBlocked';
}

/** The store does not answer this worker. The shard goes back at once, for one that it does answer. */
export class OutOfReach extends Error {
  override name = 'OutOfReach';
}

/** The first line of any thrown value, without a stack. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split('\n', 1)[0] || 'unknown error';
}
