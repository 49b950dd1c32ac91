/** How LanceDB reaches the server that our own requests reach, as who they come from: it has an S3 client of its own. */
import { findS3Server, type S3Options } from '../s3/client.ts';

export interface S3Access {
  /** In object_store's words (https://docs.rs/object_store/latest/object_store/aws/enum.AmazonS3ConfigKey.html). */
  storageOptions: Record<string, string>;
  /** When the credentials end, as `Date.now()`; `undefined` where they do not. */
  expiresAt: number | undefined;
}

/** `uri` is that of an output, `s3://bucket/prefix`. */
export async function s3Access(uri: string, options: S3Options): Promise<S3Access> {
  const client = await findS3Server(options).openClient();
  try {
    const { config } = client;
    const credentials = await config.credentials();
    const server = await config.endpoint?.();
    const port = server?.port ? `:${server.port}` : '';
    const endpoint = server && `${server.protocol}//${server.hostname}${port}`;
    const timeout = `${options.requestTimeoutMs} ms`;
    return {
      storageOptions: {
        ...(endpoint && { aws_endpoint: endpoint, allow_http: String(endpoint.startsWith('http:')) }),
        aws_region: (endpoint ? undefined : await regionOf(uri)) ?? (await config.region()),
        aws_access_key_id: credentials.accessKeyId,
        aws_secret_access_key: credentials.secretAccessKey,
        ...(credentials.sessionToken && { aws_session_token: credentials.sessionToken }),
        aws_virtual_hosted_style_request: String(!config.forcePathStyle),
        timeout,
        connect_timeout: `${options.connectionTimeoutMs} ms`,
        client_max_retries: String(options.maxAttempts - 1),
        client_retry_timeout: String(Math.ceil((options.requestTimeoutMs * options.maxAttempts) / 1000)),
      },
      expiresAt: credentials.expiration?.getTime(),
    };

    /** Of the bucket: our requests are redirected to it, LanceDB's are not. Unknown where one may not ask. */
    async function regionOf(output: string): Promise<string | undefined> {
      const Bucket = new URL(output).hostname;
      const answer = await client.headBucket({ Bucket }).catch(() => undefined);
      return answer?.BucketRegion;
    }
  } finally {
    client.destroy();
  }
}
