/** Zips as tools write them, and as nobody should; what every archive promises is in archives.test.ts. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Member, memberUri } from '../src/archives/archive.ts';
import { zip } from '../src/archives/zip.ts';
import { ConfigError } from '../src/errors.ts';
import { openFileObjects } from '../src/objects/file.ts';
import type { Objects, RangeRead } from '../src/objects/objects.ts';
import { ReadError } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { uniform } from '../src/uniform.ts';
import { fileUri, rawOfText } from '../src/uri.ts';
import { tempFolder } from './helpers/temp.ts';

const maxBytes = 1_000_000;
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

/** A zip that Python writes: `z` is the ZipFile, `info(name, …attributes)` makes a ZipInfo. */
function packWithPython(script: string, name = 'a.zip'): string {
  const path = join(tempFolder(), name);
  const head = [
    'import sys, zipfile',
    'from zipfile import *',
    'def info(name, **attributes):',
    '    i = ZipInfo(name)',
    '    for key, value in attributes.items(): setattr(i, key, value)',
    '    return i',
    "with ZipFile(sys.argv[1], 'w') as z:",
  ];
  const body = script
    .trim()
    .split('\n')
    .map((line) => `    ${line}`);
  execFileSync('/usr/bin/python3', ['-W', 'ignore', '-c', [...head, ...body].join('\n'), path]);
  return path;
}

const two = readFileSync(
  packWithPython("z.writestr('one.txt', b'1' * 1000)\nz.writestr('two.txt', b'2' * 1000)"),
);

/** Two members, 'one.txt' and 'two.txt', stored: a file of its own each time. */
const packTwo = (): string => writeZip(two);

function writeZip(bytes: Uint8Array): string {
  const path = join(tempFolder(), 'a.zip');
  writeFileSync(path, bytes);
  return path;
}

interface OpenZip {
  members: Member[];
  skipped: number;
  names: string[];
  /** Ranges that were read so far. */
  reads: RangeRead[];
  /** A member's bytes, or the code of the ReadError. */
  read(name: string, limit?: number): Promise<Uint8Array | string>;
}

/** Lists it; throws what that throws. */
async function openZip(path: string): Promise<OpenZip> {
  const uri = fileUri(rawOfText(path));
  const reads: RangeRead[] = [];
  const files = openFileObjects();
  const counted: Objects = {
    ...files,
    readRange: (of, options) => {
      reads.push(options);
      return files.readRange(of, options);
    },
  };
  const reader = zip.open(counted);
  const { members, skipped } = await reader.list(uri, await files.stat(uri));
  return {
    members,
    skipped,
    names: members.map(({ name }) => name),
    reads,
    read: (name, limit = maxBytes) => {
      const member = members.find((one) => one.name === name);
      if (!member) throw new Error(`no ${name} among ${members.length}`);
      const item: Item = { ...member, id: `a.zip!${name}`, uri: memberUri(uri, name) };
      return reader.read(item, { maxBytes: limit }).catch((error) => {
        if (error instanceof ReadError) return error.code;
        throw error;
      });
    },
  };
}

