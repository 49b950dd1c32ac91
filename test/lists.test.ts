/** Lists of images: which rows become which items, in any format and however many there are, and what is refused. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { DuckDBInstance } from '@duckdb/node-api';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isList } from '../src/lists/manifest.ts';
import { type Entry, sortEntries } from '../src/lists/sorted.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openObjects } from '../src/objects/open-objects.ts';
import { ListSource } from '../src/sources/list.ts';
import { type ListColumns, ReadError } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { compareBytewise, fileUri, rawOfText } from '../src/uri.ts';
import { moduleUrl } from './helpers/child.ts';
import { makeBucket, putForeignObject, testS3Options } from './helpers/s3.ts';
import { tempFolder } from './helpers/temp.ts';

const web = { allowHosts: [], perHost: 4, perSecond: 0, timeoutMs: 5_000 };
const objects = openObjects({ s3: testS3Options(), web, allowFiles: true });
const maxBytes = 1_000_000;

interface Options extends Partial<ListColumns> {
  allowFiles?: boolean;
  include?: string[];
  exclude?: string[];
  objects?: Objects;
  runBytes?: number;
  folder?: string;
}

function open(uri: string, options: Options = {}): ListSource {
  const { allowFiles = true, include = ['**'], exclude = [], runBytes, folder } = options;
  const columns = { uri: options.uri ?? null, id: options.id ?? null, keep: options.keep ?? [] };
  const sort = { ...(runBytes && { runBytes }), ...(folder && { folder }) };
  return new ListSource(uri, columns, { include, exclude }, options.objects ?? objects, { allowFiles, sort });
}

/** A list of this name and content, in a folder of its own. */
function write(name: string, content: string | Uint8Array): string {
  const path = join(tempFolder(), name);
  writeFileSync(path, content);
  return fileUri(rawOfText(path));
}

async function listAll(source: ListSource, after?: string) {
  const pages = await Array.fromAsync(source.list(after === undefined ? {} : { after }));
  const items = pages.flatMap((page) => page.items);
  const skipped = pages.reduce((sum, page) => sum + page.skipped, 0);
  return { items, skipped, ids: items.map(({ id }) => id) };
}

async function writeParquet(query: string, options = ''): Promise<string> {
  const path = join(tempFolder(), 'list.parquet');
  const duckdb = await (await DuckDBInstance.create()).connect();
  await duckdb.run(`COPY (${query}) TO '${path}' (FORMAT parquet ${options})`);
  duckdb.closeSync();
  return fileUri(rawOfText(path));
}

const failure = (code: string, message: RegExp = /./) =>
  expect.objectContaining({ name: 'ConfigError', code, message: expect.stringMatching(message) });

