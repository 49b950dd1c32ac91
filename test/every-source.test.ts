/** Whole commands over every kind of source: the same pictures have the same rows, wherever they lie. */
import { execFileSync } from 'node:child_process';
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { DuckDBInstance } from '@duckdb/node-api';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { lensmill, smallModel } from './helpers/cli.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { makeBucket, putForeignObject, testEndpoint } from './helpers/s3.ts';
import { tempFolder } from './helpers/temp.ts';
import { serveWeb, type WebServer } from './helpers/web-server.ts';

const home = tempFolder();
const output = tempFolder();
const env = { AWS_ENDPOINT_URL_S3: testEndpoint(), AWS_REGION: 'us-east-1' };
const secret = 'TopSecret';

const sound = Array.from({ length: 12 }, (_, n) => `part-0/${String(n).padStart(5, '0')}.jpg`);
const half = 'part-0/half.jpg';
const names = [...sound, half];

beforeAll(async () => {
  await makePhotoArchive(place('photos'), sound.length);
  writeFileSync(place(`photos/${half}`), readFileSync(place(`photos/${sound[0]}`)).subarray(0, 9000));
  const pack = (archive: string, command: string, ...args: string[]): void => {
    execFileSync(command, [...args, place(archive), 'part-0'], { cwd: place('photos') });
  };
  pack('photos.tar', 'tar', '-cf');
  pack('photos.zip', 'python3', '-m', 'zipfile', '-c');
  writeFileSync(place('photos.tar.gz'), gzipSync(readFileSync(place('photos.tar'))));
  writeFileSync(place('photos.tar.zst'), zstdCompressSync(readFileSync(place('photos.tar'))));
});

function place(name: string): string {
  return join(home, name);
}

async function run(...args: string[]) {
  const { exitCode, stdout, stderr } = await lensmill([...args, '--output', output, '--json'], env);
  return { exitCode, result: stdout === '' ? {} : JSON.parse(stdout), text: stdout + stderr };
}

function index(id: string, ...args: string[]) {
  return run('index', ...args, '--run', id, '--model', smallModel, '--shard-size', '64');
}

interface Row {
  id: string;
  uri: string;
  status: string;
  error?: string;
  embedding?: number[];
  extra?: Record<string, unknown>;
}

/** A run's rows by id, as `lensmill export` gives them. */
async function rowsOf(id: string): Promise<Map<string, Row>> {
  const to = join(tempFolder(), 'to');
  await run('export', '--run', id, '--to', to, '--format', 'jsonl');
  const lines = readFileSync(join(to, 'images-00000.jsonl'), 'utf8').trimEnd().split('\n');
  return new Map(lines.map((line) => JSON.parse(line)).map((row: Row) => [row.id, row]));
}

/** Serves what lies at home, in ranges too. */
function serveHome(): Promise<WebServer> {
  return serveWeb(({ method, url = '', headers }, reply) => {
    const content = readFileSync(place(new URL(url, 'http://any').pathname));
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
    const part = content.subarray(Number(first ?? 0), Number(last || content.length) + 1);
    const range = `bytes ${first}-${Number(first) + part.length - 1}/${content.length}`;
    reply.setHeader('etag', '"1"').setHeader('content-length', part.length);
    if (first) reply.writeHead(206, { 'content-range': range });
    reply.end(method === 'HEAD' ? undefined : part);
  });
}

