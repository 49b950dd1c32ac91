/** What every archive promises (src/archives/archive.ts), held by each kind, in a file and in a store. */
import { randomUUID } from 'node:crypto';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { archiveKindOf } from '../src/archives/archive-kinds.ts';
import { openFileObjects } from '../src/objects/file.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openS3Objects } from '../src/objects/s3.ts';
import { ArchiveSource } from '../src/sources/archive-source.ts';
import { archivesWithin } from '../src/sources/archives-within.ts';
import { FolderSource } from '../src/sources/folder.ts';
import { DEFAULT_INCLUDE } from '../src/sources/globs.ts';
import { S3Source } from '../src/sources/s3.ts';
import type { Globs, Source } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { compareBytewise, fileUri, rawOfText } from '../src/uri.ts';
import { type Extension, makeArchive } from './helpers/archives.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { makeBucket, putForeignObject, testS3Options } from './helpers/s3.ts';
import { tempFolder } from './helpers/temp.ts';

const everything: Globs = { include: ['**'], exclude: [] };
const pictures: Globs = { include: DEFAULT_INCLUDE, exclude: [] };
const maxBytes = 10_000_000;
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

/** A place for archives and other files. */
interface Ground {
  put(id: string, body: Uint8Array): Promise<void>;
  uriOf(id: string): string;
  objects(): Objects;
  source(globs: Globs): Source;
}

async function newFolder(): Promise<Ground> {
  const root = tempFolder();
  return {
    put: async (id, body) => writeFileSync(join(root, id), body),
    uriOf: (id) => fileUri(rawOfText(join(root, id))),
    objects: openFileObjects,
    source: (globs) => new FolderSource(root, globs),
  };
}

let bucket: Promise<string> | undefined;

async function newPrefix(): Promise<Ground> {
  bucket ??= makeBucket();
  const name = await bucket;
  const prefix = randomUUID();
  const root = `s3://${name}/${prefix}`;
  return {
    put: async (id, body) => void (await putForeignObject(name, `${prefix}/${id}`, body)),
    uriOf: (id) => `${root}/${id}`,
    objects: () => openS3Objects(testS3Options()),
    source: (globs) => new S3Source(root, globs, testS3Options()),
  };
}

const keep = closeAfterEach<Source>();

function openWithin(ground: Ground, globs = everything): Source {
  return keep(archivesWithin((wider) => ground.source(wider), globs, ground.objects()));
}

async function listAll(
  source: Source,
  after?: string,
): Promise<{ items: Item[]; ids: string[]; skipped: number }> {
  const pages = await Array.fromAsync(source.list(after === undefined ? {} : { after }));
  for (const { items } of pages) expect(items.length).toBeLessThanOrEqual(1000);
  const items = pages.flatMap((page) => page.items);
  const skipped = pages.reduce((sum, page) => sum + page.skipped, 0);
  return { items, ids: items.map(({ id }) => id), skipped };
}

const extensions: Extension[] = ['.tar', '.tar.gz', '.tar.zst', '.zip'];
const grounds = [
  { where: 'a folder', newGround: newFolder },
  { where: 's3', newGround: newPrefix },
];
const cases = extensions.flatMap((extension) => grounds.map((ground) => ({ extension, ...ground })));

