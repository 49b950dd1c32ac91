/**
 * What an error of an S3 request means: a ConfigError where the operator can mend it, an S3Error where it lies in the
 * object. Names and statuses: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
 */
import { errnoOf } from '../errno.ts';
import { ConfigError, messageOf } from '../errors.ts';

/** A request failed for a reason that lies in the object. Everything else that is expected is a ConfigError. */
export class S3Error extends Error {
  override name = 'S3Error';
  readonly code: S3ErrorCode;

  constructor(code: S3ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export type S3ErrorCode =
  | 'not-found'
  | 'precondition-failed' // 412: the key is taken, or the etag is another
  | 'conflict' // 409: another conditional write to this key is in flight
  | 'out-of-range' // the range begins beyond the object's end
  | 'unsupported' // 501: this server does not know what was asked
  | 'too-many-bytes' // more than the `maxBytes` of the call
  | 'unexpected';

export type S3Act = 'read' | 'write' | 'list';

export interface S3Place {
  uri: string;
  bucket: string;
  /** An endpoint, or 'AWS'. */
  server: string;
}

/**
 * ConfigError: 'no-bucket', 'bad-credentials', 'wrong-region', 'access-denied', 'store-unreachable' (whatever another
 * attempt may cure: 5xx, 429, timeouts, broken connections). A TypeError or RangeError, a bug, is given back.
 */
export function explainS3Error(error: unknown, act: S3Act, { uri, bucket, server }: S3Place): unknown {
  const options = { cause: error };
  const fail = (code: string, message: string) => new ConfigError(code, message, options);
  const name = error instanceof Error ? error.name : '';
  const status = statusOf(error);

  if (name === 'CredentialsProviderError') {
    return fail('bad-credentials', `no credentials for ${uri}: set ${credentialNames}`);
  }
  if (refusedCredentials.has(name)) {
    return fail('bad-credentials', `${server} refuses the credentials (${name}): correct ${credentialNames}`);
  }
  if (name === 'NoSuchBucket') {
    return fail(
      'no-bucket',
      `no bucket '${bucket}' at ${server}: create it, or correct the URI or --s3-endpoint`,
    );
  }
  if (name === 'PermanentRedirect' || name === 'AuthorizationHeaderMalformed') {
    return fail(
      'wrong-region',
      `bucket '${bucket}' is in another region (${messageOf(error)}): set AWS_REGION`,
    );
  }
  if (status === 403) {
    return fail(
      'access-denied',
      `these credentials may not ${act} ${uri} (${name}): allow them ${actions[act]}`,
    );
  }
  // A good reply that is not S3's XML, or no list where even an empty bucket has one.
  const isUnreadable = status !== undefined && status < 300 && errnoOf(error) === undefined;
  if (isUnreadable || (status === 404 && act === 'list')) return notS3Error(server, options);
  const code = status === undefined ? undefined : codes.get(status);
  if (code) return new S3Error(code, `${uri}: ${name}`, options);
  if (status !== undefined && status >= 300 && status < 500 && status !== 429) {
    return new S3Error('unexpected', `cannot ${act} ${uri}: ${name}: ${messageOf(error)}`, options);
  }
  if (error instanceof TypeError || error instanceof RangeError) return error;
  const reason = errnoOf(error) ?? (status === undefined ? messageOf(error) : `${status} ${name}`);
  return fail(
    'store-unreachable',
    `no S3 server answers at ${server} (${reason}): start it, or correct --s3-endpoint`,
  );
}

export function notS3Error(server: string, options?: ErrorOptions): ConfigError {
  const message = `what answers at ${server} is no S3 server: correct --s3-endpoint`;
  return new ConfigError('store-unreachable', message, options);
}

const credentialNames = 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE';

const refusedCredentials = new Set([
  'InvalidAccessKeyId',
  'SignatureDoesNotMatch',
  'ExpiredToken',
  'InvalidToken',
  'TokenRefreshRequired',
]);

const actions: Record<S3Act, string> = {
  read: 's3:GetObject',
  write: 's3:PutObject',
  list: 's3:ListBucket',
};

const codes = new Map<number, S3ErrorCode>([
  [404, 'not-found'],
  [409, 'conflict'],
  [412, 'precondition-failed'],
  [416, 'out-of-range'],
  [501, 'unsupported'],
]);

/** The SDK puts the HTTP status into whatever it throws after a reply. */
function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error && '$metadata' in error)) return undefined;
  return (error.$metadata as { httpStatusCode?: number }).httpStatusCode;
}
