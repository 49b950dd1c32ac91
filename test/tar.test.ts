/** Tars of every format, as the usual tools write them; how much is read of them; and compressed ones. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import pMap from 'p-map';
import { afterEach, describe, expect, test } from 'vitest';
import { archiveKindOf } from '../src/archives/archive-kinds.ts';
import { openFileObjects } from '../src/objects/file.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openS3Objects } from '../src/objects/s3.ts';
import { ArchiveSource } from '../src/sources/archive-source.ts';
import type { Source } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { makeArchive } from './helpers/archives.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { startProxy } from './helpers/spoiling-proxy.ts';
import { tempFolder } from './helpers/temp.ts';

const maxBytes = 2 ** 30;
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

const opened: Source[] = [];
afterEach(async () => {
  for (const source of opened.splice(0)) await source.close();
});

function open(uri: string, objects: Objects = openFileObjects()): Source {
  const kind = archiveKindOf(uri);
  if (!kind) throw new Error(`no kind for ${uri}`);
  const source = new ArchiveSource(uri, kind, { include: ['**'], exclude: [] }, objects);
  opened.push(source);
  return source;
}

function openBytes(bytes: Uint8Array, name = 'x.tar'): Source {
  const path = join(tempFolder(), name);
  writeFileSync(path, bytes);
  return open(path);
}

async function itemsOf(source: Source): Promise<Item[]> {
  return (await Array.fromAsync(source.list())).flatMap(({ items }) => items);
}

async function contentsOf(source: Source): Promise<Record<string, string>> {
  const items = await itemsOf(source);
  const read = await Promise.all(items.map((item) => source.read(item, { maxBytes })));
  return Object.fromEntries(items.map(({ id }, at) => [id, textOf(read[at] ?? new Uint8Array())]));
}

/** A tree of such files, packed by `tar` in this format. */
function packTree(format: string, files: Record<string, string>, ...options: string[]): Buffer {
  const root = tempFolder();
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), content);
  }
  const args = [`--format=${format}`, '-C', root, '-cf', '-', ...options, '.'];
  return execFileSync('tar', args, { maxBuffer: 2 ** 30, stdio: ['ignore', 'pipe', 'ignore'] });
}

/** As a writer would that knows no more than the first tars did. Its checksum is right. */
function makeHeader(name: string, fields: Record<number, string | Buffer> = {}): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  for (const [at, value] of Object.entries(fields)) Buffer.from(value).copy(header, Number(at));
  header.write('        ', 148);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}
const size = (bytes: number) => ({ 124: bytes.toString(8).padStart(11, '0') });
const pad = (content: string) =>
  Buffer.concat([Buffer.from(content), Buffer.alloc(-Buffer.byteLength(content) & 511)]);

