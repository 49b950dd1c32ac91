/** What every source promises (src/sources/source.ts), held by each of them, and what each one does in its own way. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import pMap from 'p-map';
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { compileGlobs, DEFAULT_INCLUDE } from '../src/sources/globs.ts';
import { openSource, sourceUri } from '../src/sources/open-source.ts';
import type { Globs, ItemPage, Source } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { escapeName, unescapeName } from '../src/uri.ts';
import { moduleUrl, runAsNobody } from './helpers/child.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { makeBucket, putForeignObject, testEndpoint, testS3Options } from './helpers/s3.ts';
import { makeSpec, sourceDefaults } from './helpers/source-options.ts';
import { type Spoil, type SpoilingProxy, startProxy } from './helpers/spoiling-proxy.ts';
import { tempFolder } from './helpers/temp.ts';

const everything: Globs = { include: ['**'], exclude: [] };
const pictures: Globs = { include: DEFAULT_INCLUDE, exclude: [] };
const bytes = (text: string) => Buffer.from(text);
const maxBytes = 1_000_000;

const keep = closeAfterEach<Source>();
function open(uri: string, globs = everything, s3 = testS3Options()): Source {
  return keep(openSource(makeSpec([uri], globs), { ...sourceDefaults, s3 }));
}
async function listAll(
  source: Source,
  after?: string,
): Promise<{ items: Item[]; ids: string[]; skipped: number }> {
  const pages: ItemPage[] = await Array.fromAsync(source.list(after === undefined ? {} : { after }));
  const items = pages.flatMap((page) => page.items);
  const skipped = pages.reduce((sum, page) => sum + page.skipped, 0);
  return { items, ids: items.map(({ id }) => id), skipped };
}

/** The order of S3: as UTF-8, which is not the order of JavaScript's strings beyond U+FFFF. */
function sortBytewise(ids: readonly string[]): string[] {
  return ids.toSorted((a, b) => Buffer.compare(bytes(a), bytes(b)));
}

interface Ground {
  uri: string;
  put(id: string, body: Uint8Array): Promise<unknown>;
}

async function newFolder(): Promise<Ground> {
  const uri = tempFolder();
  return {
    uri,
    put: async (id, body) => {
      mkdirSync(dirname(join(uri, id)), { recursive: true });
      writeFileSync(join(uri, id), body);
    },
  };
}

async function newPrefix(): Promise<Ground> {
  const bucket = await makeBucket();
  return {
    uri: `s3://${bucket}/in/here`,
    put: (id, body) => putForeignObject(bucket, `in/here/${id}`, body),
  };
}