/** The one line that listing it ends with. */
async function refusalOf(path: string): Promise<string> {
  const error = await openZip(path).then(
    () => new Error('it was listed'),
    (reason) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  expect(error).toMatchObject({ code: 'bad-archive' });
  expect(error.message).toContain(path);
  return error.message;
}

/** Overwrites bytes of the n-th header with this signature, `offset` bytes into it. */
function patch(
  path: string,
  signature: 'PK\x01\x02' | 'PK\x03\x04' | 'PK\x05\x06',
  n: number,
  offset: number,
  bytes: number[],
): void {
  const content = readFileSync(path);
  let at = -1;
  for (let found = 0; found <= n; found++) at = content.indexOf(signature, at + 1, 'latin1');
  content.set(bytes, at + offset);
  writeFileSync(path, content);
}

const u32 = (value: number): number[] => [...Buffer.from(Uint32Array.of(value).buffer)];
const central = 'PK\x01\x02';
const local = 'PK\x03\x04';
const end = 'PK\x05\x06';

test('stored and deflated members are read by one request each', async () => {
  const path = packWithPython(`
z.writestr('stored.txt', 'as it is ' * 99)
z.writestr('deflated.txt', 'made smaller ' * 9999, ZIP_DEFLATED)
z.writestr('empty.txt', '')
z.writestr('folder/', '')
z.writestr('empty-deflated.txt', '', ZIP_DEFLATED)`);
  const { members, names, skipped, reads, read } = await openZip(path);
  expect(names).toEqual(['deflated.txt', 'empty-deflated.txt', 'empty.txt', 'stored.txt']);
  expect(skipped).toBe(1);
  expect(members.map(({ at }) => at.packed)).toEqual(['deflated', 'deflated', 'stored', 'stored']);
  reads.length = 0;
  expect(textOf((await read('stored.txt')) as Uint8Array)).toBe('as it is '.repeat(99));
  const deflated = (await read('deflated.txt')) as Uint8Array;
  expect(textOf(deflated)).toBe('made smaller '.repeat(9999));
  expect(deflated.buffer.byteLength).toBe(deflated.length);
  expect(await read('empty.txt')).toEqual(new Uint8Array());
  expect(await read('empty-deflated.txt')).toEqual(new Uint8Array());
  expect(reads).toHaveLength(4);
});

test('a zip by Info-ZIP, with times, owners and a link in it, is read by one request a member', async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, 'a.txt'), 'content of a');
  execFileSync('sh', ['-c', 'ln -s a.txt link.txt && mkdir sub && zip -qry a.zip a.txt link.txt sub'], {
    cwd: folder,
  });
  const { names, skipped, reads, read } = await openZip(join(folder, 'a.zip'));
  expect(names).toEqual(['a.txt']);
  expect(skipped).toBe(2);
  reads.length = 0;
  expect(textOf((await read('a.txt')) as Uint8Array)).toBe('content of a');
  expect(reads).toHaveLength(1);
});

test('a member behind an unusually long local header takes a second request', async () => {
  const path = packWithPython(
    "z.writestr(info('a.txt', extra=b'\\x99\\x99\\x00\\x10' + bytes(4096)), 'far')",
  );
  // The directory's own extra field is dropped, so that only the local one is long, as in a zip that was aligned.
  const bytes = readFileSync(path);
  const at = bytes.indexOf(central, 0, 'latin1');
  const endAt = bytes.indexOf(end, 0, 'latin1');
  bytes.writeUInt16LE(0, at + 30);
  bytes.writeUInt32LE(46 + 'a.txt'.length, endAt + 12);
  writeFileSync(path, Buffer.concat([bytes.subarray(0, at + 46 + 'a.txt'.length), bytes.subarray(endAt)]));
  const { reads, read } = await openZip(path);
  reads.length = 0;
  expect(textOf((await read('a.txt')) as Uint8Array)).toBe('far');
  expect(reads).toHaveLength(2);
});

test.each([3, 1_000, 70_000])('a zip of %d members is listed with at most two requests', async (count) => {
  const path = packWithPython(`for n in range(${count}): z.writestr('folder/%d.txt' % n, str(n))`);
  const { members, reads, read } = await openZip(path);
  expect(members).toHaveLength(count);
  expect(reads.length).toBeLessThanOrEqual(2);
  expect(textOf((await read(`folder/${count - 1}.txt`)) as Uint8Array)).toBe(String(count - 1));
});

test('more members than the old 16-bit count can tell are listed, as macOS writes them', async () => {
  const path = packWithPython("for n in range(65538): z.writestr('%d' % n, b'')");
  // Without its zip64 end record: the locator's signature goes, and the old record says what its bits can hold.
  const bytes = readFileSync(path);
  const endAt = bytes.lastIndexOf(end, undefined, 'latin1');
  const directory = bytes.indexOf(central, 0, 'latin1');
  const zip64At = bytes.lastIndexOf('PK\x06\x06', undefined, 'latin1');
  bytes.writeUInt16LE(2, endAt + 8);
  bytes.writeUInt16LE(2, endAt + 10);
  bytes.writeUInt32LE(zip64At - directory, endAt + 12);
  bytes.writeUInt32LE(directory, endAt + 16);
  writeFileSync(path, Buffer.concat([bytes.subarray(0, zip64At), bytes.subarray(endAt)]));
  expect((await openZip(path)).members).toHaveLength(65_538);
});

