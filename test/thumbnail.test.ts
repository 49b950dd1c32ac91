/** Small pictures of a run's images, made from where they lie. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { planNewRun } from '../src/producer/plan-run.ts';
import { openStore } from '../src/stores/open-store.ts';
import { makeThumbnail } from '../src/thumbnail.ts';
import { openThumbnails, type Thumbnails } from '../workers/thumbnails.ts';
import { closeAfterEach } from './helpers/closing.ts';
import { contextOf } from './helpers/context.ts';
import { crashes } from './helpers/crashing-decoder.ts';
import { makeBucket, putForeignObject, testEndpoint } from './helpers/s3.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const options = { size: 64, maxPixels: 1e6 };
const home = tempFolder();
const place = (name: string): string => join(home, name);
const store = openStore(tempFolder(), s3Defaults);
const flags = {
  model: 'null',
  device: 'cpu',
  cacheDir: tempFolder(),
  s3Endpoint: testEndpoint(),
  s3Region: 'us-east-1',
};
const context = contextOf({
  ...flags,
  allowFiles: true,
  maxPixels: '1000000',
  archives: true,
  shardSize: '2',
});
const noise = { type: 'gaussian', mean: 128, sigma: 30 } as const;
const closing = closeAfterEach<Thumbnails>();

/** Red above, blue below, as it is to be seen. */
async function makeFlag(width: number, height: number) {
  const blue = {
    create: { width, height: Math.floor(height / 2), channels: 3, background: '#00f' },
  } as const;
  return sharp({ create: { width, height, channels: 3, background: '#f00' } })
    .composite([{ input: await sharp(blue).png().toBuffer(), gravity: 'south' }])
    .png()
    .toBuffer();
}

async function meanOf(
  picture: Uint8Array,
  region: { left: number; top: number; width: number; height: number },
) {
  const { channels } = await sharp(await sharp(picture).extract(region).png().toBuffer()).stats();
  return channels.slice(0, 3).map(({ mean }) => Math.round(mean));
}

beforeAll(async () => {
  process.env.NODE_OPTIONS = `--import=${join(import.meta.dirname, 'helpers/crashing-decoder.ts')}`;
  const picture = sharp({ create: { width: 300, height: 200, channels: 3, background: 'grey', noise } });
  const jpeg = await picture.jpeg().toBuffer();
  mkdirSync(place('photos/part'), { recursive: true });
  for (let n = 0; n < 7; n++) writeFileSync(place(`photos/part/${n}.jpg`), jpeg);
  writeFileSync(place('photos/part/wild.jpg'), Buffer.concat([jpeg, crashes]));
  writeFileSync(place('photos/part/words.jpg'), 'not a picture');
  const huge = { create: { width: 1001, height: 1000, channels: 3, background: 'grey' } } as const;
  await sharp(huge).png().toFile(place('photos/part/huge.png'));
  execFileSync('tar', ['-cf', place('photos/all.tar'), 'part'], { cwd: place('photos') });
  execFileSync('python3', ['-m', 'zipfile', '-c', place('photos/all.zip'), 'part'], { cwd: place('photos') });
  writeFileSync(place('list.csv'), `id,url\ncaf\u00e9,${place('photos/part/3.jpg')}\n`);
  const bucket = `s3://${await makeBucket()}`;
  await putForeignObject(new URL(bucket).host, 'in/a.jpg', jpeg);
  await store.probe();
  await planNewRun(context, store, [place('photos')], { run: 'folder' });
  const listed = contextOf({ ...flags, allowFiles: true, idColumn: 'id' });
  await planNewRun(listed, store, [place('list.csv')], { run: 'list' });
  await planNewRun(context, store, [bucket], { run: 'bucket' });
});

afterAll(() => {
  delete process.env.NODE_OPTIONS;
});

test('a thumbnail is a WebP that fits, upright and without what the camera wrote', async () => {
  const upright = await makeFlag(400, 200);
  // As a camera that was held sideways stores it.
  const stored = await sharp(await sharp(upright).rotate(-90).png().toBuffer())
    .withMetadata({ orientation: 6 })
    .jpeg({ quality: 95 })
    .toBuffer();
  const made = await makeThumbnail(stored, options);
  if ('error' in made) throw new Error(made.message);
  expect(made).toMatchObject({ width: 64, height: 32 });
  const { format, exif, icc, width } = await sharp(made.content).metadata();
  expect({ format, exif, icc, width }).toEqual({
    format: 'webp',
    exif: undefined,
    icc: undefined,
    width: 64,
  });
  const [red = 0, , someBlue = 255] = await meanOf(made.content, { left: 0, top: 0, width: 64, height: 12 });
  expect(red).toBeGreaterThan(220);
  expect(someBlue).toBeLessThan(40);
});