describe('the same pictures from every source, in one command', () => {
  let indexed: Awaited<ReturnType<typeof run>>;
  let rows: Map<string, Row>;
  /** What the ids of a source's pictures begin with, and their URIs. */
  let places: [prefix: string, uri: string][];

  beforeAll(async () => {
    const server = await serveHome();
    const stored = `s3://${await makeBucket()}/pictures`;
    const put = (key: string, name: string) =>
      putForeignObject(new URL(stored).host, `pictures/${key}`, readFileSync(place(name)));
    for (const archive of ['photos.tar', 'photos.zip']) await put(`packed/${archive}`, archive);
    for (const name of names) await put(`loose/${name}`, `photos/${name}`);

    const csvOf = (uri: string): string =>
      `sku,url,caption\n${names.map((name) => `${name},${uri}/${name},"of ${name}, a ""photo"""\n`).join('')}`;
    writeFileSync(place('files.csv'), csvOf('photos'));
    writeFileSync(place('stored.csv'), csvOf(`${stored}/loose`));
    const signed = (name: string): string => `${server.url}/photos/${name}?X-Amz-Signature=${secret}`;
    const lines = names.map((name) => JSON.stringify({ sku: name, url: signed(name), caption: [name] }));
    writeFileSync(place('signed.jsonl'), lines.join('\n'));
    const duckdb = await (await DuckDBInstance.create()).connect();
    await duckdb.run(`COPY (FROM '${place('stored.csv')}') TO '${place('stored.parquet')}'`);
    duckdb.closeSync();

    const local = ['photos', 'photos.tar', 'photos.tar.gz', 'photos.tar.zst', 'photos.zip'];
    const lists = ['files.csv', 'signed.jsonl', 'stored.parquet'];
    const sources = [
      ...[...local, ...lists].map(place),
      stored,
      `${server.url}/photos.tar`,
      signed('part-0/00007.jpg'),
    ];
    indexed = await index(
      'everything', ...sources, '--archives', '--reuse', 'off', '--id-column', 'sku', '--columns', 'caption', '--allow-files',
      '--allow-host', server.host,
    ); // biome-ignore format: a command
    rows = await rowsOf('everything');
    places = [
      ['photos/', `file://${home}/photos/`],
      ['photos.tar/', `file://${home}/photos.tar!`],
      ['photos.tar.gz/', `file://${home}/photos.tar.gz!`],
      ['photos.tar.zst/', `file://${home}/photos.tar.zst!`],
      ['photos.zip/', `file://${home}/photos.zip!`],
      ['files.csv/', `file://${home}/photos/`],
      ['signed.jsonl/', `${server.url}/photos/`],
      ['stored.parquet/', `${stored}/loose/`],
      ['pictures/loose/', `${stored}/loose/`],
      ['pictures/packed/photos.tar!', `${stored}/packed/photos.tar!`],
      ['pictures/packed/photos.zip!', `${stored}/packed/photos.zip!`],
      ['photos.tar~2/', `${server.url}/photos.tar!`],
    ];
  });

  test('have ids and URIs that say where they lie', () => {
    const ids = places.flatMap(([prefix]) => names.map((name) => prefix + name));
    expect([...rows.keys()].toSorted()).toEqual([...ids, '00007.jpg/00007.jpg'].toSorted());
    for (const [prefix, uri] of places) {
      const signature = prefix === 'signed.jsonl/' ? '?X-Amz-Signature=***' : '';
      for (const name of names) expect(rows.get(prefix + name)?.uri).toBe(`${uri}${name}${signature}`);
    }
  });

  test('have the same embeddings, each computed anew', () => {
    expect(indexed.result).toMatchObject({ ok: places.length * sound.length + 1, reused: 0 });
    const embeddings = new Map(sound.map((name) => [name, rows.get(`photos/${name}`)?.embedding]));
    expect(new Set([...embeddings.values()].map(String)).size).toBe(sound.length);
    for (const [prefix] of places)
      for (const [name, embedding] of embeddings)
        expect(rows.get(prefix + name)?.embedding).toEqual(embedding);
    expect(rows.get('00007.jpg/00007.jpg')?.embedding).toEqual(embeddings.get('part-0/00007.jpg'));
  });

  test('cost one row where one is damaged, and the command exits with 3', () => {
    expect(indexed.exitCode).toBe(3);
    expect(indexed.result).toMatchObject({ failed: places.length, failures: { truncated: places.length } });
    for (const [prefix] of places)
      expect(rows.get(prefix + half)).toMatchObject({ status: 'failed', error: 'truncated' });
  });

  test('keep what came with them: columns of lists, keys of tars', () => {
    const [name = ''] = sound;
    const caption = `of ${name}, a "photo"`;
    const extraIn = (prefix: string) => rows.get(prefix + name)?.extra;
    expect(extraIn('files.csv/')).toEqual({ caption });
    expect(extraIn('stored.parquet/')).toEqual({ caption });
    expect(extraIn('signed.jsonl/')).toEqual({ caption: [name] });
    for (const tar of ['photos.tar/', 'photos.tar.zst/', 'pictures/packed/photos.tar!'])
      expect(extraIn(tar)).toEqual({ __key__: 'part-0/00000' });
    for (const plain of ['photos/', 'photos.zip/', 'pictures/loose/']) expect(extraIn(plain)).toBeUndefined();
  });

  test('are a run that is proven', async () => {
    const { exitCode, result } = await run('verify', 'everything');
    expect(result).toMatchObject({ sound: true, items: rows.size, problems: [] });
    expect(exitCode).toBe(0);
  });

  test('show no signature of their URLs: not in logs, not in rows, not in what says how they were made', () => {
    expect(indexed.text + JSON.stringify([...rows.values()])).not.toContain(secret);
    const parts = join(output, 'runs/everything/parts');
    for (const part of readdirSync(parts))
      expect(readFileSync(join(parts, part)).includes(secret)).toBe(false);
  });
});

