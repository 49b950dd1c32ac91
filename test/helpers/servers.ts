/** The S3 server of the tests: Ceph's gateway, started once by the global setup for whichever test asks first. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { inject } from 'vitest';

export interface S3Server {
  endpoint: string;
  region: string;
  accessKeyId: string;
  secretAccessKey: string;
  /** A user who may do nothing with the buckets of the first. */
  stranger: { accessKeyId: string; secretAccessKey: string };
}

declare module 'vitest' {
  interface ProvidedContext {
    /** A GET is answered with the S3Server as JSON, once it serves. */
    s3Door: string;
  }
}

/**
 * Starts a private radosgw: 8 s, 250 MB of memory. Ours until closed; it ends, and its files go, when we are killed. `on`:
 * words that run it on another host (chaos/netns.ts), and the address that it is to be reached at there; it serves at any.
 */
export async function startRadosgw(on?: {
  prefix: readonly string[];
  address: string;
}): Promise<S3Server & { close(): Promise<void> }> {
  const script = ['bash', join(import.meta.dirname, 'radosgw.sh'), ...(on ? [on.address] : [])];
  const [command = '', ...words] = [...(on?.prefix ?? []), ...script];
  // Its own process group: Ctrl-C is for vitest, which then closes us.
  const shell = spawn(command, words, { detached: true });
  const closed = once(shell, 'close');
  const complaint = text(shell.stderr);
  shell.stdout.setEncoding('utf8');
  const [line] = await Promise.race([once(shell.stdout, 'data'), closed.then(() => [undefined])]);
  if (typeof line !== 'string') {
    const [code, signal] = await closed;
    throw new Error(`radosgw did not start (${signal ?? `exit code ${code}`}):\n${await complaint}`);
  }
  return {
    ...JSON.parse(line),
    close: async () => {
      shell.stdin.end();
      await closed;
    },
  };
}

/** For tests: the run's S3 server. Also puts its keys where the program and the processes it starts look for them. */
export async function useRadosgw(): Promise<S3Server> {
  const reply = await fetch(inject('s3Door'));
  if (!reply.ok) throw new Error(await reply.text());
  const server = (await reply.json()) as S3Server;
  process.env.AWS_ACCESS_KEY_ID = server.accessKeyId;
  process.env.AWS_SECRET_ACCESS_KEY = server.secretAccessKey;
  return server;
}
