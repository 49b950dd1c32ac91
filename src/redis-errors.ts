/**
 * What an error of Redis means: a ConfigError where the operator can mend it. A Redis error's first word is its kind; one
 * that a script met has it further on. Kinds: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
 */
import { errnoOf } from './errno.ts';
import { ConfigError, messageOf } from './errors.ts';
import { redisPlace } from './redis-address.ts';

/** What Redis answers, and what to do about it. The first that fits counts. */
const answers: readonly [
  pattern: RegExp,
  code: string,
  explain: (place: string, reason: string) => string,
][] = [
  [
    /\bOOM command not allowed/,
    'redis-full',
    (place) => `Redis at ${place} has used up its maxmemory: raise it, or set REDIS_URL to another`,
  ],
  [
    /\bMISCONF\b/,
    'redis-full',
    (place, reason) =>
      `Redis at ${place} cannot write to its disk, most often because it is full, and takes nothing more (${reason}): free space there, its log says more`,
  ],
  [
    /\bREADONLY\b/,
    'redis-read-only',
    (place) => `Redis at ${place} is a read-only replica: set REDIS_URL to its primary`,
  ],
  [
    /\b(NOAUTH|WRONGPASS|NOPERM)\b|AUTH.*without any password|invalid (username-)?password/,
    'redis-refused',
    (place, reason) => `Redis at ${place} refused us: ${reason}; check the user and password in REDIS_URL`,
  ],
  [
    /max number of clients/,
    'redis-full',
    (place) => `Redis at ${place} has no connection left: raise its maxclients, or run fewer workers`,
  ],
  [
    /\b(LOADING|MASTERDOWN|CLUSTERDOWN)\b/,
    'redis-not-ready',
    (place, reason) => `Redis at ${place} is not ready (${reason}): wait for it, then try again`,
  ],
];

/** What ioredis says, in errors without a code, when it has no connection. */
const noConnection =
  /^Connection is closed|^Command aborted due to connection close|max retries per request|ETIMEDOUT|timed out|^Socket timeout|^Stream isn't writeable|^None of startup nodes|^Failed to refresh slots/;

/**
 * ConfigError: 'redis-full' (memory, disk, connections), 'redis-refused' (a password, an ACL), 'redis-read-only',
 * 'redis-not-ready', 'redis-unreachable'. A ConfigError, and what is no trouble of an operator's, are given back.
 * `place` is a Redis URL or a socket's path; its credentials are not shown.
 */
export function explainRedisError(error: unknown, place: string): unknown {
  if (!(error instanceof Error) || error instanceof ConfigError) return error;
  const shown = redisPlace(place);
  for (const reason of reasonsOf(error)) {
    for (const [pattern, code, explain] of answers)
      if (pattern.test(reason)) return new ConfigError(code, explain(shown, reason), { cause: error });
  }
  if (error.name === 'ReplyError' || !isUnreachable(error)) return error;
  return new ConfigError(
    'redis-unreachable',
    `no Redis at ${shown} (${error.message ? messageOf(error) : errnoOf(error)}): start one, correct REDIS_URL, or unset it to use a private one`,
    { cause: error },
  );
}

/** As `explainRedisError`, for an error of any origin: what Redis did not answer is given back. */
export function explainRedisReply(error: unknown, place: string): unknown {
  return error instanceof Error && error.name === 'ReplyError' ? explainRedisError(error, place) : error;
}

/** A transaction's own words say only that it was aborted (EXECABORT); why, say those of its commands. */
function reasonsOf(error: Error): string[] {
  const previous =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors : [];
  return [error, ...previous].map(messageOf);
}

/** Node's errors of sockets, host names and certificates have a code; ioredis's own have none. */
function isUnreachable(error: Error): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return false;
  return errnoOf(error) !== undefined || noConnection.test(error.message);
}