test('zip64 members are read', async () => {
  const path = packWithPython(`
with z.open(info('a.txt', compress_type=ZIP_DEFLATED), 'w', force_zip64=True) as f: f.write(b'large ' * 1000)
with z.open('b.txt', 'w', force_zip64=True) as f: f.write(b'b')`);
  const { read } = await openZip(path);
  expect(textOf((await read('a.txt')) as Uint8Array)).toBe('large '.repeat(1000));
  expect(textOf((await read('b.txt')) as Uint8Array)).toBe('b');
});

test('a zip of more than 4 GB is read at its end', async () => {
  // Python writes at an offset: the first 5 GB are a hole in the file.
  const path = packWithPython(`
z.fp.seek(5 * 2**30)
z.start_dir = z.fp.tell()
z.writestr('far.txt', 'beyond 4 GB')`);
  const { members, read } = await openZip(path);
  expect(members[0]?.at.first).toBe(5 * 2 ** 30);
  expect(textOf((await read('far.txt')) as Uint8Array)).toBe('beyond 4 GB');
});

test('an encrypted member is listed, and its row says that it wants a password', async () => {
  const folder = tempFolder();
  writeFileSync(join(folder, 'secret.txt'), 'nobody may read this');
  writeFileSync(join(folder, 'open.txt'), 'everybody may');
  execFileSync('sh', ['-c', 'zip -q -P password a.zip secret.txt && zip -q a.zip open.txt'], { cwd: folder });
  const { members, read } = await openZip(join(folder, 'a.zip'));
  expect(members).toMatchObject([
    { name: 'open.txt', size: 13 },
    { name: 'secret.txt', size: 20, at: { packed: 'encrypted' } },
  ]);
  expect(await read('secret.txt')).toBe('encrypted');
  expect(textOf((await read('open.txt')) as Uint8Array)).toBe('everybody may');
});

test('a member packed by another method is listed, and its row says so', async () => {
  const path = packWithPython("z.writestr('a', 'x' * 99, ZIP_LZMA)\nz.writestr('b', 'x' * 99, ZIP_BZIP2)");
  const { members, read } = await openZip(path);
  expect(members.map(({ at }) => at.packed)).toEqual([14, 12]);
  expect(await read('a')).toBe('unsupported-format');
  expect(await read('b')).toBe('unsupported-format');
});

test('names are ids, whatever they say', async () => {
  const path = packWithPython(`
for name in ['../../etc/passwd', '/absolute', 'C:/drive', './here', 'grüße/日本.jpg', 'back\\\\slash', 'wow!.jpg']: z.writestr(name, name)
z.writestr(info('from\\\\windows.jpg', create_system=0), 'w')`);
  const { names, read } = await openZip(path);
  expect(names).toEqual([
    '../../etc/passwd',
    '/absolute',
    'C:/drive',
    'back\\slash',
    'from/windows.jpg',
    'grüße/日本.jpg',
    'here',
    'wow!.jpg',
  ]);
  for (const name of ['../../etc/passwd', 'back\\slash', 'grüße/日本.jpg', 'wow!.jpg'])
    expect(textOf((await read(name)) as Uint8Array)).toBe(name);
});

test('names of old tools are read as UTF-8 where they are that, else as CP437; wrongly labelled ones are escaped', async () => {
  const path = packWithPython("for name in ['cafXY', 'cafYZ', 'cafZX']: z.writestr(name, '')");
  const name = (n: number, bytes: number[], flags = 0): void => {
    patch(path, central, n, 46 + 3, bytes);
    patch(path, central, n, 8, [0, flags]);
  };
  name(0, [0xc3, 0xa9]); // UTF-8 and not said so
  name(1, [0x82, 0x2e]); // CP437
  name(2, [0xe9, 0x2e], 8); // Latin-1, and said to be UTF-8
  expect((await openZip(path)).names).toEqual(['café', 'café.', 'caf\ufffdE9.'].toSorted());
});

