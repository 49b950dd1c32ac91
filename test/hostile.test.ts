/**
 * Hostile pictures, through the whole program: thousands of damaged ones, and bombs. Each is a row and nothing more.
 * LENSMILL_MUTANTS says how many (by default 2,000: half a minute on two cores); the table of how they ended is printed.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { execa } from 'execa';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { partsPrefix } from '../src/layout.ts';
import { readStoredPart } from '../src/parts/part.ts';
import { openStore } from '../src/stores/open-store.ts';
import { moduleUrl } from './helpers/child.ts';
import { lensmill, smallModel } from './helpers/cli.ts';
import { hugePng } from './helpers/huge-png.ts';
import { mutate, soundPictures } from './helpers/mutations.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const mutants = Number(process.env.LENSMILL_MUTANTS || 2_000);

/** Sound pictures of each kind, other ones than were damaged. */
const soundSeeds = [1, 2, 3, 4, 5, 6];

interface Row {
  id: string;
  error: string | null;
  embedding: Float32Array;
}

interface Indexed {
  exitCode: number | undefined;
  result: { failures: Record<string, number>; seconds: number };
  stderr: string;
  rows: Map<string, Row>;
}

/** Indexes and verifies a folder. */
async function index(folder: string): Promise<Indexed> {
  const output = tempFolder();
  const options = [
    '--run',
    'r',
    '--output',
    output,
    '--model',
    smallModel,
    '--lanes',
    '2',
    // A batch with a failed row would take the network as long as a full one.
    '--batch',
    '1',
    '--shard-size',
    '100',
  ];
  const { exitCode, stdout, stderr } = await lensmill(['index', folder, ...options, '--json']);
  expect((await lensmill(['verify', 'r', '--output', output])).exitCode).toBe(0);
  const store = openStore(output, s3Defaults);
  const rows = new Map<string, Row>();
  for await (const { key } of store.list(partsPrefix('r'))) {
    const { ids, errors, embeddings } = await readStoredPart(store, key);
    for (const [row, id] of ids.entries()) {
      const embedding = embeddings.subarray(row * 2048, (row + 1) * 2048);
      rows.set(id, { id, error: errors[row] ?? null, embedding });
    }
  }
  return { exitCode, result: JSON.parse(stdout), stderr, rows };
}

/** For each format, and for all of them, how many rows ended in which way. */
function tableOf(rows: readonly Row[]): Record<string, Record<string, number>> {
  const table: Record<string, Record<string, number>> = {};
  for (const [line, ends] of [...rows.map(endOf), ...rows.map((row) => ['all', endOf(row)[1]] as const)]) {
    table[line] ??= {};
    table[line][ends] = (table[line][ends] ?? 0) + 1;
  }
  return table;
}

const endOf = ({ id, error }: Row) => [extname(id).slice(1), error ?? 'ok'] as const;

test(
  'thousands of damaged pictures are a row each, and the sound ones among them are as they are alone',
  async () => {
    const [mixed, alone] = [tempFolder(), tempFolder()];
    const sound = (await Promise.all(soundSeeds.map(soundPictures))).flat();
    const gap = Math.ceil(mutants / sound.length);
    for (const [n, { name, bytes }] of sound.entries()) {
      const id = `${String(n * gap).padStart(6, '0')} sound ${name}`;
      for (const folder of [mixed, alone]) writeFileSync(join(folder, id), bytes);
    }
    let made = 0;
    for (const { name, bytes } of mutate(await soundPictures(0), mutants, 1))
      writeFileSync(join(mixed, `${String(made++).padStart(6, '0')} damaged ${name}`), bytes);

    const { exitCode, result, stderr, rows } = await index(mixed);
    const damaged = [...rows.values()].filter(({ id }) => id.includes('damaged'));
    console.log(`${damaged.length} damaged pictures in ${Math.round(result.seconds)} s, seed 1:`);
    console.table(tableOf(damaged));
    expect(exitCode).toBe(3);
    expect(damaged).toHaveLength(mutants);
    expect(rows.size).toBe(mutants + sound.length);
    const decoded = ['empty', 'unsupported-format', 'truncated', 'corrupt', 'too-many-pixels'];
    expect(decoded).toEqual(expect.arrayContaining(Object.keys(result.failures)));
    expect(stderr).not.toMatch(/worker crashed|came back from a lost worker|"suspect":true/);

    const reference = await index(alone);
    expect(reference.exitCode).toBe(0);
    expect(reference.rows.size).toBe(sound.length);
    for (const [id, row] of reference.rows) expect(rows.get(id)).toEqual(row);
  },
  60_000 + mutants * 100,
);