describe('formats', () => {
  const short = { 'a.jpg': 'a', 'ü/b c.jpg': 'b'.repeat(513), 'ü/empty.jpg': '' };
  const split = { ...short, [`${'folder/'.repeat(20)}${'n'.repeat(90)}.jpg`]: 'prefix' };
  const long = { ...split, [`${'d/'.repeat(400)}${'n'.repeat(200)}.jpg`]: 'long' };

  test.each([
    ['v7', short],
    ['ustar', split],
    ['gnu', long],
    ['oldgnu', long],
    ['pax', long],
  ])('%s: every name and every byte', async (format, files) => {
    expect(await contentsOf(openBytes(packTree(format, files)))).toEqual(files);
  });

  test('names that are not UTF-8 are escaped', async () => {
    const name = Buffer.from('caf\xE9.jpg', 'latin1');
    const tar = Buffer.concat([makeHeader('', { 0: name, ...size(1) }), pad('x')]);
    expect(await contentsOf(openBytes(tar))).toEqual({ 'caf\uFFFDE9.jpg': 'x' });
  });

  test('links, folders, devices and volume labels are no items', async () => {
    const root = tempFolder();
    writeFileSync(join(root, 'a.jpg'), 'a');
    symlinkSync('a.jpg', join(root, 'b.jpg'));
    execFileSync('ln', [join(root, 'a.jpg'), join(root, 'c.jpg')]);
    execFileSync('mkfifo', [join(root, 'd.jpg')]);
    const args = ['-C', root, '--sort=name', '--label=photos', '-cf', '-', '.'];
    const source = openBytes(execFileSync('tar', args, { stdio: ['ignore', 'pipe', 'ignore'] }));
    const [page] = await Array.fromAsync(source.list());
    expect(page?.items.map(({ id }) => id)).toEqual(['a.jpg']);
    expect(page?.skipped).toBe(5);
  });

  test('the size of a link or folder is not that of anything in the tar', async () => {
    const tar = Buffer.concat([
      makeHeader('link', { ...size(1000), 156: '1' }),
      makeHeader('folder', { ...size(1000), 156: '5' }),
      makeHeader('v7 folder/'),
      makeHeader('a.jpg', size(1)),
      pad('a'),
    ]);
    expect(await contentsOf(openBytes(tar))).toEqual({ 'a.jpg': 'a' });
  });

  test.each(['gnu', 'pax'])('a file with holes (%s --sparse) is an item that says so', async (format) => {
    const root = tempFolder();
    execFileSync('truncate', ['-s', '1M', join(root, 'holes.jpg')]);
    for (let at = 0; at < 30; at++)
      execFileSync(
        'dd',
        [
          'if=/dev/zero',
          `of=${join(root, 'many.jpg')}`,
          'bs=4k',
          'count=1',
          `seek=${at * 9}`,
          'conv=notrunc',
        ],
        { stdio: 'ignore' },
      );
    writeFileSync(join(root, 'a.jpg'), 'a');
    const args = [`--format=${format}`, '--sparse', '--sort=name', '-C', root, '-cf', '-', '.'];
    const source = openBytes(execFileSync('tar', args, { stdio: ['ignore', 'pipe', 'ignore'] }));
    const [a, holes, many] = (await itemsOf(source)) as [Item, Item, Item];
    expect([a.id, holes.id, many.id]).toEqual(['a.jpg', 'holes.jpg', 'many.jpg']);
    expect([a.size, holes.size, many.size]).toEqual([1, 2 ** 20, 29 * 9 * 4096 + 4096]);
    expect(textOf(await source.read(a, { maxBytes }))).toBe('a');
    for (const item of [holes, many])
      await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'unsupported-format' });
  });

  test('a pax header may have any value in it, and a global one holds until it is taken back', async () => {
    const record = (text: string) => {
      const bytes = Buffer.byteLength(text) + 2;
      const length = bytes + String(bytes + String(bytes).length).length;
      return `${length} ${text}\n`;
    };
    const extra = (type: string, ...records: string[]) => {
      const content = records.map(record).join('');
      return [makeHeader('extra', { ...size(Buffer.byteLength(content)), 156: type }), pad(content)];
    };
    const tar = Buffer.concat([
      ...extra('g', 'comment=a\nb=c', 'size=2'),
      ...extra('x', 'path=new\nline=1.jpg', 'SCHILY.xattr.user.x=\0\n9 '),
      makeHeader('short', size(700)),
      pad('ab'),
      ...extra('x', 'size='),
      makeHeader('b.jpg', size(0)),
      makeHeader('c.jpg', size(700)),
      pad('cd'),
    ]);
    expect(await contentsOf(openBytes(tar))).toEqual({ 'new\nline=1.jpg': 'ab', 'b.jpg': '', 'c.jpg': 'cd' });
  });

  test('a size beyond 8 GB is read as one', async () => {
    const bytes = Buffer.alloc(12);
    bytes.writeUInt8(0x80, 0);
    bytes.writeBigUInt64BE(2n ** 40n, 4);
    const source = openBytes(makeHeader('a.jpg', { 124: bytes }));
    await expect(itemsOf(source)).rejects.toThrow(`it ends 0 bytes into a member of ${2 ** 40}`);
  });

  test('tars one behind the other are one, with zeros between them or without an end', async () => {
    const first = makeArchive('.tar', [['a.jpg', 'a']]);
    const second = makeArchive('.tar', [['b.jpg', 'b']]);
    const both = { 'a.jpg': 'a', 'b.jpg': 'b' };
    expect(await contentsOf(openBytes(Buffer.concat([first, second])))).toEqual(both);
    expect(
      await contentsOf(openBytes(Buffer.concat([first.subarray(0, 1024), second.subarray(0, 1025)]))),
    ).toEqual(both);
  });

  test('samples have the key that WebDataset gives them', async () => {
    const names = ['a/b.cls.jpg', 'a.b/c.d.jpg', 'plain', '.hidden.jpg', 'x/.hidden.jpg'];
    const items = await itemsOf(
      openBytes(
        makeArchive(
          '.tar',
          names.map((name) => [name, '']),
        ),
      ),
    );
    const keys = Object.fromEntries(items.map(({ id, extra }) => [id, extra?.__key__]));
    expect(keys).toEqual({
      'a/b.cls.jpg': 'a/b',
      'a.b/c.d.jpg': 'a.b/c',
      plain: undefined,
      '.hidden.jpg': undefined,
      'x/.hidden.jpg': undefined,
    });
  });
});