describe('a tar and a list of files and URLs', () => {
  const sources = [place('growing.tar'), place('rows.csv'), '--allow-files'];

  test('are mended by a retry where what was missing is there now, and a host allowed; the damaged member stays', async () => {
    const server = await serveHome();
    copyFileSync(place('photos.tar'), place('growing.tar'));
    const rowsOfList = [`photos/${sound[0]}`, 'late.jpg', `${server.url}/photos/${sound[1]}`];
    writeFileSync(place('rows.csv'), `path\n${rowsOfList.join('\n')}\n`);
    const first = await index('first', ...sources);
    expect(first.exitCode).toBe(3);
    // The server's address is a private one.
    expect(first.result).toMatchObject({ failures: { truncated: 1, 'not-found': 1, 'not-allowed': 1 } });

    copyFileSync(place(`photos/${sound[2]}`), place('late.jpg'));
    const retry = ['first', '--failed', '--allow-files', '--allow-host', server.host];
    expect(await run('retry', ...retry)).toMatchObject({
      exitCode: 3,
      result: { mended: 2, failures: { truncated: 1 } },
    });
    expect(await run('verify', 'first')).toMatchObject({ exitCode: 0, result: { sound: true } });
    const rows = await rowsOf('first');
    const embeddingOf = (id: string) => rows.get(id)?.embedding;
    expect(embeddingOf('rows.csv/late.jpg')).toEqual(embeddingOf(`growing.tar/${sound[2]}`));
  });

  test('are read again where the tar has grown, and only the new member is embedded', async () => {
    await sharp(place(`photos/${sound[3]}`))
      .negate()
      .toFile(place('new.png'));
    execFileSync('tar', ['-rf', place('growing.tar'), 'new.png'], { cwd: home });
    writeFileSync(place('rows.csv'), `path\nphotos/${sound[0]}\nlate.jpg\n`);
    const { result } = await index('second', ...sources, '--since', 'latest');
    // A list knows no versions, so its rows are read again, too.
    expect(result).toMatchObject({ since: 'first', new: 1, changed: 15, gone: 1, kept: 0 });
    expect(result).toMatchObject({ ok: 15, failed: 1, reused: 14 });
  });
});

test('what may not be read is refused before anything is, and no password is repeated', async () => {
  const refused: [source: string, message: string][] = [
    ['http://127.0.0.1:9/a.jpg', '--allow-host'],
    [`https://user:${secret}@example.org/a.jpg`, 'leave out user and password'],
    [`https://user:${secret}@example org/photos.zip`, 'is no URL'],
    [`ftp://user:${secret}@example.org/photos.zip`, "no source for 'ftp://"],
  ];
  await Promise.all(
    refused.map(async ([source, message]) => {
      const { exitCode, text } = await index('refused', source);
      expect({ source, exitCode }).toEqual({ source, exitCode: 2 });
      expect(text).toContain(message);
      expect(text).not.toContain(secret);
    }),
  );
});
