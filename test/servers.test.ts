/** The servers that the other tests stand on do what the product asks of theirs. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { makeBucket } from './helpers/s3.ts';
import { useRadosgw } from './helpers/servers.ts';
import { tempFolder } from './helpers/temp.ts';

test('of eight that create one object at once, one wins and seven are told', async () => {
  const { endpoint, region } = await useRadosgw();
  const s3 = new S3Client({ endpoint, region, forcePathStyle: true });
  const Bucket = await makeBucket();
  const outcomes = await Promise.all(
    Array.from({ length: 8 }, (_, writer) =>
      s3.send(new PutObjectCommand({ Bucket, Key: 'part', Body: `writer ${writer}`, IfNoneMatch: '*' })).then(
        () => `writer ${writer}`,
        (error) => error.name,
      ),
    ),
  );
  const winners = outcomes.filter((outcome) => outcome.startsWith('writer'));
  expect(winners).toHaveLength(1);
  expect(outcomes.filter((outcome) => outcome === 'PreconditionFailed')).toHaveLength(7);
  const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key: 'part' }));
  expect(await Body?.transformToString()).toBe(winners[0]);
});

test("a stranger may not write to the tester's bucket", async () => {
  const { endpoint, region, stranger } = await useRadosgw();
  const s3 = new S3Client({ endpoint, region, forcePathStyle: true, credentials: stranger });
  const put = s3.send(new PutObjectCommand({ Bucket: await makeBucket(), Key: 'part', Body: 'x' }));
  await expect(put).rejects.toMatchObject({ name: 'AccessDenied' });
});

test('a radosgw whose owner was killed leaves no process and no file', async () => {
  const TMPDIR = tempFolder();
  const env = { ...process.env, TMPDIR };
  const shell = spawn('bash', [join(import.meta.dirname, 'helpers/radosgw.sh')], { env, detached: true });
  const closed = once(shell, 'close');
  const complaint = text(shell.stderr);
  const serves = await Promise.race([once(shell.stdout, 'data').then(() => true), closed.then(() => false)]);
  if (!serves) expect.fail(await complaint);
  expect(readdirSync(TMPDIR)).toHaveLength(1);
  // As the kernel does for an owner that was killed.
  shell.stdin.destroy();
  await closed;
  expect(readdirSync(TMPDIR)).toEqual([]);
  expect(() => process.kill(-(shell.pid ?? 0), 0), 'its process group').toThrow('ESRCH');
});