describe.each([
  { name: 'folder', newGround: newFolder },
  { name: 's3', newGround: newPrefix },
])('$name source', ({ newGround }) => {
  let ground: Ground;
  beforeEach(async () => {
    ground = await newGround();
  });

  test('items come in the order of their bytes, and a broken listing goes on after any of them', async () => {
    const ids = ['a-b', 'a.jpg', 'a/1', 'a/b/2', 'a/b-3', 'a0', 'A', 'ä', 'b\u{E000}', 'b😀', 'z/z'];
    const sorted = sortBytewise(ids);
    for (const id of sorted) await ground.put(id, bytes(id));
    const source = open(ground.uri);
    await source.probe();
    expect((await listAll(source)).ids).toEqual(sorted);
    for (const [at, id] of sorted.entries()) {
      expect((await listAll(source, id)).ids).toEqual(sorted.slice(at + 1));
    }
    expect((await listAll(source, 'a/b-zzz')).ids).toEqual(sorted.slice(sorted.indexOf('a/b/2')));
  });

  test('names with every odd character are listed and read', async () => {
    const ids = [
      'plus+and space.jpg', '100%25.jpg', 'q?x=1#y&amp;z.jpg', `quotes'".jpg`, 'back\\slash.jpg', 'new\nline.jpg',
      'tab\tand\u0001.jpg', 'umläut é/e\u0301.jpg', '日本.jpg', '😀.jpg', '\uFFFD.jpg', '[a]{b}(c)!*.jpg', '.hidden/.x.jpg',
    ]; // biome-ignore format: a table
    for (const id of ids) await ground.put(id, bytes(id));
    const source = open(ground.uri);
    const { items } = await listAll(source);
    expect(items.map(({ size }) => size)).toEqual(
      items.map(({ id }) => (id.includes('\uFFFD') ? 7 : bytes(id).length)),
    );
    const read = await Promise.all(items.map((item) => source.read(item, { maxBytes })));
    expect(sortBytewise(read.map((body) => Buffer.from(body).toString()))).toEqual(sortBytewise(ids));
    expect(new Set(items.map(({ uri }) => uri)).size).toBe(ids.length);
  });

  test('globs choose items by their whole id, whatever their case; the rest is counted', async () => {
    for (const id of ['a.JPG', 'b.jpeg', 'c.txt', '.d.png', 'sub/e.webp', 'sub/f.tmp.jpg', 'raw/g.jpg']) {
      await ground.put(id, bytes(id));
    }
    const chosen = await listAll(
      open(ground.uri, { include: DEFAULT_INCLUDE, exclude: ['**/*.TMP.*', 'raw/*'] }),
    );
    expect(chosen.ids).toEqual(['.d.png', 'a.JPG', 'b.jpeg', 'sub/e.webp']);
    expect(chosen.skipped).toBe(3);
  });

  test('an item can be looked up as it is now, and stays as it was where it is gone', async () => {
    for (const id of ['a/ü+1.jpg', 'b.jpg']) await ground.put(id, bytes('first'));
    const source = open(ground.uri);
    const [item, gone] = (await listAll(source)).items as [Item, Item];
    expect(await source.refresh?.(item)).toEqual(item);
    await ground.put('a/ü+1.jpg', bytes('second version'));
    const now = await source.refresh?.(item);
    expect(now).toEqual((await listAll(source)).items[0]);
    expect(now).toMatchObject({ id: item.id, uri: item.uri, size: 14 });
    expect(now?.etag).not.toBe(item.etag);
    const never = { ...gone, id: 'never.jpg' };
    expect(await source.refresh?.(never)).toEqual(never);
  });

  test('an empty root has no items and no error', async () => {
    await ground.put('not-a-picture', bytes('x'));
    const source = open(ground.uri, pictures);
    await source.probe();
    expect(await listAll(source)).toEqual({ items: [], ids: [], skipped: 1 });
  });

  test('more than one page loses and repeats nothing', async () => {
    const ids = Array.from({ length: 1_203 }, (_, at) => `${at % 3}/${String(at).padStart(5, '0')}.jpg`);
    await pMap(ids, (id) => ground.put(id, bytes('x')), { concurrency: 24 });
    const source = open(ground.uri);
    const pages = await Array.fromAsync(source.list());
    expect(pages.length).toBeGreaterThan(1);
    expect(Math.max(...pages.map(({ items }) => items.length))).toBeLessThanOrEqual(1000);
    const listed = pages.flatMap(({ items }) => items.map(({ id }) => id));
    expect(listed).toEqual(ids.toSorted());
    expect((await listAll(source, listed[1000])).ids).toEqual(listed.slice(1001));
  });

  test('an item that changed, vanished or is too large fails with its reason', async () => {
    for (const id of ['changed', 'large', 'same']) await ground.put(id, bytes(`${id} 1`));
    const source = open(ground.uri);
    const [changed, large, same] = (await listAll(source)).items as [Item, Item, Item];
    await ground.put('changed', bytes('changed now'));
    const read = (item: Item, limit = maxBytes) => source.read(item, { maxBytes: limit });
    await expect(read(changed)).rejects.toMatchObject({
      name: 'ReadError',
      code: 'changed',
      transient: false,
    });
    await expect(read({ ...same, id: 'gone' })).rejects.toMatchObject({
      code: 'not-found',
      transient: false,
    });
    await expect(read(large, 6)).rejects.toMatchObject({ code: 'too-many-bytes', transient: false });
    await expect(read({ ...large, size: 0 }, 6)).rejects.toMatchObject({ code: 'too-many-bytes' });
    expect(await read(same, 6)).toEqual(bytes('same 1'));
  });

  test('bytes lie in a buffer of their own, so that they can be given to another thread', async () => {
    await ground.put('small', bytes('x'));
    const source = open(ground.uri);
    const [item] = (await listAll(source)).items as [Item];
    expect((await source.read(item, { maxBytes })).buffer.byteLength).toBe(1);
  });

  test('listing and reading can be aborted, with the reason', async () => {
    await ground.put('sub/item', bytes('x'));
    const source = open(ground.uri);
    const [item] = (await listAll(source)).items as [Item];
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(source.read(item, { maxBytes, signal })).rejects.toThrow('enough');
    await expect(Array.fromAsync(source.list({ signal }))).rejects.toThrow('enough');
  });
});

