/** Where a pool's output goes: a folder or a bucket. The processes may come to it through a proxy; the auditor never does. */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  CreateBucketCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import pMap from 'p-map';
import { s3OptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { openStore } from '../../src/stores/open-store.ts';
import type { Store } from '../../src/stores/store.ts';
import type { S3Server } from '../helpers/servers.ts';

/** An object as the place itself tells of it. The version changes whenever anybody writes it, even the same bytes. */
export interface ObjectVersion {
  key: string;
  size: number;
  /** Milliseconds since 1970. */
  modified: number;
  version: string;
}

export interface Place {
  /** As the processes of the pool name it. */
  output: string;
  /** What they need to reach it. */
  env: Record<string, string>;
  openStore(): Store;
  /** Below a prefix, ordered by key. */
  versions(prefix: string): Promise<ObjectVersion[]>;
  /** Begun and not ended; always 0 in a folder. */
  unfinishedUploads(): Promise<number>;
}

export function makeFilePlace(folder: string): Place {
  mkdirSync(folder, { recursive: true });
  return {
    output: folder,
    env: {},
    openStore: () => openStore(folder, s3Options()),
    async versions(prefix) {
      const names = (await readdir(folder, { recursive: true })).sort();
      const keys = names.filter((name) => name.startsWith(prefix) && !name.startsWith('.'));
      const facts = await Promise.all(
        keys.map(async (key) => ({ key, facts: await stat(join(folder, key)) })),
      );
      return facts
        .filter(({ facts }) => facts.isFile())
        .map(({ key, facts: { size, ino, mtimeMs } }) => ({
          key,
          size,
          modified: mtimeMs,
          version: `${ino}-${mtimeMs}`,
        }));
    },
    unfinishedUploads: async () => 0,
  };
}

export interface S3Place extends Place {
  bucket: string;
  /** Uploads a folder's files and gives the URI to enqueue. */
  upload(folder: string): Promise<string>;
}

/** A new bucket. `endpoint` is how the pool's processes come to it, where that is another way. */
export async function makeS3Place(server: S3Server, endpoint = server.endpoint): Promise<S3Place> {
  const { region, accessKeyId, secretAccessKey } = server;
  const credentials = { accessKeyId, secretAccessKey };
  const client = new S3Client({ endpoint: server.endpoint, region, credentials, forcePathStyle: true });
  const bucket = `chaos-${randomUUID()}`;
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  // The store looks for its keys where every program does.
  process.env.AWS_ACCESS_KEY_ID = accessKeyId;
  process.env.AWS_SECRET_ACCESS_KEY = secretAccessKey;
  const output = `s3://${bucket}/index`;
  return {
    bucket,
    output,
    env: {
      AWS_ENDPOINT_URL_S3: endpoint,
      AWS_REGION: region,
      AWS_ACCESS_KEY_ID: accessKeyId,
      AWS_SECRET_ACCESS_KEY: secretAccessKey,
    },
    openStore: () => openStore(output, s3Options(server.endpoint)),
    async versions(prefix) {
      const found: ObjectVersion[] = [];
      const pages = paginateListObjectsV2({ client }, { Bucket: bucket, Prefix: `index/${prefix}` });
      for await (const { Contents = [] } of pages) {
        for (const { Key = '', Size = 0, LastModified, ETag = '' } of Contents) {
          const modified = LastModified?.getTime() ?? 0;
          found.push({
            key: Key.replace('index/', ''),
            size: Size,
            modified,
            version: `${ETag}-${modified}`,
          });
        }
      }
      return found;
    },
    async unfinishedUploads() {
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: bucket }));
      return Uploads.length;
    },
    async upload(folder) {
      const names = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) =>
        entry.isFile(),
      );
      await pMap(
        names,
        ({ parentPath, name }) => {
          const path = join(parentPath, name);
          const Key = `archive/${path.slice(folder.length + 1)}`;
          return client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: readFileSync(path) }));
        },
        { concurrency: 16 },
      );
      return `s3://${bucket}/archive`;
    },
  };
}

function s3Options(endpoint?: string) {
  const region = endpoint === undefined ? {} : { s3Region: 'us-east-1' };
  return { ...s3OptionsOf(resolveSettings(region, {}, {}).values), endpoint };
}