describe.each<{ name: string; make: (csv: string, jsonl: string) => Promise<string> | string }>([
  { name: 'CSV', make: (csv) => write('list.csv', csv) },
  {
    name: 'CSV with CR LF and a byte order mark',
    make: (csv) => write('a.CSV', `\uFEFF${csv.replaceAll('\n', '\r\n')}`),
  },
  { name: 'CSV, gzipped', make: (csv) => write('list.csv.gz', gzipSync(csv)) },
  { name: 'TSV', make: (csv) => write('list.tsv', csv.replaceAll(',', '\t').replaceAll('\ttwo', ',two')) },
  { name: 'JSONL', make: (_, jsonl) => write('list.jsonl', jsonl) },
  {
    name: 'NDJSON with a byte order mark and no last newline',
    make: (_, jsonl) => write('list.ndjson', `\uFEFF${jsonl}`.trimEnd()),
  },
  { name: 'JSONL by zstd', make: (_, jsonl) => write('list.jsonl.zst', zstdCompressSync(jsonl)) },
  ...['snappy', 'gzip', 'zstd', 'brotli', 'uncompressed'].map((codec) => ({
    name: `Parquet by ${codec}`,
    make: (_: string, jsonl: string) => {
      const from = write('from.jsonl', jsonl).slice('file://'.length);
      return writeParquet(`FROM read_json('${from}')`, `, COMPRESSION ${codec}`);
    },
  })),
])('a list as $name', ({ make }) => {
  const rows = [
    ['https://example.org/b.jpg', 'b', 'line one\nline two'],
    ['s3://photos/ü/😀.jpg', '😀', 'one,two'],
    ['/photos/100%.jpg', 'a"', ''],
    ['https://EXAMPLE.org:443/ä b.jpg', '\uE000', ' padded '],
  ];
  const names = ['URL', 'key', 'caption'];
  const quoted = (value = '') => (/[",\n]|^$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const csv = [names, ...rows].map((row) => `${row.map(quoted).join(',')}\n`).join('');
  const jsonl = rows
    .map((row) => `${JSON.stringify(Object.fromEntries(names.map((name, at) => [name, row[at]])))}\n`)
    .join('');

  test('gives the same items, ordered bytewise by id, with the columns that are kept', async () => {
    const source = open(await make(csv, jsonl), { id: 'key', keep: ['caption'] });
    await source.probe();
    const { items, skipped } = await listAll(source);
    const unknown = { etag: '', size: 0 };
    expect(items).toEqual([
      { id: 'a"', uri: 'file:///photos/100%25.jpg', ...unknown, extra: { caption: '' } },
      { id: 'b', uri: 'https://example.org/b.jpg', ...unknown, extra: { caption: expect.stringMatching(/^line one\r?\nline two$/) } },
      { id: '\uE000', uri: 'https://example.org/%C3%A4%20b.jpg', ...unknown, extra: { caption: ' padded ' } },
      { id: '😀', uri: 's3://photos/ü/😀.jpg', ...unknown, extra: { caption: 'one,two' } },
    ]); // biome-ignore format: a table
    expect(skipped).toBe(0);
    for (const [at, { id }] of items.entries()) {
      expect((await listAll(source, id)).items).toEqual(items.slice(at + 1));
    }
  });

  test('has the URI as the id and nothing extra, where no columns are named', async () => {
    const { items } = await listAll(open(await make(csv, jsonl)));
    expect(items.map(({ id }) => id)).toEqual(rows.map(([uri]) => uri).sort());
    expect(items[0]).toEqual({ id: '/photos/100%.jpg', uri: 'file:///photos/100%25.jpg', etag: '', size: 0 });
  });
});

describe('a list', () => {
  test('is known by its name', () => {
    const lists = [
      '/a.csv',
      's3://b/a.TSV.GZ',
      'file:///a.jsonl',
      'https://h/a.parquet?sig=1',
      'https://h/a.ndjson.zst#x',
    ];
    expect(lists.filter((uri) => !isList(uri))).toEqual([]);
    const others = [
      '/a',
      '/a.csv/',
      '/csv',
      's3://b/a.csv?x',
      'https://h/?a.csv',
      '/a.parquet.gz',
      '/a.gz',
      '/a.constructor',
    ];
    expect(others.filter(isList)).toEqual([]);
  });

  test.each([
    ['list.csv.gz', gzipSync],
    ['list.csv.zst', zstdCompressSync],
  ])('that was compressed piece by piece is read to its end: %s', async (name, compress) => {
    const pieces = ['path\n/a.jpg\n/b', '.jpg\n/c.jpg\n', '/d.jpg\n'].map((piece) => compress(piece));
    const { ids } = await listAll(open(write(name, Buffer.concat(pieces))));
    expect(ids).toEqual(['/a.jpg', '/b.jpg', '/c.jpg', '/d.jpg']);
  });

  test('names images that are read from where they are, and looked up as they are now', async () => {
    const bucket = await makeBucket();
    await putForeignObject(bucket, 'deep/a b.jpg', Buffer.from('in the bucket'));
    const list = write('list.csv', `path\ns3://${bucket}/deep/a b.jpg\nbeside/ä%.jpg\n`);
    const folder = new URL('beside/', list);
    mkdirSync(folder);
    writeFileSync(new URL(encodeURIComponent('ä%.jpg'), folder), 'beside the list');
    const source = open(list);
    const { items } = await listAll(source);
    const [file, object] = items as [Item, Item];
    expect(file).toMatchObject({ id: 'beside/ä%.jpg', uri: `${folder.href}%C3%A4%25.jpg` });
    expect(Buffer.from(await source.read(file, { maxBytes })).toString()).toBe('beside the list');
    expect(Buffer.from(await source.read(object, { maxBytes })).toString()).toBe('in the bucket');

    const now = await source.refresh(object);
    expect(now).toMatchObject({ id: object.id, size: 13, etag: expect.stringMatching(/./) });
    await putForeignObject(bucket, 'deep/a b.jpg', Buffer.from('another'));
    await expect(source.read(now, { maxBytes })).rejects.toMatchObject({ code: 'changed' });
    const gone = { ...object, uri: `s3://${bucket}/gone` };
    expect(await source.refresh(gone)).toEqual(gone);
  });

  test('can lie on S3, where a relative path names nothing', async () => {
    const bucket = await makeBucket();
    await putForeignObject(bucket, 'list.csv', Buffer.from('uri\na.jpg\n/etc/hostname\n'));
    const source = open(`s3://${bucket}/list.csv`);
    await source.probe();
    const { items } = await listAll(source);
    expect(items.map(({ uri }) => uri)).toEqual(['file:///etc/hostname', 'a.jpg']);
    await expect(source.read(items[1] as Item, { maxBytes })).rejects.toMatchObject({ code: 'bad-uri' });
    await expect(open(`s3://${bucket}/other.csv`).probe()).rejects.toEqual(
      failure('no-source', /other\.csv/),
    );
  });

  test('has rows that name nothing, which fail alone', async () => {
    const uris = [
      'ftp://h/a.jpg',
      'http://[/',
      'file://elsewhere/a.jpg',
      'file:///a?b',
      's3:///key',
      '/a.tar!b.jpg',
      '/nul\0',
    ];
    const source = open(write('list.jsonl', uris.map((url) => JSON.stringify({ url })).join('\n')), {
      allowFiles: true,
    });
    const { items } = await listAll(source);
    expect(items).toHaveLength(uris.length);
    for (const item of items) {
      await expect(source.read(item, { maxBytes }), item.uri).rejects.toMatchObject({
        name: 'ReadError',
        code: 'bad-uri',
      });
      expect(await source.refresh(item)).toEqual(item);
    }
  });

  test('may have dots and slashes in its ids, and globs choose among them', async () => {
    const paths = ['../a.jpg', './b.jpg', 'x//c.jpg', 'd/../e.JPG', 'f.txt'];
    const list = write('list.csv', `path\n${paths.join('\n')}\n`);
    expect((await listAll(open(list))).ids).toEqual(paths.toSorted());
    const some = await listAll(open(list, { exclude: ['*.txt'] }));
    expect([some.ids.length, some.skipped]).toEqual([4, 1]);
    const last = await listAll(open(list, { exclude: ['*.txt'] }), 'g');
    expect([last.ids, last.skipped]).toEqual([['x//c.jpg'], 0]);
  });

  test('lists an image once that it names twice, and counts the others', async () => {
    const list = write('list.csv', 'url,n\nhttps://h/a,1\nhttps://h/b,2\nhttps://h/a,3\n');
    const { items, skipped } = await listAll(open(list, { keep: ['n'] }));
    expect(items.map(({ extra }) => extra)).toEqual([{ n: '1' }, { n: '2' }]);
    expect(skipped).toBe(1);
  });

  test('is refused where an id column has one id twice', async () => {
    const list = write('list.csv', 'url,id\nhttps://h/a,1\nhttps://h/b,2\n\nhttps://h/c,1\n');
    await expect(listAll(open(list, { id: 'id' }))).rejects.toEqual(
      failure('duplicate-id', /line 5 .*'1', which 2 has/),
    );
  });

  test('names files only where that is allowed', async () => {
    const list = write('list.csv', 'url\nhttps://h/a.jpg\n\nsecret.jpg\n');
    const source = open(list, { allowFiles: false });
    await source.probe();
    await expect(listAll(source)).rejects.toEqual(
      failure('files-not-allowed', /line 4 .*secret\.jpg.*--allow-files/),
    );
    const planted = { id: 'x', uri: 'file:///etc/hostname', etag: '', size: 0 };
    await expect(source.read(planted, { maxBytes })).rejects.toMatchObject({ code: 'not-allowed' });
    expect(await source.refresh(planted)).toEqual(planted);
    const web = await listAll(open(list, { allowFiles: false, exclude: ['secret*'] }));
    expect([web.ids, web.skipped]).toEqual([['https://h/a.jpg'], 1]);
  });

  test('with a password in a URL is refused, and the password is not repeated', async () => {
    const urls = [
      'https://user:hunter2@h/a.jpg',
      'http:user:hunter2@h/a',
      'ftp://hunter2@h',
      'https://user:hunter2@no host/',
    ];
    for (const url of urls) {
      const source = open(write('list.csv', `url\nhttps://h/a\n"${url}"\n`));
      const error: Error = await listAll(source).catch((error) => error);
      expect(error).toEqual(failure('credentials-in-list', /line 3 /));
      expect(error.message).not.toContain('hunter2');
    }
  });

  test('is read on where its connection broke, and refused where it changed', async () => {
    const list = write(
      'list.csv',
      `url\n${Array.from({ length: 50_000 }, (_, at) => `https://h/${at}.jpg\n`).join('')}`,
    );
    let breaks = 0;
    const breaking: Objects = {
      ...objects,
      async *stream(uri, options) {
        for await (const piece of objects.stream(uri, options)) {
          yield piece.subarray(0, 70_001);
          if (piece.length > 70_001 && breaks++ < 8)
            throw new ReadError('read-failed', 'reset', { transient: true });
          yield piece.subarray(70_001);
        }
      },
    };
    expect((await listAll(open(list, { objects: breaking }))).ids).toHaveLength(50_000);
    expect(breaks).toBeGreaterThan(3);
    const changing: Objects = {
      ...objects,
      async stat(uri, options) {
        const facts = await objects.stat(uri, options);
        truncateSync(new URL(uri), 1000);
        return facts;
      },
    };
    await expect(listAll(open(list, { objects: changing }))).rejects.toEqual(failure('source-changed'));
  });

  test('can be aborted, with the reason', async () => {
    const list = write('list.csv', `url\n${'https://h/a.jpg\n'.repeat(10)}`);
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(Array.fromAsync(open(list).list({ signal }))).rejects.toThrow('enough');
  });
});

describe('columns', () => {
  test('are found by the usual names in any case, or by the name that is given', async () => {
    for (const [header, options] of [
      ['file,uri', {}],
      ['id,Path', {}],
      ['path,URL', {}],
      ['url,x', { uri: 'x' }],
    ] as const) {
      const { ids } = await listAll(open(write('list.csv', `${header}\nhttps://h/1,https://h/2\n`), options));
      expect(ids, header).toEqual(['https://h/2']);
    }
  });

  test.each<[Options, RegExp]>([
    [{}, /no column uri, url, path, file, it has link, id: .*--uri-column/],
    [{ uri: 'Link' }, /no column Link, it has link, id: .*--uri-column/],
    [{ uri: 'link', id: 'key' }, /no column key.*--id-column/],
    [{ uri: 'link', keep: ['id', 'caption'] }, /no column caption.*--columns/],
  ])('that are missing are named, with those that are there: %o', async (options, message) => {
    const list = write('list.csv', 'link,id\nhttps://h/a,1\n');
    for (const uri of [list, await writeParquet("SELECT 'https://h/a' AS link, 1 AS id")]) {
      await expect(open(uri, options).probe()).rejects.toEqual(failure('no-column', message));
    }
    const jsonl = open(write('list.jsonl', '{"link":"https://h/a","id":1}\n'), options);
    const code = 'no-column';
    if (options.keep)
      await expect(listAll(jsonl)).rejects.toEqual(failure(code, /no row .*'caption'.*--columns/));
    else await expect(jsonl.probe()).rejects.toEqual(failure(code, message));
  });

  test('that are missing are named without secrets, where the list has no header', async () => {
    const list = write('list.csv', `https://me:hunter2@h/a?sig=hunter2,1\n`);
    const error: Error = await open(list)
      .probe()
      .catch((error) => error);
    expect(error).toEqual(failure('no-column', /it has https:\/\/h\/a/));
    expect(error.message).not.toContain('hunter2');
  });

  test('of JSONL are kept as JSON, and rows may lack them', async () => {
    const lines = [
      '{"url":"https://h/a","x":12345678901234567890,"y":{"z":[1,null,"ü"]},"__proto__":1}',
      '{"url":"https://h/b","x":9007199254740991}',
      '{"url":"https://h/c","y":"\\ud800"}',
    ];
    const { items } = await listAll(
      open(write('list.jsonl', lines.join('\n')), { keep: ['x', 'y', '__proto__'] }),
    );
    expect(items.map(({ extra }) => JSON.stringify(extra))).toEqual([
      '{"x":"12345678901234567890","y":{"z":[1,null,"ü"]},"__proto__":1}',
      '{"x":9007199254740991}',
      '{"y":"\\ud800"}',
    ]);
  });

  test('of Parquet keep numbers, times, lists and structs as JSON', async () => {
    const list =
      await writeParquet(`SELECT 7 AS id, 'https://h/a' AS url, 9007199254740993 AS big, 'NaN'::DOUBLE AS nan,
      TIMESTAMP '1969-07-20 20:17:40.123456' AS us, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS tz, DATE '1970-01-01' AS day,
      true AS yes, 1.5::FLOAT AS half, 12.25::DECIMAL(9, 2) AS price, NULL::VARCHAR AS nothing, [1, 2] AS list,
      {'a': 'x', 'b': [{'c': 9007199254740993}]} AS struct`);
    const keep = ['big', 'nan', 'us', 'tz', 'day', 'yes', 'half', 'price', 'nothing', 'list', 'struct'];
    const { items } = await listAll(open(list, { id: 'id', keep }));
    expect(items).toMatchObject([{ id: '7', uri: 'https://h/a' }]);
    expect(items[0]?.extra).toEqual({
      big: '9007199254740993',
      nan: null,
      us: '1969-07-20T20:17:40.123456Z',
      tz: '2026-01-01T00:00:00.000000Z',
      day: '1970-01-01',
      yes: true,
      half: 1.5,
      price: 12.25,
      nothing: null,
      list: [1, 2],
      struct: { a: 'x', b: [{ c: '9007199254740993' }] },
    });
  });

  test('of Parquet are read row group by row group, and no others', async () => {
    const rows = 5_000;
    const wide = 'repeat(md5(i::VARCHAR), 40) AS wide';
    const list = await writeParquet(
      `SELECT 'https://h/' || (i * 7919 % ${rows})::VARCHAR AS url, i AS n, ${wide} FROM range(${rows}) t(i)`,
      ', ROW_GROUP_SIZE 2048',
    );
    const reads: number[] = [];
    const counting: Objects = {
      ...objects,
      readRange: (uri, options) => {
        reads.push(options.count);
        return objects.readRange(uri, options);
      },
    };
    const { items } = await listAll(open(list, { keep: ['n'], objects: counting }));
    expect(items.map(({ extra }) => (Number(extra?.n) * 7919) % rows)).toEqual(
      items.map(({ uri }) => Number(uri.slice(10))),
    );
    expect(items).toHaveLength(rows);
    expect(reads.length).toBeGreaterThan(3);
    expect(reads.reduce((sum, count) => sum + count)).toBeLessThan(readFileSync(new URL(list)).length / 4);
  });
});

describe('a bad list is refused with its line:', () => {
  const long = 'x'.repeat(1_000_100);
  test.each<[name: string, content: string | Uint8Array, message: RegExp, Options?]>([
    ['too-many.csv', 'url,b\nu,1\n\nu,1,2\n', /line 4 has 3 values, the header 2/],
    ['too-few.csv', 'url,b\r\n"u\r\n\r\nu",1\r\nu\r\n', /line 5 has 1 values, the header 2/],
    ['open-quote.csv', 'url,b\nu,1\nu,"2\nu,3\nu,4', /line 3 opens a quote/],
    [
      'long-quote.csv',
      `url,b\nu,"${`${'y'.repeat(99)}\n`.repeat(11_000)}`,
      /line 2 begins a row of more than 1000000/,
    ],
    ['quote-within.csv', 'url\na "b"\n', /line 2 has a quote within/],
    ['after-quote.csv', 'url\n"a"b\n', /line 2 goes on after a closing quote/],
    ['blank.csv', 'url,b\nu,1\n"  ",2\n', /line 3 column 'url' is empty/],
    ['no-id.csv', 'url,id\nu,1\nv,\n', /line 3 column 'id' is empty/, { id: 'id' }],
    ['twice.csv', 'url,url\nu,v\n', /2 columns 'url'/],
    ['empty.csv', '', /is empty/],
    ['latin1.csv', Buffer.from('url\na\nü\nb', 'latin1'), /line 3 is not UTF-8/],
    ['utf16.csv', Buffer.from('\uFEFFurl\na\n', 'utf16le'), /line 1 is not UTF-8/],
    ['cut-character.csv', Buffer.from('url\na😀').subarray(0, -1), /line 2 is not UTF-8/],
    ['no.json.gz', gzipSync(''), /no list by its name/],
    ['cut.csv.gz', gzipSync('url\na\n').subarray(0, -3), /is not whole as \.gz/],
    ['plain.csv.gz', 'url\na\n', /is not whole as \.gz/],
    ['plain.csv.zst', 'url\na\n', /is not whole as \.zst/],
    ['json.jsonl', '{"url":"a"}\n\n{"url":"b"\n', /line 3 is not a JSON object/],
    ['array.jsonl', '{"url":"a"}\n["b"]', /line 2 is not a JSON object/],
    ['no-url.jsonl', '{"url":"a"}\n{"URL":"b"}', /line 2 column 'url' is empty/],
    ['number.jsonl', '{"url":"a","id":1.5}', /line 1 column 'id' holds no text/, { id: 'id' }],
    ['surrogate.jsonl', '{"url":"\\ud800"}', /line 1 column 'url' holds half a character/],
    [
      'deep.jsonl',
      `{"url":"a","x":${'['.repeat(9999)}${']'.repeat(9999)}}`,
      /line 1 column 'x' is nested/,
      { keep: ['x'] },
    ],
    ['bomb.jsonl', `{"url":"a"}\n{"url":"b","x":${'['.repeat(999_000)}`, /line 2 is not a JSON object/],
    ['long.jsonl', `{"url":"a"}\n{"url":"${long}"}`, /line 2 is longer than 1000000/],
    ['text.parquet', 'url\na\nb\nc\nd\ne', /cannot be read as Parquet/],
    ['short.parquet', 'PAR1', /cannot be read as Parquet/],
    ['empty.parquet', '', /is empty/],
  ])('%s', async (name, content, message, options = {}) => {
    await expect(listAll(open(write(name, content), options))).rejects.toEqual(failure('bad-list', message));
  });

  test('Parquet rows too, and bytes', async () => {
    const list = await writeParquet("SELECT unnest(['https://h/a', NULL]) AS url, 'x'::BLOB AS bytes");
    await expect(listAll(open(list))).rejects.toEqual(failure('bad-list', /row 2 column 'url' is empty/));
    await expect(listAll(open(list, { keep: ['bytes'] }))).rejects.toEqual(
      failure('bad-list', /'bytes' holds bytes/),
    );
    await expect(listAll(open(list, { uri: 'bytes' }))).rejects.toEqual(
      failure('bad-list', /'bytes' holds no text/),
    );
    truncateSync(new URL(list), 100);
    await expect(listAll(open(list))).rejects.toEqual(failure('bad-list', /cannot be read as Parquet/));
  });
});

describe('sorting', () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 8 });
  const entriesOf = async function* (ids: readonly string[]): AsyncGenerator<Entry> {
    for (const [at, id] of ids.entries()) yield { key: rawOfText(id), value: `${at} ${id}` };
  };

  test('on disk is sorting in memory, and keeps the order of equal keys', async () => {
    const folder = tempFolder();
    await fc.assert(
      fc.asyncProperty(
        fc.array(text, { maxLength: 60 }),
        fc.integer({ min: 1, max: 3000 }),
        async (ids, runBytes) => {
          const sorted = (await Array.fromAsync(sortEntries(entriesOf(ids), { runBytes, folder }))).flat();
          const inMemory = ids
            .map((id, at) => ({ id, at }))
            .sort((a, b) => compareBytewise(a.id, b.id) || a.at - b.at);
          expect(sorted.map(({ value }) => value)).toEqual(inMemory.map(({ id, at }) => `${at} ${id}`));
        },
      ),
      { numRuns: 100 },
    );
    expect(readdirSync(folder)).toEqual([]);
  });

  test('a list goes on after any id, there or not, with what is left', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(
          text.filter((id) => id.trim() === id && id !== ''),
          { maxLength: 20 },
        ),
        text,
        async (ids, after) => {
          const list = write(
            'list.jsonl',
            ids.map((id) => JSON.stringify({ url: 'https://h/', id })).join('\n'),
          );
          const rest = ids.filter((id) => compareBytewise(id, after) > 0).sort(compareBytewise);
          expect((await listAll(open(list, { id: 'id', runBytes: 500 }), after)).ids).toEqual(rest);
        },
      ),
      { numRuns: 50 },
    );
  });

  test('entries larger than what is read at once survive', async () => {
    const ids = ['c', 'a', 'b'].map((id) => id.repeat(300_000));
    const sorted = (await Array.fromAsync(sortEntries(entriesOf(ids), { runBytes: 1 }))).flat();
    expect(sorted.map(({ key }) => key)).toEqual(ids.toSorted());
    expect(sorted.map(({ value }) => value)).toEqual([`1 ${ids[1]}`, `2 ${ids[2]}`, `0 ${ids[0]}`]);
  });

  test('leaves no file behind, whether it ends, fails or is left', async () => {
    const folder = tempFolder();
    const failing = async function* () {
      yield* entriesOf(['b', 'a']);
      throw new Error('no more');
    };
    await expect(Array.fromAsync(sortEntries(failing(), { runBytes: 1, folder }))).rejects.toThrow('no more');
    for await (const _ of sortEntries(entriesOf(['b', 'a']), { runBytes: 1, folder })) {
      expect(readdirSync(folder)).toEqual([]); // nor where it is killed now
      break;
    }
    expect(readdirSync(folder)).toEqual([]);
    const nowhere = sortEntries(entriesOf(['a']), { runBytes: 1, folder: join(folder, 'gone') });
    await expect(Array.fromAsync(nowhere)).rejects.toEqual(failure('not-writable', /TMPDIR/));
  });

  test('a long list takes no more memory than its runs', () => {
    const rows = 200_000;
    const list = write(
      'list.csv',
      `url,caption\n${Array.from({ length: rows }, (_, at) => `https://example.org/${(at * 7919) % rows}.jpg,${'c'.repeat(200)}\n`).join('')}`,
    );
    const script = `
      const { ListSource } = await import(${JSON.stringify(moduleUrl('src/sources/list.ts'))});
      const { openFileObjects } = await import(${JSON.stringify(moduleUrl('src/objects/file.ts'))});
      const rss = () => process.resourceUsage().maxRSS / 1024;
      const before = rss();
      const source = new ListSource('${list}', { uri: null, id: null, keep: ['caption'] }, { include: ['**'], exclude: [] },
        openFileObjects(), { allowFiles: false, sort: { runBytes: 4e6 } });
      let count = 0;
      for await (const { items } of source.list()) count += items.length;
      console.log(JSON.stringify({ count, mb: Math.round(rss() - before) }));`;
    const flags = [
      '--max-semi-space-size=2',
      '--max-old-space-size=40',
      '--input-type=module',
      '--eval',
      script,
    ];
    const { count, mb } = JSON.parse(execFileSync(process.execPath, flags).toString());
    expect(count).toBe(rows);
    // The list is 48 MB, some 120 MB as strings; V8's 40 MB heap holds a run, the rest is buffers in passing.
    expect(mb).toBeLessThan(90);
    console.log(`200,000 rows sorted in runs of 4 MB: ${mb} MB above the start`);
  });
});