describe('folder source', () => {
  let root: string;
  beforeEach(() => {
    root = tempFolder();
  });
  function put(path: string, body = path): void {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), body);
  }

  test('a root that is missing or a file is no source', async () => {
    put('file');
    for (const path of ['missing', 'file']) {
      await expect(open(join(root, path)).probe()).rejects.toMatchObject({
        name: 'ConfigError',
        code: 'no-source',
      });
    }
  });

  test('links are followed, and loops of links end', async () => {
    put('a/b/one.jpg');
    const elsewhere = tempFolder();
    writeFileSync(join(elsewhere, 'two.jpg'), 'x');
    symlinkSync(elsewhere, join(root, 'a/linked'));
    symlinkSync(join(root, 'a/b/one.jpg'), join(root, 'three.jpg'));
    symlinkSync('..', join(root, 'a/b/up'));
    symlinkSync(root, join(root, 'a/root'));
    symlinkSync('.', join(root, 'self'));
    const { ids, skipped } = await listAll(open(root));
    expect(ids).toEqual(['a/b/one.jpg', 'a/linked/two.jpg', 'three.jpg']);
    expect(skipped).toBe(3);
  });

  test('a link out of the root and back in ends too', async () => {
    put('outer/inner/here.jpg');
    symlinkSync('..', join(root, 'outer/inner/parent'));
    put('outer/there.jpg');
    const { ids } = await listAll(open(join(root, 'outer/inner')));
    expect(ids).toEqual(['here.jpg', 'parent/there.jpg']);
  });

  test('links to nowhere are items that fail, not omissions', async () => {
    symlinkSync('nowhere', join(root, 'dangling.jpg'));
    symlinkSync('loop.jpg', join(root, 'loop.jpg'));
    const source = open(root, pictures);
    const { items } = await listAll(source);
    expect(items).toMatchObject([
      { id: 'dangling.jpg', etag: '', size: 0 },
      { id: 'loop.jpg', etag: '', size: 0 },
    ]);
    for (const item of items) {
      await expect(source.read(item, { maxBytes })).rejects.toMatchObject({
        code: 'not-found',
        transient: false,
      });
    }
  });

  test('a FIFO is no item, and an item that became a FIFO or a folder does not block its reader', async () => {
    execFileSync('mkfifo', [join(root, 'fifo.jpg')]);
    put('item.jpg');
    const source = open(root, pictures);
    const { items, skipped } = await listAll(source);
    expect(skipped).toBe(1);
    const [item] = items as [Item];
    rmSync(join(root, 'item.jpg'));
    renameSync(join(root, 'fifo.jpg'), join(root, 'item.jpg'));
    await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'not-found' });
    rmSync(join(root, 'item.jpg'));
    mkdirSync(join(root, 'item.jpg'));
    await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'not-found' });
  });

  test('the same size at another time is another content', async () => {
    put('item.jpg', 'one');
    const source = open(root);
    const [item] = (await listAll(source)).items as [Item];
    put('item.jpg', 'two');
    utimesSync(join(root, 'item.jpg'), 1e9, 1e9);
    await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'changed' });
  });

  test('names that are not UTF-8 have ids of their own, in order, and are read', async () => {
    // 'é' in Latin-1, the same in UTF-8, a folder in Latin-1, and the very text that the first is escaped to.
    const names = [
      'caf\xE9.jpg',
      'caf\xC3\xA9.jpg',
      'd\xE9p\xF4t/\xFF\xFE.jpg',
      'caf\xEF\xBF\xBDE9.jpg',
      'cafz.jpg',
    ];
    mkdirSync(Buffer.from(`${root}/d\xE9p\xF4t`, 'latin1'));
    for (const name of names)
      writeFileSync(Buffer.from(`${root}/${name}`, 'latin1'), Buffer.from(name, 'latin1'));
    const source = open(root, pictures);
    const { items, ids } = await listAll(source);
    expect(ids).toEqual(sortBytewise(ids));
    expect(ids).toContain('caf\uFFFDE9.jpg');
    expect(ids).toContain('d\uFFFDE9p\uFFFDF4t/\uFFFDFF\uFFFDFE.jpg');
    expect(items.find(({ id }) => id === 'caf\uFFFDE9.jpg')?.uri).toBe(`file://${root}/caf%E9.jpg`);
    const read = await Promise.all(items.map((item) => source.read(item, { maxBytes })));
    expect(read.map((body) => Buffer.from(body).toString('latin1')).toSorted()).toEqual(names.toSorted());
    for (const [at, id] of ids.entries()) expect((await listAll(source, id)).ids).toEqual(ids.slice(at + 1));
  });

  test('escaping is undone exactly', () => {
    const all = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte)).join('');
    for (const name of [all, 'caf\xE9', 'caf\xEF\xBF\xBDE9', '\xEF\xBF\xBD', 'caf\xC3\xA9', 'plain']) {
      expect(unescapeName(escapeName(name))).toBe(name);
    }
    expect(escapeName('caf\xC3\xA9')).toBe('caf\xC3\xA9');
  });

  test('what may not be read is said: a folder stops the listing, a file is a failed item', async () => {
    put('a/file.jpg');
    put('b.jpg');
    put('secret/file.jpg');
    chmodSync(join(root, 'b.jpg'), 0o000);
    chmodSync(join(root, 'secret'), 0o000);
    chmodSync(root, 0o755);
    const output = await runAsNobody(`
      import { FolderSource } from ${JSON.stringify(moduleUrl('src/sources/folder.ts'))};
      const open = (...exclude) => new FolderSource(${JSON.stringify(root)}, { include: ['**'], exclude });
      const list = async (source, options) => (await Array.fromAsync(source.list(options))).flatMap((page) => page.items);
      const show = (items) => console.log(items.map((item) => item.id).join(' '));
      const fail = (error) => console.log(error.name, error.code, error.transient ?? error.message);
      await list(open()).then(show, fail);
      const items = await list(open('secret/**'));
      show(items);
      await open().read(items[1], { maxBytes: 1000 }).catch(fail);
      // The folder lies before 'after': it is not even looked at.
      await list(open(), { after: 'secret0' }).then(show, fail);`);
    chmodSync(join(root, 'secret'), 0o755);
    expect(output.split('\n')).toEqual([
      `ConfigError access-denied '${root}/secret/' cannot be listed (EACCES): make it readable, or leave it out with --exclude 'secret/**'`,
      'a/file.jpg b.jpg',
      'ReadError access-denied false',
      '',
      '',
    ]);
  });
});