test('of members with one name the last counts', async () => {
  const path = packWithPython("z.writestr('a', 'old')\nz.writestr('b', 'b')\nz.writestr('a', 'new')");
  const { names, skipped, read } = await openZip(path);
  expect(names).toEqual(['a', 'b']);
  expect(skipped).toBe(1);
  expect(textOf((await read('a')) as Uint8Array)).toBe('new');
});

test('an unchanged member of a zip that was packed again has the etag that it had', async () => {
  const pack = async (added: string) =>
    (
      await openZip(
        packWithPython(`${added}\nz.writestr('kept', 'same')\nz.writestr('edited', 'at ${added.length}')`),
      )
    ).members;
  const [before, after] = [await pack(''), await pack("z.writestr('added', 'more')")];
  const etagOf = (members: Member[], name: string) => members.find((one) => one.name === name)?.etag;
  expect(etagOf(after, 'kept')).toBe(etagOf(before, 'kept'));
  expect(etagOf(after, 'kept')).toMatch(/^[0-9a-f]{8}-4$/);
  expect(etagOf(after, 'edited')).not.toBe(etagOf(before, 'edited'));
});

test('a zip behind a program that unpacks it is read, with offsets moved or not', async () => {
  const path = packTwo();
  const packed = readFileSync(path);
  const stub = Buffer.alloc(100_000, 'program');
  writeFileSync(path, Buffer.concat([stub, packed]));
  const appended = await openZip(path);
  expect(textOf((await appended.read('two.txt')) as Uint8Array)).toBe('2'.repeat(1000));
  execFileSync('zip', ['-qA', path]);
  const moved = await openZip(path);
  expect(moved.members).toMatchObject(appended.members.map(({ at: { first } }) => ({ at: { first } })));
  expect(textOf((await moved.read('two.txt')) as Uint8Array)).toBe('2'.repeat(1000));
});

test('a zip with a comment of 64 KB is read', async () => {
  const { names } = await openZip(packWithPython("z.comment = b'c' * 65535\nz.writestr('a', 'x')"));
  expect(names).toEqual(['a']);
});

test('a zip without members has none', async () => {
  expect(await openZip(packWithPython('pass'))).toMatchObject({ members: [], skipped: 0 });
});

test('what is no zip, or a part of one, is refused in one line that names it', async () => {
  for (const length of [21, 500, 2100]) {
    const path = packTwo();
    truncateSync(path, length);
    expect(await refusalOf(path)).toMatch(/at byte \d+: there is no end record/);
  }
  const appended = packTwo();
  appendFileSync(appended, 'garbage');
  expect(await refusalOf(appended)).toMatch(/comment length/);
  const parts = packTwo();
  patch(parts, end, 0, 4, [1, 0]);
  expect(await refusalOf(parts)).toMatch(/multi-disk/);
  const beheaded = packTwo();
  writeFileSync(beheaded, readFileSync(beheaded).subarray(100));
  expect(await refusalOf(beheaded)).toMatch(/is not before its end record/);
  const miscounted = packTwo();
  patch(miscounted, end, 0, 10, [3, 0]);
  expect(await refusalOf(miscounted)).toMatch(/2 entries, but its end says 3/);
});

test('a directory of a gigabyte is refused before it is read', async () => {
  const path = packTwo();
  truncateSync(path, 2 ** 30); // zeros, as far as it matters
  appendFileSync(
    path,
    Buffer.concat([
      Buffer.from(end, 'latin1'),
      Buffer.from([0, 0, 0, 0, 2, 0, 2, 0, ...u32(2 ** 30), ...u32(0), 0, 0]),
    ]),
  );
  expect(await refusalOf(path)).toMatch(/directory would be 1073741824 bytes long/);
});

test('members that share bytes are refused, as in a bomb without nesting', async () => {
  const path = packTwo();
  patch(path, central, 1, 42, u32(0));
  expect(await refusalOf(path)).toMatch(/two members share the same bytes/);
  // The first member's content holds the second's header and content.
  const quoting = packTwo();
  for (const offset of [20, 24]) patch(quoting, central, 0, offset, u32(1_500));
  expect(await refusalOf(quoting)).toMatch(/at byte 1037: two members share the same bytes/);
});

