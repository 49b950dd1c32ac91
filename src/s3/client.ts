/** The AWS SDK's client, set up to give up on a server that stops in the middle of a body: that takes all four timeouts. */
import type { S3, S3ClientConfig } from '@aws-sdk/client-s3';
import { ConfigError } from '../errors.ts';

/** Credentials are no option: the SDK looks for them (AWS_ACCESS_KEY_ID …, profiles, instance roles). */
export interface S3Options {
  /** A server other than AWS, such as `http://localhost:8333`. Else AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else AWS. */
  endpoint?: string | undefined;
  /** Else the SDK's search (AWS_REGION, profiles), else 'us-east-1', from where AWS redirects to the bucket's own. */
  region?: string | undefined;
  /** The bucket in the path rather than in the host name. Default: true for a server other than AWS. */
  forcePathStyle?: boolean | undefined;
  /** Longest wait for a reply's headers, upload and wait for a free socket included, and for each next piece of a body. */
  requestTimeoutMs: number;
  connectionTimeoutMs: number;
  /** Connections at once, of GETs and of all else separately (s3/get.ts). */
  maxSockets: number;
  /** Times that a request is sent, the first included, before its error is thrown. */
  maxAttempts: number;
}

export interface S3Server {
  /** For messages: an endpoint's origin, or 'AWS'. */
  name: string;
  /** Sends nothing. Loads the SDK, a fifth of a second of a core in each thread that does. */
  openClient(): Promise<S3>;
}

/** Throws ConfigError 'bad-endpoint'. */
export function findS3Server(options: S3Options): S3Server {
  // The SDK reads these two itself, but does not tell, and the address style depends on it.
  const { AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
  const endpoint = options.endpoint || AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL;
  if (endpoint && !(URL.canParse(endpoint) && /^https?:\/\//i.test(endpoint))) {
    throw new ConfigError(
      'bad-endpoint',
      `'${endpoint}' is no S3 endpoint; expected such as http://localhost:8333`,
    );
  }
  const settings: S3ClientConfig = {
    ...(endpoint && { endpoint }),
    region: options.region || defaultRegion,
    followRegionRedirects: true,
    forcePathStyle: options.forcePathStyle ?? Boolean(endpoint),
    // Other servers may refuse the checksum trailers that the SDK sends and expects by default.
    requestChecksumCalculation: endpoint ? 'WHEN_REQUIRED' : 'WHEN_SUPPORTED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    maxAttempts: options.maxAttempts,
    requestHandler: {
      connectionTimeout: options.connectionTimeoutMs,
      requestTimeout: options.requestTimeoutMs,
      throwOnRequestTimeout: true,
      socketTimeout: options.requestTimeoutMs,
      httpAgent: { maxSockets: options.maxSockets },
      httpsAgent: { maxSockets: options.maxSockets },
    },
  };
  return {
    name: endpoint ? new URL(endpoint).origin : 'AWS',
    openClient: async () => new (await import('@aws-sdk/client-s3')).S3(settings),
  };
}

async function defaultRegion(): Promise<string> {
  const { S3Client } = await import('@aws-sdk/client-s3');
  const client = new S3Client({});
  return client.config.region().catch(() => 'us-east-1');
}