describe('damage', () => {
  const good = Buffer.concat([
    makeHeader('a.jpg', size(600)),
    pad('a'.repeat(600)),
    makeHeader('b.jpg', size(1)),
    pad('b'),
  ]);
  test.each([
    [
      'a flipped bit in a header',
      (tar: Buffer) => tar.writeUInt8(0x41, 1536),
      'byte 1536: a header whose checksum is',
    ],
    [
      'a body where a header was',
      (tar: Buffer) => tar.fill('x', 1536, 2048),
      'byte 1536: a header whose checksum is no octal number',
    ],
    [
      'zeros where a header was',
      (tar: Buffer) => tar.fill(0, 1536, 2048),
      'byte 2048: a header whose checksum is 354, where it says 0',
    ],
    [
      'a negative size',
      (tar: Buffer) => makeHeader('a.jpg', { 124: Buffer.alloc(12, 0xff) }).copy(tar),
      'byte 0: a header whose size',
    ],
    [
      'a long name without its member',
      (tar: Buffer) => makeHeader('', { ...size(1), 156: 'L' }).copy(tar, 1536),
      'it ends before the member',
    ],
    [
      'an endless extended header',
      (tar: Buffer) => makeHeader('', { ...size(2 ** 32 - 1), 156: 'x' }).copy(tar),
      'byte 0: an extended header of 4294967295 bytes',
    ],
    [
      'a pax header that is none',
      (tar: Buffer) => makeHeader('', { ...size(600), 156: 'x' }).copy(tar),
      'byte 0: a pax header with a broken record at its byte 0',
    ],
  ])('%s is told with its place', async (_, spoil, message) => {
    const tar = Buffer.from(good);
    spoil(tar);
    const source = openBytes(tar);
    await expect(itemsOf(source)).rejects.toMatchObject({ name: 'ConfigError', code: 'bad-archive' });
    await expect(itemsOf(source)).rejects.toThrow(message);
  });
});

describe('requests', () => {
  /** What an S3 server is asked while the act goes on. */
  async function countGets(
    key: string,
    tar: Buffer,
    act: (source: Source) => Promise<unknown>,
  ): Promise<number> {
    const bucket = await makeBucket();
    await putForeignObject(bucket, key, tar);
    const proxy = await startProxy(testEndpoint(), () => undefined);
    try {
      await act(open(`s3://${bucket}/${key}`, openS3Objects(testS3Options({ endpoint: proxy.endpoint }))));
      return proxy.requests.filter((line) => line.startsWith('GET')).length;
    } finally {
      await proxy.close();
    }
  }

  test('a listing asks a store once for thousands of small members, and skips large ones', async () => {
    const small = Buffer.concat(Array.from({ length: 4_000 }, (_, at) => makeHeader(`${at}.jpg`)));
    expect(await countGets('small.tar', small, itemsOf)).toBe(1);
    const body = Buffer.alloc(6 * 2 ** 20);
    const large = [0, 1, 2].flatMap((at) => [makeHeader(`${at}.jpg`, size(body.length)), body]);
    expect(await countGets('large.tar', Buffer.concat(large), itemsOf)).toBe(3);
  });

  /** As a lane does: eight at once, the next as soon as one is done. */
  async function readAll(source: Source, items: readonly Item[]): Promise<string[]> {
    const read = await pMap(items, (item) => source.read(item, { maxBytes }), { concurrency: 8 });
    return read.map(textOf);
  }

  test('small neighbours share requests, members here and there are read alone', async () => {
    const members = Array.from(
      { length: 640 },
      (_, at) => [`${at}`.padStart(4, '0'), `${at}`.repeat(4000)] as const,
    );
    const tar = makeArchive('.tar', members);
    const contents = members.map(([, content]) => content);
    const all = await countGets('x.tar', tar, async (source) => {
      expect(await readAll(source, await itemsOf(source))).toEqual(contents);
    });
    expect(all).toBeLessThan(30);
    const isSome = (_: unknown, at: number) => at % 64 === 0;
    const some = await countGets('x.tar', tar, async (source) => {
      expect(await readAll(source, (await itemsOf(source)).filter(isSome))).toEqual(contents.filter(isSome));
    });
    expect(some).toBe(2 + 10); // the listing of 8 MB took two
  });

  test('members of a compressed tar that are read in its order take one pass, eight at a time', async () => {
    const members = Array.from(
      { length: 500 },
      (_, at) => [String(at).padStart(4, '0'), `${at}`.repeat(2000)] as const,
    );
    const gets = await countGets('x.tar.gz', makeArchive('.tar.gz', members), async (source) => {
      const items = await itemsOf(source);
      expect(await readAll(source, items)).toEqual(members.map(([, content]) => content));
    });
    expect(gets).toBe(2);
  });
});

