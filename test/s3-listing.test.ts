/** A listing that is fanned out over folders is the plain one, in less time, whatever the tree and the server. */
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import pMap from 'p-map';
import { afterEach, describe, expect, test } from 'vitest';
import { listInParallel } from '../src/s3/listing.ts';
import { Bucket } from '../src/s3/s3.ts';
import { compareBytewise } from '../src/uri.ts';
import {
  type ListingServer,
  type ListingServerOptions,
  startListingServer,
} from './helpers/listing-server.ts';
import { makeBucket, putForeignObject, testS3Options } from './helpers/s3.ts';

let server: ListingServer | undefined;
afterEach(async () => {
  await server?.close();
});

async function serve(options: ListingServerOptions): Promise<ListingServer & { bucket: Bucket }> {
  await server?.close();
  server = await startListingServer(options);
  return Object.assign(server, {
    bucket: new Bucket('s3://any', testS3Options({ endpoint: server.endpoint })),
  });
}

async function keysOf(pages: AsyncIterable<{ key: string }[]>): Promise<string[]> {
  return (await Array.fromAsync(pages)).flat().map(({ key }) => key);
}

const sorted = (keys: Iterable<string>): string[] => [...new Set(keys)].sort(compareBytewise);
const numbered = (count: number, name: (at: string) => string): string[] =>
  Array.from({ length: count }, (_, at) => name(String(at).padStart(5, '0')));

describe('on a real server', () => {
  /** As if a page had `size` objects: with 1000, a tree of odd keys would be all on the first. */
  function withPagesOf(size: number, bucket: Bucket): Pick<Bucket, 'listPage'> {
    return {
      async listPage({ token, ...options }) {
        if (options.delimiter !== undefined) return bucket.listPage(options);
        const page = await bucket.listPage({ ...options, after: token ?? options.after });
        const objects = page.objects.slice(0, size);
        return { ...page, objects, next: page.objects.length > size ? objects.at(-1)?.key : page.next };
      },
    };
  }

  test('it is the plain listing, from every place', async () => {
    // biome-ignore format: a table
    const odd = [
      'a', 'a/', 'a-b', 'a/b', 'a/b/c', 'a/b/', 'a//', 'a//b', 'a/b//c', 'a0', 'a/b0', 'a/b-', 'ab/c', 'z', '/lead', '//lead',
      'ä/ö', 'ä-', 'b\u{E000}/x', 'b😀/y', 'b😀', '\uFFFD/x', 'plus+and space/100%25', 'new\nline/x', 'deep/er/and/deep/er/x',
    ];
    const keys = sorted([...odd, ...odd.map((key) => `p/q/${key}`)]);
    const name = await makeBucket();
    for (const key of [...keys.map((key) => `in/${key}`), 'in-between'])
      await putForeignObject(name, key, Buffer.from('x'));
    const bucket = new Bucket(`s3://${name}/in`, testS3Options());
    const plain = (await Array.fromAsync(bucket.list({}))).flat();
    expect(plain.map(({ key }) => key)).toEqual(keys);
    expect((await Array.fromAsync(listInParallel(bucket, {}))).flat()).toEqual(plain);

    const cut = withPagesOf(8, bucket);
    expect((await Array.fromAsync(listInParallel(cut, {}))).flat()).toEqual(plain);
    const places = [
      'p/q',
      'p/q/a/b/c/',
      'a.',
      'between',
      '\u{10FFFF}',
      ...keys.filter((_, at) => at % 3 === 0),
    ];
    await pMap(
      places,
      async (after) => {
        const behind = keys.filter((key) => compareBytewise(key, after) > 0);
        expect(await keysOf(listInParallel(cut, { after })), after).toEqual(behind);
      },
      { concurrency: 4 },
    );
    bucket.close();
  });
});

describe('whatever the tree and the server', () => {
  test.each(['known', 'ignored', 'mixed', 'refused'] as const)(
    'a delimiter that is %s',
    async (delimiter) => {
      const key = fc
        .array(fc.constantFrom('a', 'b', '/', '/', '-', '0', 'ä', '😀', '\u{E000}'), {
          minLength: 1,
          maxLength: 7,
        })
        .map((letters) => letters.join(''));
      await fc.assert(
        fc.asyncProperty(fc.array(key, { maxLength: 60 }), key, async (given, after) => {
          const keys = sorted(given);
          const { bucket } = await serve({ keys, pageSize: 3, delimiter });
          expect(await keysOf(listInParallel(bucket, {}))).toEqual(keys);
          const behind = keys.filter((other) => compareBytewise(other, after) > 0);
          expect(await keysOf(listInParallel(bucket, { after }))).toEqual(behind);
          bucket.close();
        }),
        { numRuns: 25 },
      );
    },
  );

  test('a few large folders, deep in the tree, are listed at once', async () => {
    const keys = sorted(
      numbered(12, (month) => month).flatMap((month) =>
        numbered(2_500, (at) => `photos/2024/${month}/${at}`),
      ),
    );
    const { bucket, requests } = await serve({ keys, latencyMs: 100 });
    expect(await keysOf(listInParallel(bucket, {}))).toEqual(keys);
    expect(server?.atOnce).toBeGreaterThanOrEqual(8);
    expect(requests.length).toBeLessThan(60);
  });

  test.each([
    ['20,000 folders of one file', numbered(20_000, (at) => `${at}/file`), 25],
    ['one file in each of 12 × 12 × 12 × 12 folders', folders(4, 12), 200],
    [
      '600 folders of one file, three times within each other',
      folders(1, 600).flatMap((a) => [a, `${a}/b`, `${a}/b/c`]),
      10,
    ],
    ['a flat folder', numbered(20_000, (at) => at), 25],
    ['a chain of folders', numbered(2_000, (at) => `${'x/'.repeat(Number(at) % 400)}${at}`), 10],
  ])('%s: no request an object', async (_name, given, most) => {
    const keys = sorted(given);
    const { bucket, requests } = await serve({ keys });
    expect(await keysOf(listInParallel(bucket, {}))).toEqual(keys);
    expect(requests.length).toBeLessThanOrEqual(most);
  });

  test('no more is asked for than a bounded way ahead of the reader, and nothing once it has left', async () => {
    const keys = sorted(
      numbered(100, (folder) => folder).flatMap((folder) => numbered(3_000, (at) => `${folder}/${at}`)),
    );
    const { bucket, requests } = await serve({ keys });
    const pages = listInParallel(bucket, {});
    for (let page = 0; page < 4; page++) await pages.next();
    await sleep(300);
    expect(requests.length).toBeLessThan(100);
    await pages.return(undefined);
    await sleep(300);
    expect(requests.length).toBeLessThan(100);
  });

  test('what fails in a part that is listed ahead fails where it is reached', async () => {
    const keys = sorted(
      numbered(10, (folder) => folder).flatMap((folder) => numbered(1_500, (at) => `${folder}/${at}`)),
    );
    const { bucket } = await serve({ keys });
    const signal = AbortSignal.timeout(1);
    await expect(keysOf(listInParallel(bucket, { signal }))).rejects.toMatchObject({ name: 'TimeoutError' });
  });
});

/** One file at the end of every way through `depth` levels of `count` folders. */
function folders(depth: number, count: number): string[] {
  let ways = [''];
  for (let level = 0; level < depth; level++)
    ways = ways.flatMap((way) => numbered(count, (at) => `${way}${at}/`));
  return ways.map((way) => `${way}file`);
}