describe('s3 source', () => {
  let bucket: string;
  let proxy: SpoilingProxy | undefined;
  beforeAll(async () => {
    bucket = await makeBucket();
    await putForeignObject(bucket, 'photos/', bytes(''));
    await putForeignObject(bucket, 'photos/sub/', bytes(''));
    await putForeignObject(bucket, 'photos/sub/one.jpg', Buffer.alloc(100_000, 1));
    await putForeignObject(bucket, 'photos-2/two.jpg', bytes('two'));
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await proxy?.close();
    proxy = undefined;
  });

  /** Lists straight from the server, and reads the one item through a proxy that spoils every GET's reply. */
  async function readSpoiled(spoil: Spoil, signal?: AbortSignal): Promise<unknown> {
    const [item] = (await listAll(open(`s3://${bucket}/photos`))).items.slice(-1) as [Item];
    proxy = await startProxy(testEndpoint(), () => spoil);
    const source = open(
      `s3://${bucket}/photos`,
      everything,
      testS3Options({ endpoint: proxy.endpoint, requestTimeoutMs: 300 }),
    );
    return source.read(item, signal ? { maxBytes, signal } : { maxBytes }).catch((error) => error);
  }

  test('folder markers are counted, neighbours with a like name are not seen', async () => {
    const { ids, skipped } = await listAll(open(`s3://${bucket}/photos/`));
    expect(ids).toEqual(['sub/one.jpg']);
    expect(skipped).toBe(2);
  });

  test('a whole bucket is a source', async () => {
    const source = open(`s3://${bucket}`);
    expect(source.uri).toBe(`s3://${bucket}`);
    const { items } = await listAll(source);
    expect(items.map(({ uri }) => uri)).toEqual([
      `s3://${bucket}/photos-2/two.jpg`,
      `s3://${bucket}/photos/sub/one.jpg`,
    ]);
    expect(items[0]?.etag).toBe(createHash('md5').update('two').digest('hex'));
  });

  test.each(['drop', 'truncate', 'stall', 500, 503] as const)(
    'a read that ends in %s may be tried again, and is not tried twice by itself',
    async (spoil) => {
      expect(await readSpoiled(spoil)).toMatchObject({
        name: 'ReadError',
        code: 'read-failed',
        transient: true,
      });
      expect(proxy?.requests).toHaveLength(1);
    },
  );

  test('an object that may not be read fails alone', async () => {
    expect(await readSpoiled(403)).toMatchObject({
      name: 'ReadError',
      code: 'access-denied',
      transient: false,
    });
  });

  test('a read that hangs ends when it is aborted', async () => {
    expect(await readSpoiled('stall', AbortSignal.timeout(100))).toMatchObject({ name: 'TimeoutError' });
  });

  test('credentials that are no longer valid, or a bucket that is gone, fail no item but the read itself', async () => {
    const [item] = (await listAll(open(`s3://${bucket}/photos`))).items as [Item];
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'wrong');
    const read = open(`s3://${bucket}/photos`).read(item, { maxBytes });
    await expect(read).rejects.toMatchObject({ name: 'ConfigError', code: 'bad-credentials' });
    vi.unstubAllEnvs();
    const elsewhere = open('s3://no-such-bucket-anywhere/photos');
    await expect(elsewhere.read(item, { maxBytes })).rejects.toMatchObject({
      name: 'ConfigError',
      code: 'no-bucket',
    });
    await expect(elsewhere.probe()).rejects.toMatchObject({ name: 'ConfigError', code: 'no-bucket' });
  });
});