describe.each(cases)('a $extension in $where', ({ extension, newGround }) => {
  let ground: Ground;
  const name = `odd + näme!${extension}`;
  beforeEach(async () => {
    ground = await newGround();
  });

  function open(globs = everything): Source {
    const kind = archiveKindOf(name);
    if (!kind) throw new Error(`no kind for ${name}`);
    return keep(new ArchiveSource(ground.uriOf(name), kind, globs, ground.objects()));
  }

  async function put(members: readonly (readonly [string, string])[]): Promise<void> {
    await ground.put(name, makeArchive(extension, members));
  }

  test('every member is listed in order and read whole, whatever order they are in', async () => {
    const lengths = [0, 1, 511, 512, 513, 9_000];
    const members = Array.from({ length: 1_203 }, (_, at): [string, string] => {
      const id = (at * 7919) % 1_203; // a prime: every number once
      return [`${id % 3}/ü-${id}.jpg`, `${id} `.repeat(3000).slice(0, lengths[id % 6])];
    });
    await put(members);
    const source = open();
    await source.probe();
    const { items, ids, skipped } = await listAll(source);
    const ordered = members.toSorted(([a], [b]) => compareBytewise(a, b));
    expect(ids).toEqual(ordered.map(([id]) => id));
    expect(skipped).toBe(0);
    expect(items.map(({ size }) => size)).toEqual(ordered.map(([, content]) => content.length));
    const some = items.filter((_, at) => at % 10 === 0);
    const read = await Promise.all(some.map((item) => source.read(item, { maxBytes })));
    const contents = new Map(members);
    expect(read.map(textOf)).toEqual(some.map(({ id }) => contents.get(id)));
    expect((await listAll(source, ids[1000])).ids).toEqual(ids.slice(1001));
  });

  test('odd names are ids and nothing more', async () => {
    const names = [
      '../../up.jpg', '/etc/passwd', 'a!b!c.jpg', 'new\nline.jpg', '日本/😀.jpg', 'b\u{E000}', `${'long/'.repeat(200)}x.jpg`,
      'q?x=1#y%41.jpg', 'back\\slash.jpg', ' ', '\uFFFD',
    ]; // biome-ignore format: a table
    await put(names.map((name) => [name, name]));
    const source = open();
    const { items, ids } = await listAll(source);
    // Only '\uFFFD' is escaped, as in a folder.
    const expected = names.map((name) => name.replace('\uFFFD', '\uFFFDEF\uFFFDBF\uFFFDBD'));
    expect(ids).toEqual(expected.toSorted(compareBytewise));
    const read = await Promise.all(items.map((item) => source.read(item, { maxBytes })));
    expect(read.map(textOf).toSorted()).toEqual(names.toSorted());
    expect(new Set(items.map(({ uri }) => uri)).size).toBe(names.length);
  });

  test('of two members with one name the last counts', async () => {
    await put([['a.jpg', 'old'], ['b.jpg', 'b'], ['a.jpg', 'new']]); // biome-ignore format: one archive
    const source = open();
    const { items, ids, skipped } = await listAll(source);
    expect(ids).toEqual(['a.jpg', 'b.jpg']);
    expect(skipped).toBe(1);
    expect(textOf(await source.read(items[0] as Item, { maxBytes }))).toBe('new');
  });

  test('globs choose members by their names; folders and what is left out are counted', async () => {
    await put([['a.JPG', 'a'], ['sub/', ''], ['sub/b.webp', 'b'], ['sub/c.txt', 'c'], ['raw/d.png', 'd']]); // biome-ignore format: one archive
    const { ids, skipped } = await listAll(open({ include: DEFAULT_INCLUDE, exclude: ['raw/**'] }));
    expect(ids).toEqual(['a.JPG', 'sub/b.webp']);
    expect(skipped).toBe(3);
  });

  test('a member that is too large, or whose archive was replaced, fails with its reason', async () => {
    await put([['a.jpg', 'content'], ['b.jpg', 'b']]); // biome-ignore format: one archive
    const source = open();
    const { items } = await listAll(source);
    const [a, b] = items as [Item, Item];
    await expect(source.read(a, { maxBytes: 6 })).rejects.toMatchObject({ code: 'too-many-bytes' });
    const bytes = await source.read(a, { maxBytes: 7 });
    expect(bytes.buffer.byteLength).toBe(7);
    await put([['a.jpg', 'content'], ['b.jpg', 'other'], ['c.jpg', 'c']]); // biome-ignore format: one archive
    await expect(open().read(b, { maxBytes })).rejects.toMatchObject({
      name: 'ReadError',
      code: 'changed',
      transient: false,
    });
  });

  test('cut off anywhere, it is refused, or has lost nothing that it had', async () => {
    const members = Array.from({ length: 5 }, (_, at) => [`${at}.jpg`, `${at}`.repeat(at * 400)] as const);
    const whole = makeArchive(extension, members);
    const step = extension === '.tar' ? 512 : Math.ceil(whole.length / 12);
    for (let length = 0; length < whole.length; length += step) {
      await ground.put(name, whole.subarray(0, length));
      const source = open();
      const outcome = await listAll(source).catch((error) => error);
      if (outcome instanceof Error) {
        expect(outcome).toMatchObject({ name: 'ConfigError', code: 'bad-archive' });
        continue;
      }
      const read = await Promise.all(outcome.items.map((item: Item) => source.read(item, { maxBytes })));
      const expected = members.slice(0, read.length).map(([, content]) => content);
      expect(read.map(textOf)).toEqual(expected);
    }
  });

  test('what is no archive at all is refused, and what is not there is no source', async () => {
    await expect(open().probe()).rejects.toMatchObject({ name: 'ConfigError', code: 'no-source' });
    await ground.put(name, Buffer.from('no archive '.repeat(200)));
    await expect(listAll(open())).rejects.toMatchObject({ name: 'ConfigError', code: 'bad-archive' });
    await ground.put(name, new Uint8Array());
    await expect(listAll(open())).rejects.toMatchObject({ name: 'ConfigError', code: 'bad-archive' });
  });

  test('listing and reading can be aborted, with the reason', async () => {
    await put([['a.jpg', 'a']]);
    const source = open();
    const [item] = (await listAll(source)).items as [Item];
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(source.read(item, { maxBytes, signal })).rejects.toThrow('enough');
    await expect(Array.fromAsync(source.list({ signal }))).rejects.toThrow('enough');
  });
});

