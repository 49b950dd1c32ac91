/** Buckets on the tests' S3 server: a private radosgw, or the server that LENSMILL_TEST_S3 names (keys in AWS_… as ever). */
import { randomUUID } from 'node:crypto';
import { CreateBucketCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { S3Options } from '../../src/s3/s3.ts';
import { useRadosgw } from './servers.ts';

const endpoint = process.env.LENSMILL_TEST_S3 ?? (await useRadosgw()).endpoint;

/** The server's endpoint. Its credentials are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, where the program looks. */
export function testEndpoint(): string {
  return endpoint;
}

/** Short timeouts and few attempts: the server is next door. */
export function testS3Options(changes: Partial<S3Options> = {}): S3Options {
  return {
    endpoint: testEndpoint(),
    region: 'us-east-1',
    requestTimeoutMs: 10_000,
    connectionTimeoutMs: 1_000,
    maxSockets: 32,
    maxAttempts: 3,
    ...changes,
  };
}

/** A new, empty bucket's name. */
export async function makeBucket(): Promise<string> {
  const Bucket = `test-${randomUUID()}`;
  await rawClient().send(new CreateBucketCommand({ Bucket }));
  return Bucket;
}

/** Writes an object as any other program would: without our metadata, under any key. Gives its etag, unquoted. */
export async function putForeignObject(bucket: string, key: string, body: Uint8Array): Promise<string> {
  const reply = await rawClient().send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body }));
  return (reply.ETag ?? '').replaceAll('"', '');
}

let client: S3Client | undefined;
function rawClient(): S3Client {
  client ??= new S3Client({ endpoint: testEndpoint(), region: 'us-east-1', forcePathStyle: true });
  return client;
}
