/**
 * What an error of Redis means: a ConfigError where the operator can mend it. A Redis error's first word is its kind; one
 * that a script met has it further on. Kinds: https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
 */
import { errnoOf } from '../errno.ts';
import { ConfigError, messageOf } from '../errors.ts';
import { redisPlace } from './address.ts';
import { RedisSpeaks } from './diagnosis.ts';

type Explain = (place: string, reason: string) => string;

/** What Redis answers, and what to do about it. The first that fits counts. */
const answers: readonly [pattern: RegExp, code: string, explain: Explain][] = [
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
    /\bNOPERM\b.* run the '([^']+)' command/,
    'redis-refused',
    (place, reason) =>
      `Redis at ${place} lets this user not run ${commandOf(reason)}: give it +${commandOf(reason)} (docs/redis.md has the whole line)`,
  ],
  [
    /\bNOPERM\b.* key|can't access at least one of the keys/,
    'redis-refused',
    (place) =>
      `Redis at ${place} keeps this user from our keys: give it ~{lensmill}:* (docs/redis.md has the whole line)`,
  ],
  [
    /user executing the script can't run/,
    'redis-refused',
    (place) =>
      `Redis at ${place} lets this user not run a command that BullMQ's scripts run: give it the line of docs/redis.md (ACL LOG names the command)`,
  ],
  [
    /\bNOAUTH\b/,
    'redis-refused',
    (place) => `Redis at ${place} wants a password: set REDIS_URL to one as redis://:password@host`,
  ],
  [
    /\b(WRONGPASS|NOPERM)\b|AUTH.*without any password|invalid (username-)?password/,
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
  [
    /\bMOVED \d/,
    'redis-other-kind',
    (place) => `Redis at ${place} is a node of a Cluster: write redis-cluster://host:port in REDIS_URL`,
  ],
  [
    /cluster support disabled/,
    'redis-other-kind',
    (place) => `Redis at ${place} is no Cluster: write redis://host:port in REDIS_URL`,
  ],
  [
    /unknown command '?`?sentinel/i,
    'redis-other-kind',
    (place) =>
      `what answers at ${place} is no Sentinel: name the Sentinels' own ports (26379), or write redis:// in REDIS_URL`,
  ],
  [
    /unknown command '?`?hdel/i,
    'redis-other-kind',
    (place) => `what answers at ${place} is a Sentinel: write redis-sentinel://host:port/name in REDIS_URL`,
  ],
  [
    /No such master with that name|got an invalid reply: null/,
    'redis-other-kind',
    (place) =>
      `the Sentinels at ${place} know no primary of that name: \`redis-cli -p 26379 sentinel masters\` lists them`,
  ],
  [
    /DB index is out of range/,
    'redis-other-kind',
    (place) => `Redis at ${place} has no database of that number: leave it out, or raise its \`databases\``,
  ],
];

/** What a TLS handshake ends with: Node's and OpenSSL's codes. The first that fits counts. */
const handshakes: readonly [pattern: RegExp, explain: Explain][] = [
  [
    /^(SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT|UNABLE_TO_)/,
    (place, reason) =>
      `the certificate of Redis at ${place} is signed by nobody that we know (${reason}): name the file of who signed it with ?ca=… in REDIS_URL`,
  ],
  [
    /^CERT_(HAS_EXPIRED|NOT_YET_VALID)$/,
    (place, reason) =>
      `the certificate of Redis at ${place} is not valid today (${reason}): renew it there, or correct this machine's clock`,
  ],
  [
    /^ERR_TLS_CERT_ALTNAME_INVALID$/,
    (place, reason) =>
      `the certificate of Redis at ${place} is of another host (${reason}): use the name that it is of, or give that with ?servername=… in REDIS_URL`,
  ],
  [
    /ALERT_CERTIFICATE_REQUIRED|ALERT_HANDSHAKE_FAILURE/,
    (place) => `Redis at ${place} wants a certificate of ours: give it ?cert=…&key=… in REDIS_URL`,
  ],
  [
    /ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_|UNSUPPORTED_CERTIFICATE|DECRYPT_ERROR)/,
    (place) =>
      `Redis at ${place} does not take our certificate: ?cert=… of REDIS_URL must be signed by who is named in its tls-ca-cert-file, and valid`,
  ],
  [
    /^ERR_OSSL_/,
    (place, reason) =>
      `the files named for Redis at ${place} are no certificates, or do not go together (${reason}): correct ?ca, cert and key in REDIS_URL`,
  ],
];

/** What ioredis says, in errors without a code, when it has no connection. */
const noConnection =
  /^Connection is closed|^Command aborted due to connection close|max retries per request|ETIMEDOUT|timed out|^Socket timeout|^Stream isn't writeable|^None of startup nodes|^Failed to refresh slots|^All sentinels are unreachable|^failed to connect to sentinel|^no TLS handshake|^no Redis/;

/**
 * ConfigError: 'redis-full' (memory, disk, connections), 'redis-refused' (a password, an ACL), 'redis-read-only',
 * 'redis-not-ready', 'redis-other-kind' (a Cluster, a Sentinel, or none), 'redis-tls' (certificates), 'redis-unreachable'. A
 * ConfigError, and what is no trouble of an operator's, are given back. `place` is a Redis address; its credentials are not
 * shown.
 */
export function explainRedisError(error: unknown, place: string): unknown {
  if (!(error instanceof Error) || error instanceof ConfigError) return error;
  const shown = redisPlace(place);
  const fail = (code: string, text: string) => new ConfigError(code, text, { cause: error });
  if (error instanceof RedisSpeaks) {
    const [had, other] = error.tls ? ['redis', 'rediss'] : ['rediss', 'redis'];
    const what = error.tls ? 'speaks TLS' : 'speaks no TLS';
    return fail('redis-tls', `Redis at ${shown} ${what}: write ${other} for ${had} in REDIS_URL`);
  }
  for (const reason of reasonsOf(error)) {
    for (const [pattern, code, explain] of answers)
      if (pattern.test(reason)) return fail(code, explain(shown, reason));
  }
  const errno = errnoOf(error) ?? '';
  for (const [pattern, explain] of handshakes)
    if (pattern.test(errno)) return fail('redis-tls', explain(shown, messageOf(error)));
  if (error.name === 'ReplyError' || !isUnreachable(error)) return error;
  return fail(
    'redis-unreachable',
    `no Redis at ${shown} (${error.message ? messageOf(error) : errnoOf(error)}): start one, correct REDIS_URL, or unset it to use a private one`,
  );
}

function commandOf(reason: string): string {
  return / run the '([^']+)' command/.exec(reason)?.[1] ?? '';
}

/** As `explainRedisError`, for an error of any origin: what Redis did not answer is given back. */
export function explainRedisReply(error: unknown, place: string): unknown {
  return error instanceof Error && error.name === 'ReplyError' ? explainRedisError(error, place) : error;
}

/** A transaction's own words say only that it was aborted (EXECABORT), a Cluster's that no node serves: why, others say. */
function reasonsOf(error: Error): string[] {
  const previous =
    'previousErrors' in error && Array.isArray(error.previousErrors) ? error.previousErrors : [];
  const node = 'lastNodeError' in error ? [error.lastNodeError] : [];
  return [error, ...previous, ...node].map(messageOf);
}

/** Node's errors of sockets, host names and certificates have a code; ioredis's own have none. */
function isUnreachable(error: Error): boolean {
  if (error instanceof TypeError || error instanceof RangeError) return false;
  return errnoOf(error) !== undefined || noConnection.test(error.message);
}
