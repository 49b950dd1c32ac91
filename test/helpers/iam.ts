/** What a user of the tests' radosgw may do: it enforces IAM policies of users (https://docs.ceph.com/en/latest/radosgw/iam/). */
import { ListBucketsCommand, S3Client } from '@aws-sdk/client-s3';
import type { S3Server } from './servers.ts';

/** Gives `stranger` these rights, in place of those it had. */
export async function putPolicy({ endpoint, region, ...tester }: S3Server, policy: string): Promise<void> {
  const client = new S3Client({ endpoint, region, credentials: tester, forcePathStyle: true });
  // The gateway takes IAM's requests at the same place, and signed as S3's.
  const command = new ListBucketsCommand({});
  const query = { Action: 'PutUserPolicy', UserName: 'stranger', PolicyName: 'role', PolicyDocument: policy };
  command.middlewareStack.add(
    (next) => async (args) => {
      Object.assign(args.request as object, { method: 'POST', path: '/', query }); // as it is before it is signed
      return next(args);
    },
    { step: 'build', priority: 'low' },
  );
  await client.send(command);
  client.destroy();
}