describe.each(grounds)('archives within $where', ({ newGround }) => {
  let ground: Ground;
  beforeEach(async () => {
    ground = await newGround();
  });

  test('members stand among the files, in the order of bytes, and a broken listing goes on after any of them', async () => {
    await ground.put('a.jpg', Buffer.from('a.jpg'));
    await ground.put('x.tar', makeArchive('.tar', [['b.jpg', 'b'], ['a!.jpg', 'a'], ['skip.txt', '']])); // biome-ignore format: one archive
    await ground.put('x.tar 2.jpg', Buffer.from('between'));
    await ground.put('x.tar .zip', makeArchive('.zip', [['z.jpg', 'z']]));
    await ground.put('x.tar-.jpg', Buffer.from('behind'));
    await ground.put('x.TGZ', makeArchive('.tar.gz', [['t.jpg', 't']]));
    await ground.put('notes.txt', Buffer.from('none'));
    await ground.put('closed.tar', makeArchive('.tar', [['c.jpg', 'c']]));
    const source = openWithin(ground, { include: DEFAULT_INCLUDE, exclude: ['closed.tar'] });
    await source.probe();
    const { items, ids, skipped } = await listAll(source);
    expect(ids).toEqual([
      'a.jpg',
      'x.TGZ!t.jpg',
      'x.tar .zip!z.jpg',
      'x.tar 2.jpg',
      'x.tar!a!.jpg',
      'x.tar!b.jpg',
      'x.tar-.jpg',
    ]);
    expect(skipped).toBe(3);
    const read = await Promise.all(items.map((item) => source.read(item, { maxBytes })));
    expect(read.map(textOf)).toEqual(['a.jpg', 't', 'z', 'between', 'a', 'b', 'behind']);
    for (const [at, id] of ids.entries()) expect((await listAll(source, id)).ids).toEqual(ids.slice(at + 1));
    for (const after of ['x.tar', 'x.tar .zip', 'x.tar!', 'x.tar!a', 'x.tar"']) {
      const expected = ids.filter((id) => compareBytewise(id, after) > 0);
      expect((await listAll(source, after)).ids).toEqual(expected);
    }
  });

  test('a damaged archive is one item that fails, and the listing goes on', async () => {
    const whole = makeArchive('.tar', [['a.jpg', 'a'.repeat(2000)]]);
    await ground.put('bad.tar', whole.subarray(0, 1000));
    await ground.put('good.tar', whole);
    const source = openWithin(ground, pictures);
    const { items, ids } = await listAll(source);
    expect(ids).toEqual(['bad.tar', 'good.tar!a.jpg']);
    const [bad] = items as [Item];
    expect(bad.size).toBe(1000);
    const failure = await source.read(bad, { maxBytes }).catch((error) => error);
    expect(failure).toMatchObject({ name: 'ReadError', code: 'corrupt', transient: false });
    expect(failure.message).toContain('byte 0: it ends 488 bytes into a member of 2000');
    expect((await listAll(source, 'bad.tar')).ids).toEqual(['good.tar!a.jpg']);
    expect(await source.refresh?.(bad)).toEqual(bad);
    await ground.put('bad.tar', whole);
    const mended = (await source.refresh?.(bad)) as Item;
    expect(mended.size).toBe(whole.length);
    await expect(source.read(mended, { maxBytes })).rejects.toThrow('list it anew');
  });

  test('an id that is both a file and a member is told', async () => {
    await ground.put('x.tar', makeArchive('.tar', [['a.jpg', 'a']]));
    await ground.put('x.tar!a.jpg', Buffer.from('file'));
    await expect(listAll(openWithin(ground))).rejects.toMatchObject({ code: 'ambiguous-id' });
  });
});

