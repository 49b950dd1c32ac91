/** What LanceDB's errors mean for who reads them: it throws plain errors, of Rust's words, paths and line numbers. */
import { ConfigError } from '../errors.ts';

/** A table, a version or a file that is not, or no longer, there. */
export function isMissing(error: unknown): boolean {
  // A bucket that is not there is 'not found', too.
  return error instanceof Error && /not found/i.test(error.message) && !/NoSuchBucket/.test(error.message);
}

/** What the operator can mend, as a ConfigError; anything else as it came. `place` is the URI of the output. */
export function explainLanceError(error: unknown, place: string): unknown {
  if (!(error instanceof Error) || error instanceof ConfigError) return error;
  const { message } = error;
  const fail = (code: string, text: string) => new ConfigError(code, text, { cause: error });
  if (isMissing(error)) {
    const text = `the index of ${place} was built again, more than a day ago, and what is open of it is gone`;
    return fail('index-gone', `${text}: open it again`);
  }
  if (/NoSuchBucket/.test(message)) return fail('no-bucket', `the bucket of ${place} is not there: make it`);
  if (/kind: (Connect|Timeout)|error sending request|operation timed out/.test(message))
    return fail('store-unreachable', `the index of ${place} cannot be reached: is its server there?`);
  if (/AccessDenied|Forbidden/.test(message) && /\?delete\b/.test(message))
    return fail(
      'may-not-delete',
      `replaced files of the index of ${place} stay, for these credentials may not delete them (s3:DeleteObject): docs/stores.md says how to be rid of them`,
    );
  if (/AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken/.test(message))
    return fail(
      'access-denied',
      `no access to the index of ${place}: these credentials may read and write runs`,
    );
  if (/No space left on device|Disk quota exceeded/.test(message))
    return fail('disk-full', `no space left for the index of ${place}: free some`);
  if (/Permission denied|Read-only file system/.test(message))
    return fail('not-writable', `the index of ${place} cannot be written: make it writable for this user`);
  return error;
}