/** Bombs: little to read, much to do. Each is allowed the failures that are named; `null` is an embedding. */
async function makeBombs(): Promise<Record<string, { bytes: Buffer; ends: readonly string[] }>> {
  const plain = sharp(Buffer.alloc(64 * 64 * 3, 128), { raw: { width: 64, height: 64, channels: 3 } });
  const jpeg = await plain.jpeg().toBuffer();
  const gif = await plain.gif().toBuffer();
  const tiff = await plain.tiff({ compression: 'none' }).toBuffer();
  const ifd = tiff.readUInt32LE(4);
  const ifdEnd = ifd + 2 + 12 * tiff.readUInt16LE(ifd);
  return {
    'a PNG of 50,000 × 50,000': { bytes: hugePng(50_000, 50_000), ends: ['too-many-pixels'] },
    'a JPEG that says 65,500 × 65,500': { bytes: sizedJpeg(jpeg, 65_500), ends: ['too-many-pixels'] },
    'a JPEG that says 9,000 × 9,000 and has 64 × 64': {
      bytes: sizedJpeg(jpeg, 9_000),
      ends: ['truncated', 'corrupt', 'ok'],
    },
    'a GIF of 10,000 frames': { bytes: withFrames(gif, 10_000), ends: ['ok'] },
    'a TIFF of 2³¹ × 2³¹': { bytes: sizedTiff(tiff, 2 ** 31 - 1), ends: ['too-many-pixels', 'corrupt'] },
    'a TIFF of 9,000 × 9,000 without its pixels': {
      bytes: sizedTiff(tiff, 9_000),
      ends: ['truncated', 'corrupt'],
    },
    'a TIFF whose next page is its first': { bytes: withNumber(tiff, ifdEnd, ifd), ends: ['ok', 'corrupt'] },
    'a TIFF of 65,535 tags': { bytes: withNumber(tiff, ifd, 0xffff), ends: ['truncated', 'corrupt'] },
  };
}

/** Frame header, section 4: the marker, its length, the bits of a sample, height, width. */
function sizedJpeg(jpeg: Buffer, side: number): Buffer {
  const bytes = Buffer.from(jpeg);
  const at = bytes.indexOf(Buffer.from([0xff, 0xc0]));
  bytes.writeUInt16BE(side, at + 5);
  bytes.writeUInt16BE(side, at + 7);
  return bytes;
}

/** Width is tag 256, height 257, with a value of four bytes or two. */
function sizedTiff(tiff: Buffer, side: number): Buffer {
  const bytes = Buffer.from(tiff);
  const ifd = bytes.readUInt32LE(4);
  for (let at = ifd + 2; at < ifd + 2 + 12 * bytes.readUInt16LE(ifd); at += 12) {
    if (![256, 257].includes(bytes.readUInt16LE(at))) continue;
    bytes.writeUInt16LE(4, at + 2);
    bytes.writeUInt32LE(side, at + 8);
  }
  return bytes;
}

function withNumber(tiff: Buffer, at: number, number: number): Buffer {
  const bytes = Buffer.from(tiff);
  if (number > 0xffff) bytes.writeUInt32LE(number, at);
  else bytes.writeUInt16LE(number, at);
  return bytes;
}

/** The one frame, again and again, up to the closing ';'. */
function withFrames(gif: Buffer, frames: number): Buffer {
  const colours = (gif[10] ?? 0) & 0x80 ? 3 * 2 ** (((gif[10] ?? 0) & 7) + 1) : 0;
  const [head, frame] = [gif.subarray(0, 13 + colours), gif.subarray(13 + colours, -1)];
  return Buffer.concat([head, ...Array.from({ length: frames }, () => frame), Buffer.from(';')]);
}

test('a picture that is a bomb is one row, soon and in little memory', async () => {
  const folder = join(tempFolder(), 'bombs');
  mkdirSync(folder);
  const bombs = Object.entries(await makeBombs());
  for (const [n, { bytes }] of bombs.map(([, bomb]) => bomb).entries())
    writeFileSync(join(folder, `${n}`), bytes);
  // A process of its own, whose memory is nothing else's.
  const script = `
    import { readFileSync } from 'node:fs';
    const { decodeImage } = await import('${moduleUrl('src/decode.ts')}');
    const { imagenetPreprocessing: preprocessing } = await import('${moduleUrl('src/models/presets.ts')}');
    for (let n = 0; n < ${bombs.length}; n++) {
      const started = performance.now();
      const options = { preprocessing, resizeMode: 'exact', maxPixels: 1e8 };
      const bytes = readFileSync('${folder}/' + n);
      const { error = 'ok' } = await decodeImage(bytes, new Uint8Array(preprocessing.crop ** 2 * 3), options);
      const ms = performance.now() - started;
      // Since this program began; resourceUsage() counts from the fork of the one before it.
      const [, peakKb] = /VmHWM:\\s+([0-9]+)/.exec(readFileSync('/proc/self/status', 'latin1'));
      console.log(JSON.stringify({ error, ms: Math.round(ms), peakMb: Math.round(peakKb / 1024) }));
    }`;
  const { stdout } = await execa(process.execPath, ['--input-type=module', '--eval', script]);
  const ends = stdout.split('\n').map((line) => JSON.parse(line));
  console.table(Object.fromEntries(bombs.map(([name], n) => [name, ends[n]])));
  expect(ends).toHaveLength(bombs.length);
  for (const [n, [name, { ends: allowed }]] of bombs.entries()) {
    expect({ name, allowed }).toEqual({ name, allowed: expect.arrayContaining([ends[n].error]) });
    expect(ends[n].ms).toBeLessThan(10_000);
  }
  // What 100 megapixels, the limit, may take: 4 bytes each.
  expect(Math.max(...ends.map(({ peakMb }) => peakMb))).toBeLessThan(600);
});