test('a small picture stays as it is, and a colour profile is followed', async () => {
  const small = await sharp({ create: { width: 20, height: 10, channels: 3, background: '#0f0' } })
    .withIccProfile('p3')
    .png()
    .toBuffer();
  const made = await makeThumbnail(small, options);
  if ('error' in made) throw new Error(made.message);
  expect(made).toMatchObject({ width: 20, height: 10 });
  const [red = 255, green = 0] = await meanOf(made.content, { left: 0, top: 0, width: 20, height: 10 });
  expect(red).toBeLessThan(20);
  expect(green).toBeGreaterThan(240);
});

test('of a picture that ends early there is what there is', async () => {
  const whole = await sharp(await makeFlag(400, 200))
    .jpeg()
    .toBuffer();
  expect(await makeThumbnail(whole.subarray(0, whole.length - 300), options)).toMatchObject({ width: 64 });
});

test.each([
  ['without bytes', new Uint8Array(), 'empty'],
  ['of words', Buffer.from('Dear reader'), 'unsupported-format'],
  [
    'drawn in SVG',
    Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    'unsupported-format',
  ],
])('a file %s has none, and says why', async (_, bytes, error) => {
  expect(await makeThumbnail(bytes, options)).toMatchObject({ error });
});

test.each([
  ['folder', 'part/6.jpg'],
  ['folder', 'all.tar!part/5.jpg'],
  ['folder', 'all.zip!part/0.jpg'],
  ['list', 'caf\u00e9'],
  ['bucket', 'in/a.jpg'],
])('an image of a %s is found: %s', async (run, id) => {
  const thumbnails = closing(openThumbnails(store, context.settings));
  expect(await thumbnails.make({ run, id }, 100)).toMatchObject({ width: 100, height: 67 });
});

test('one that crashes its decoder costs itself only', async () => {
  const thumbnails = closing(openThumbnails(store, context.settings));
  const ids = ['part/0.jpg', 'part/wild.jpg', 'part/words.jpg', 'part/huge.png', 'part/2.jpg'];
  const made = await Promise.all(ids.map((id) => thumbnails.make({ run: 'folder', id }, 100)));
  expect(made.map((one) => ('error' in one ? one.error : 'made'))).toEqual([
    'made', 'crashed-worker', 'unsupported-format', 'too-many-pixels', 'made',
  ]); // biome-ignore format: a line
});

test('an image that changed or went since, or that no run has, is told apart', async () => {
  const thumbnails = closing(openThumbnails(store, context.settings));
  const codeOf = async (image: { run: string; id: string }) => {
    const made = await thumbnails
      .make(image, 100)
      .catch((error: { code: string }) => ({ error: error.code }));
    return 'error' in made ? made.error : 'made';
  };
  utimesSync(place('photos/part/1.jpg'), 1, 1);
  rmSync(place('photos/part/4.jpg'));
  expect(await codeOf({ run: 'folder', id: 'part/1.jpg' })).toBe('changed');
  expect(await codeOf({ run: 'folder', id: 'part/4.jpg' })).toBe('not-found');
  expect(await codeOf({ run: 'folder', id: 'part/9.jpg' })).toBe('no-image');
  expect(await codeOf({ run: 'folder', id: 'zzz' })).toBe('no-image');
  expect(await codeOf({ run: 'nobody', id: 'a.jpg' })).toBe('no-run');
});

test('a source says no to files where they are not allowed', async () => {
  const thumbnails = closing(openThumbnails(store, { ...context.settings, allowFiles: false }));
  expect(await thumbnails.make({ run: 'list', id: 'caf\u00e9' }, 100)).toMatchObject({
    error: 'not-allowed',
  });
});

test('who no longer waits is not served, and closing ends what is under way', async () => {
  const thumbnails = closing(openThumbnails(store, context.settings));
  const gone = AbortSignal.abort(new Error('gone home'));
  const image = { run: 'folder', id: 'part/0.jpg' };
  await expect(thumbnails.make(image, 100, { signal: gone })).rejects.toThrow('gone home');
  const making = thumbnails.make(image, 100);
  await Promise.all([expect(making).rejects.toThrow('closed'), thumbnails.close()]);
});