test('a member beyond the end is refused', async () => {
  for (const first of [1_100, 2_000, 0xffff_fff0]) {
    const path = packTwo();
    patch(path, central, 1, 42, u32(first));
    expect(await refusalOf(path)).toMatch(/an entry's content would end at/);
  }
});

test('a bomb is refused by what it declares, and stopped where it declares less', async () => {
  const bomb = readFileSync(packWithPython("z.writestr('bomb', bytes(100_000_000), ZIP_DEFLATED)"));
  const pack = () => writeZip(bomb);
  expect(await (await openZip(pack())).read('bomb')).toBe('too-many-bytes');
  const liar = pack();
  patch(liar, central, 0, 24, u32(1000));
  const before = process.resourceUsage().maxRSS;
  expect(await (await openZip(liar)).read('bomb')).toBe('corrupt');
  expect(process.resourceUsage().maxRSS - before).toBeLessThan(50_000); // kB
  const giant = pack();
  patch(giant, central, 0, 24, u32(0xffff_fffe));
  expect(await (await openZip(giant)).read('bomb')).toBe('too-many-bytes');
});

test('a member that is not what the directory says is corrupt, and so is no other', async () => {
  const damages: [string, (path: string) => void][] = [
    ['its content', (path) => patch(path, local, 0, 100, [0])],
    ['its signature', (path) => patch(path, local, 0, 0, [0])],
    ['its method', (path) => patch(path, local, 0, 8, [8])],
    ['the length of its name', (path) => patch(path, local, 0, 26, [5])],
    ['a name beyond its content', (path) => patch(path, local, 0, 26, [0xff, 0xff])],
    ['its checksum', (path) => patch(path, central, 0, 16, [0, 0, 0, 0])],
    ['its size', (path) => patch(path, central, 0, 24, u32(999))],
  ];
  for (const [what, damage] of damages) {
    const path = packTwo();
    damage(path);
    const { read } = await openZip(path);
    expect({ what, code: await read('one.txt') }).toEqual({ what, code: 'corrupt' });
    expect(textOf((await read('two.txt')) as Uint8Array)).toBe('2'.repeat(1000));
  }
});

test('a member of a zip that was replaced is changed', async () => {
  const path = packTwo();
  const { read } = await openZip(path);
  writeFileSync(path, readFileSync(packWithPython("z.writestr('one.txt', 'other')")));
  expect(await read('one.txt')).toBe('changed');
});

test('of 500 damaged zips each is refused, or each of its members is whole or fails', async () => {
  const path = packWithPython(`
z.comment = b'holiday'
z.writestr('a.jpg', b'a' * 300)
z.writestr('b.jpg', bytes(range(256)) * 2, ZIP_DEFLATED)
with z.open('c.jpg', 'w', force_zip64=True) as f: f.write(b'c' * 50)
z.writestr('sub/', '')`);
  const whole = readFileSync(path);
  const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
  const { members, read } = await openZip(path);
  const contents = new Set<string>();
  for (const { name } of members) contents.add(sha((await read(name)) as Uint8Array));
  const random = uniform(7);
  const ends: Record<string, number> = {};
  for (let round = 0; round < 500; round++) {
    const bytes = Buffer.from(whole);
    for (let flips = 1 + random() * 3; flips > 0; flips--)
      bytes[Math.floor(random() * bytes.length)] = random() * 256;
    writeFileSync(path, bytes.subarray(0, random() < 0.1 ? random() * bytes.length : undefined));
    const opened = await openZip(path).catch((error) => {
      if (error instanceof ConfigError) return error.code;
      throw error;
    });
    if (typeof opened === 'string') {
      ends[opened] = (ends[opened] ?? 0) + 1;
      continue;
    }
    for (const { name, size } of opened.members) {
      const content = await opened.read(name);
      const code = typeof content === 'string' ? content : 'ok';
      ends[code] = (ends[code] ?? 0) + 1;
      if (typeof content === 'string') continue;
      expect(content).toHaveLength(size);
      expect(contents).toContain(sha(content));
    }
  }
  expect(ends.ok).toBeGreaterThan(250);
});