test('an archive that is not there, behind its link, is one item that fails with that reason, until it is there', async () => {
  const ground = await newFolder();
  const folder = fileURLToPath(ground.uriOf(''));
  symlinkSync('elsewhere.tar', join(folder, 'link.tar'));
  const source = openWithin(ground, pictures);
  const [item] = (await listAll(source)).items as [Item];
  expect(item.id).toBe('link.tar');
  await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'not-found' });
  await ground.put('elsewhere.tar', makeArchive('.tar', [['a.jpg', 'a']]));
  await expect(source.read(item, { maxBytes })).rejects.toMatchObject({ code: 'changed' });
});

test('whatever the names, a listing goes on after any id as if it had not stopped', async () => {
  const name = fc.string({ unit: fc.constantFrom('a', ' ', '!', '"', '-', 'é'), minLength: 1, maxLength: 4 });
  const archive = fc.record({
    stem: name,
    members: fc.uniqueArray(name, { maxLength: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(archive, { maxLength: 4 }), fc.array(name), async (archives, files) => {
      const ground = await newFolder();
      for (const file of files) await ground.put(`${file}.tar${file}`, Buffer.from('x'));
      for (const { stem, members } of archives) await ground.put(`${stem}.tar`, quickTar(members));
      const source = openWithin(ground);
      const outcome = await listAll(source).catch((error) => error);
      if (outcome instanceof Error) {
        expect(outcome).toMatchObject({ code: 'ambiguous-id' });
        return;
      }
      expect(outcome.ids).toEqual(outcome.ids.toSorted(compareBytewise));
      for (const [at, id] of outcome.ids.entries())
        expect((await listAll(source, id)).ids).toEqual(outcome.ids.slice(at + 1));
    }),
    { numRuns: 40 },
  );
});

/** Of empty files, without a process. */
function quickTar(names: readonly string[]): Buffer {
  return Buffer.concat(
    names.map((name) => {
      const header = Buffer.alloc(512);
      header.write(name, 0);
      header.write('        ', 148);
      const sum = header.reduce((total, byte) => total + byte, 0);
      header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
      return header;
    }),
  );
}
