/**
 * What reading an object of 120 kB costs its reader, in CPU: `node test/bench/read.ts [--reads 1000] [--rounds 5]`.
 *
 *   file   `Objects.read` of files that are in the page cache, and the same calls without libuv's threads
 *   s3     `Objects.read`, and the SDK alone: from a server in a process of its own that does nothing but answer, and from
 *          a private radosgw
 *   lane   what a lane does to each object beside: the hash, `fetchItem` around it, a signature (ours and the SDK's)
 *
 * Only this process is counted, all of its threads. The rows take turns, and a figure is the median of their rounds.
 */
import { fork } from 'node:child_process';
import { hash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CreateBucketCommand, GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { fetchItem } from '../../src/fetch.ts';
import { openFileObjects } from '../../src/objects/file.ts';
import type { Objects } from '../../src/objects/objects.ts';
import { openS3Objects } from '../../src/objects/s3.ts';
import { openSigner } from '../../src/s3/sign.ts';
import type { Source } from '../../src/sources/source.ts';
import { s3Defaults } from '../helpers/s3-options.ts';
import { startRadosgw } from '../helpers/servers.ts';

const objectBytes = 120_000;
const objects = 64;
const atOnce = 16;
const names = Array.from({ length: objects }, (_, at) => `photos/2024/IMG_${at}.jpg`);
const nameOf = (at: number): string => names[at % objects] ?? '';

interface Row {
  what: string;
  act(at: number): unknown;
}

export async function benchRead({ reads, rounds }: { reads: number; rounds: number }): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  const answering = fork(import.meta.filename, ['answer']);
  const radosgw = await startRadosgw();
  try {
    process.env.AWS_ACCESS_KEY_ID = radosgw.accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = radosgw.secretAccessKey;
    const [endpoint] = (await once(answering, 'message')) as [string];
    await putObjects(radosgw.endpoint);
    const rows: Row[] = [
      ...fileRows(folder),
      ...s3Rows('answers only', endpoint),
      ...s3Rows('radosgw', radosgw.endpoint),
      ...(await laneRows(endpoint)),
    ];
    const costs = new Map<string, number[]>(rows.map(({ what }) => [what, []]));
    for (let round = -1; round < rounds; round++)
      for (const { what, act } of rows) {
        const cost = await cpuOf(act, reads);
        if (round >= 0) costs.get(what)?.push(cost); // the first one warms up
      }
    console.log(
      `${objectBytes} bytes, ${atOnce} at once, ${availableParallelism()} cores; medians of ${rounds} rounds`,
    );
    const bare = medianOf(costs.get('s3 from answers only, SDK') ?? []);
    console.table(
      Object.fromEntries(
        [...costs].map(([what, figures]) => {
          const cost = medianOf(figures);
          return [what, { 'CPU-µs an object': Math.round(cost), 'of the SDK': (cost / bare).toFixed(2) }];
        }),
      ),
    );
  } finally {
    answering.kill();
    await radosgw.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function fileRows(folder: string): Row[] {
  for (const name of names.keys()) writeFileSync(join(folder, `${name}`), randomBytes(objectBytes));
  const pathOf = (at: number): string => join(folder, `${at % objects}`);
  return [
    { what: 'file', act: readWith(openFileObjects(), pathOf) },
    {
      what: 'file, blocking',
      act: (at) => {
        statSync(pathOf(at), { bigint: true });
        const file = openSync(pathOf(at), 'r');
        readSync(file, Buffer.allocUnsafeSlow(objectBytes));
        fstatSync(file, { bigint: true });
        closeSync(file);
      },
    },
  ];
}

function s3Rows(server: string, endpoint: string): Row[] {
  const sdk = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true });
  const ours = openS3Objects({ ...s3Defaults, endpoint, region: 'us-east-1' });
  return [
    {
      what: `s3 from ${server}, SDK`,
      act: async (at) => {
        const reply = await sdk.send(new GetObjectCommand({ Bucket: 'bench', Key: nameOf(at) }));
        await reply.Body?.transformToByteArray();
      },
    },
    { what: `s3 from ${server}`, act: readWith(ours, (at) => `s3://bench/${nameOf(at)}`) },
  ];
}

function readWith(from: Objects, uriOf: (at: number) => string): Row['act'] {
  return (at) => from.read(uriOf(at), { etag: '', maxBytes: objectBytes });
}

async function laneRows(endpoint: string): Promise<Row[]> {
  const content = randomBytes(objectBytes);
  // Takes no time at all, so what remains is `fetchItem`.
  const source: Pick<Source, 'read'> = { read: async () => content };
  const { signal } = new AbortController();
  const keys = { accessKeyId: 'id', secretAccessKey: 'secret' };
  const { host } = new URL(endpoint);
  const sign = openSigner();
  const client = new S3Client({ endpoint, region: 'us-east-1', credentials: keys });
  const signer = await client.config.signer();
  return [
    { what: 'its hash', act: () => hash('sha256', content) },
    {
      what: 'its hash, by fetchItem',
      act: (at) =>
        fetchItem(
          source as Source,
          { id: nameOf(at), uri: `s3://bench/${nameOf(at)}`, etag: '', size: objectBytes },
          { maxBytes: objectBytes, timeoutMs: 60_000, signal },
        ),
    },
    {
      what: 'a signature',
      act: (at) =>
        sign(
          { path: `/${nameOf(at)}`, headers: { host }, regionAndService: 'us-east-1/s3' },
          keys,
          new Date(),
        ),
    },
    {
      what: 'a signature, SDK',
      act: (at) =>
        signer.sign({
          method: 'GET',
          protocol: 'http:',
          hostname: host,
          path: `/${nameOf(at)}`,
          query: {},
          headers: { host },
        }),
    },
  ];
}

async function putObjects(endpoint: string): Promise<void> {
  const client = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true });
  await client.send(new CreateBucketCommand({ Bucket: 'bench' }));
  for (const Key of names)
    await client.send(new PutObjectCommand({ Bucket: 'bench', Key, Body: randomBytes(objectBytes) }));
}

/** Microseconds an act, of this process alone. */
async function cpuOf(act: Row['act'], times: number): Promise<number> {
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < times) await act(next++);
  };
  const before = process.cpuUsage();
  await Promise.all(Array.from({ length: atOnce }, work));
  const { user, system } = process.cpuUsage(before);
  return (user + system) / times;
}

function medianOf(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
}

/** An S3 server for one kind of request, whose reply it has ready. */
async function answer(): Promise<void> {
  const head = `HTTP/1.1 200 OK\r\nContent-Length: ${objectBytes}\r\nETag: "etag"\r\n\r\n`;
  const reply = Buffer.concat([Buffer.from(head), randomBytes(objectBytes)]);
  const server = createServer({ noDelay: true }, (socket) => {
    let heard = '';
    socket.on('error', () => socket.destroy());
    socket.on('data', (piece) => {
      const requests = (heard + piece.toString('latin1')).split('\r\n\r\n');
      heard = requests.pop() ?? '';
      for (const _ of requests) socket.write(reply);
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  if (typeof address === 'object') process.send?.(`http://127.0.0.1:${address?.port}`);
}

if (import.meta.main) {
  if (process.argv[2] === 'answer') await answer();
  else {
    const { values } = parseArgs({
      options: { reads: { type: 'string', default: '1000' }, rounds: { type: 'string', default: '5' } },
    });
    await benchRead({ reads: Number(values.reads), rounds: Number(values.rounds) });
    process.exit(0); // the SDK's connections are kept
  }
}