describe('globs', () => {
  test.each([
    [['**/*.jpg'], 'a.jpg', true],
    [['**/*.jpg'], 'deep/er/a.JPG', true],
    [['*.jpg'], 'deep/a.jpg', false],
    [['**/*.jpg'], 'new\nline/a\nb.jpg', true],
    [['**/*.jpg'], '.hidden/.a.jpg', true],
    [['a/**', 'b/**'], 'b/x', true],
    [[], 'a.jpg', false],
    [DEFAULT_INCLUDE, 'x.heif', true],
    [DEFAULT_INCLUDE, 'x.jpg.txt', false],
  ])('include %j on %j: %j', (include, id, expected) => {
    expect(compileGlobs({ include, exclude: [] }).isItem(id)).toBe(expected);
  });

  test('only an exclude for all of a folder excludes the folder', () => {
    const globs = compileGlobs({ include: ['**'], exclude: ['a/**', '**/node_modules/**', 'b/*', 'c'] });
    expect(['a', 'x/node_modules', 'A'].map(globs.isFolderExcluded)).toEqual([true, true, true]);
    expect(['b', 'c', 'x/a', 'ab'].map(globs.isFolderExcluded)).toEqual([false, false, false, false]);
  });

  test('an empty glob is refused', () => {
    expect(() => compileGlobs({ include: [''], exclude: [] })).toThrow(
      expect.objectContaining({ code: 'bad-glob' }),
    );
  });
});

test('a scheme that nobody reads is refused with the choices', () => {
  expect(() => sourceUri('ftp://user:secret@host/x')).toThrow(
    "no source for 'ftp://…'; there are: a path, file://, s3://, https://",
  );
});