describe('compressed tars', () => {
  /** 48 MB: more than a pass keeps. */
  const noise = Array.from({ length: 6 }, (_, at) =>
    Buffer.alloc(8 * 2 ** 20, createHash('shake256', { outputLength: 65_536 }).update(`${at}`).digest()),
  );
  const big = zstdCompressSync(
    Buffer.concat(noise.flatMap((body, at) => [makeHeader(`${at}.jpg`, size(body.length)), body])),
  );

  test.each([
    ['gzip', 'x.tar.gz', (tar: Buffer) => gzipSync(tar)],
    ['zstd', 'x.tar.zst', (tar: Buffer) => zstdCompressSync(tar)],
  ])('%s of several pieces is read whole', async (_, name, compress) => {
    const tar = makeArchive(
      '.tar',
      Array.from({ length: 300 }, (_, at) => [`${at}.jpg`, `${at}`.repeat(999)]),
    );
    const skippable = Buffer.from([0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    const pieces = [
      tar.subarray(0, 700),
      tar.subarray(700, 701),
      tar.subarray(701, 300_000),
      tar.subarray(300_000),
    ];
    const packed = pieces.flatMap((piece) =>
      name.endsWith('zst') ? [skippable, compress(piece)] : [compress(piece)],
    );
    expect(await contentsOf(openBytes(Buffer.concat(packed), name))).toEqual(
      await contentsOf(openBytes(tar)),
    );
  });

  test('members are read in any order, by as many readers as come', async () => {
    const source = openBytes(big, 'x.tzst');
    const items = await itemsOf(source);
    const check = async (at: number) => {
      const bytes = await source.read(items[at] as Item, { maxBytes });
      expect(Buffer.compare(bytes, noise[at] as Buffer)).toBe(0);
    };
    await Promise.all([5, 0, 3, 3, 2].map(check));
    for (const at of [0, 5, 1, 4, 1]) await check(at);
  });

  test('a reader hears that its member, which lies far behind, comes nearer', async () => {
    const source = openBytes(big, 'x.tzst');
    const items = await itemsOf(source);
    let progress = 0;
    await source.read(items[5] as Item, { maxBytes, onProgress: () => progress++ });
    expect(progress).toBeGreaterThan(5);
  });

  test('a reader that leaves disturbs no other', async () => {
    const source = openBytes(big, 'x.tzst');
    const items = await itemsOf(source);
    const leaving = new AbortController();
    const left = source.read(items[5] as Item, { maxBytes, signal: leaving.signal });
    const staying = source.read(items[4] as Item, { maxBytes });
    leaving.abort(new Error('enough'));
    await expect(left).rejects.toThrow('enough');
    expect(Buffer.compare(await staying, noise[4] as Buffer)).toBe(0);
    expect((await source.read(items[5] as Item, { maxBytes })).length).toBe(8 * 2 ** 20);
  });

  test('a bomb is refused before it goes off', async () => {
    const zeros = zstdCompressSync(Buffer.alloc(2 ** 26));
    const tar = zstdCompressSync(makeHeader('a.jpg', size(2 ** 33 - 1)));
    const source = openBytes(Buffer.concat([tar, ...Array(20).fill(zeros)]), 'x.tar.zst');
    await expect(itemsOf(source)).rejects.toThrow(/as no pictures do/);
  });

  test('an archive that was damaged since it was listed fails its members alone', async () => {
    const path = join(tempFolder(), 'x.tar.gz');
    const whole = makeArchive(
      '.tar.gz',
      Array.from({ length: 20 }, (_, at) => [`${at}.jpg`, String(at).repeat(1e5)]),
    );
    writeFileSync(path, whole);
    const source = open(path);
    const [first, , , last] = (await itemsOf(source)) as [Item, Item, Item, Item];
    writeFileSync(path, whole.fill(0x55, 20, 40));
    const [now] = (await openFileObjects()
      .stat(path)
      .then(({ etag }) => [etag])) as [string];
    const asIfSame = (item: Item): Item => ({
      ...item,
      at: { ...(item.at as NonNullable<Item['at']>), archive: now },
    });
    for (const item of [first, last].map(asIfSame))
      await expect(source.read(item, { maxBytes })).rejects.toMatchObject({
        name: 'ReadError',
        code: 'corrupt',
      });
    rmSync(path);
    await expect(source.read(asIfSame(first), { maxBytes })).rejects.toMatchObject({ code: 'not-found' });
  });
});
