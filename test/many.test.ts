/** Several sources as one: whose id is whose, in which order, and that each item is read where it lies. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FolderSource } from '../src/sources/folder.ts';
import { manySources, type NamedSource } from '../src/sources/many.ts';
import type { ItemPage, Source } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import { compareBytewise } from '../src/uri.ts';
import { tempFolder } from './helpers/temp.ts';

const maxBytes = 1_000;

/** A folder below `root`, with these files in it, whose content is the folder's path and theirs. */
function folder(root: string, path: string, files: readonly string[]): NamedSource {
  for (const file of files) {
    mkdirSync(dirname(join(root, path, file)), { recursive: true });
    writeFileSync(join(root, path, file), `${path}: ${file}`);
  }
  const source = new FolderSource(join(root, path), { include: ['**'], exclude: ['**/*.txt'] });
  return { uri: source.uri, source };
}

/** A source that only lists, under any URI. */
function listing(uri: string, ids: readonly string[]): NamedSource {
  const source: Source = {
    uri,
    probe: async () => undefined,
    async *list({ after } = {}): AsyncGenerator<ItemPage> {
      const rest = ids.filter((id) => after === undefined || compareBytewise(id, after) > 0);
      yield { items: rest.map((id) => ({ id, uri: `${uri}/${id}`, etag: '', size: 0 })), skipped: 0 };
    },
    read: () => Promise.reject(new Error('not read here')),
    close: async () => undefined,
  };
  return { uri, source };
}

async function listAll(source: Source, after?: string) {
  const pages = await Array.fromAsync(source.list(after === undefined ? {} : { after }));
  const items = pages.flatMap((page) => page.items);
  const skipped = pages.reduce((sum, page) => sum + page.skipped, 0);
  return { items, skipped, ids: items.map(({ id }) => id) };
}

async function labelsOf(uris: readonly string[]): Promise<string[]> {
  const { items } = await listAll(manySources(uris.map((uri) => listing(uri, ['x']))));
  return uris.map((uri) => items.find((item) => item.uri === `${uri}/x`)?.id.slice(0, -2) ?? 'none');
}

describe('many sources', () => {
  test('have ids that begin with the last segment of their URI, in the order of bytes', async () => {
    const root = tempFolder();
    const paths = ['2/a', '1/a b', '1/a.b', '1/a', '1/a-b', '1/ü', '1/\u{1F600}', '1/\uE000', '1/A'];
    const many = manySources(paths.map((path) => folder(root, path, ['x.jpg', 'sub/y.jpg', 'z.txt'])));
    await many.probe();
    const { items, ids, skipped } = await listAll(many);
    expect(ids).toEqual(ids.toSorted(compareBytewise));
    const labels = ['A', 'a b', 'a-b', 'a.b', 'a', 'a~2', 'ü', '\uE000', '\u{1F600}'];
    expect(ids).toEqual(labels.flatMap((label) => [`${label}/sub/y.jpg`, `${label}/x.jpg`]));
    expect(skipped).toBe(paths.length);

    const bodies = await Promise.all(items.map((item) => many.read(item, { maxBytes })));
    const pathOf = (id: string) => paths.find((path) => path.slice(2) === id.split('/')[0]) ?? '1/a';
    expect(bodies.map((body) => Buffer.from(body).toString())).toEqual(
      ids.map((id) => `${pathOf(id)}: ${id.slice(id.indexOf('/') + 1)}`),
    );
    for (const [at, id] of ids.entries()) {
      expect((await listAll(many, id)).ids).toEqual(ids.slice(at + 1));
      expect(await many.refresh?.(items[at] as Item)).toEqual(items[at]);
    }
    await many.close();
    await many.close();
  });

  test('go on after any text, whether or not a source begins so', async () => {
    const label = fc.constantFrom('a', 'a b', 'a.b', 'a0', 'a~2', '!', 'ü', '\uE000', '😀');
    const labels = fc.array(label, { minLength: 2, maxLength: 6 });
    const ids = fc.uniqueArray(fc.constantFrom('!', '/', '0', 'a', 'a/b', 'ü', '😀'), { maxLength: 5 });
    const after = fc.oneof(
      label,
      fc.string({ maxLength: 4 }),
      fc.tuple(label, ids).map(([a, b]) => [a, ...b].join('/')),
    );
    await fc.assert(
      fc.asyncProperty(labels, ids, after, async (labels, ids, after) => {
        const sorted = ids.toSorted(compareBytewise);
        const many = manySources(labels.map((name, nth) => listing(`s3://b/${nth}/${name}`, sorted)));
        const all = (await listAll(many)).ids;
        expect(all).toHaveLength(labels.length * ids.length);
        expect(all).toEqual([...new Set(all)].sort(compareBytewise));
        expect((await listAll(many, after)).ids).toEqual(all.filter((id) => compareBytewise(id, after) > 0));
      }),
    );
  });

  test('of one name are numbered in the order of the command, whatever else is called so', async () => {
    expect(await labelsOf(['s3://b/x/a', 's3://b/y/a', 's3://b/a~2', 's3://b/z/a'])).toEqual([
      'a',
      'a~2',
      'a~2~2',
      'a~3',
    ]);
    expect(await labelsOf(['s3://b/a~2', 's3://b/x/a', 's3://b/y/a'])).toEqual(['a~2', 'a', 'a~3']);
  });

  test('are named as a person would write them', async () => {
    const labels = {
      'file:///photos/my%20holiday': 'my holiday',
      'file:///photos/100%25': '100%',
      'file:///photos/caf%E9': 'caf%E9',
      'file:///': 'root',
      's3://bucket': 'bucket',
      's3://bucket/100%25?#': '100%25?#',
      'https://example.org/lists/a%2Fb.csv?sig=x/y': 'a%2Fb.csv',
      'https://example.net/': 'example.net',
    };
    expect(await labelsOf(Object.keys(labels))).toEqual(Object.values(labels));
  });

  test('change nothing of an item but its id', async () => {
    const at = { archive: 'v1', first: 512, count: 3 };
    const item: Item = { id: 'm', uri: 's3://b/a.tar!m', etag: 'e', size: 3, at, extra: { k: [1] } };
    const asked: Item[] = [];
    const archive: Source = {
      ...listing('s3://b/a.tar', []).source,
      async *list() {
        yield { items: [item], skipped: 0 };
      },
      async read(one) {
        asked.push(one);
        return new Uint8Array();
      },
      refresh: async (one) => ({ ...one, etag: 'now' }),
    };
    const many = manySources([{ uri: 's3://b/a.tar', source: archive }, listing('s3://b/c', ['x'])]);
    const [first, second] = (await listAll(many)).items as [Item, Item];
    expect(first).toEqual({ ...item, id: 'a.tar/m' });
    await many.read(first, { maxBytes });
    expect(asked).toEqual([item]);
    expect(await many.refresh?.(first)).toEqual({ ...first, etag: 'now' });
    expect(await many.refresh?.(second)).toEqual(second);
    expect(many.uri).toBe('s3://b/a.tar s3://b/c');
    await expect(many.read({ ...first, id: 'other/m' }, { maxBytes })).rejects.toThrow('this is a bug');
  });

  test('cannot name one source twice', () => {
    const one = listing('s3://b/a', []);
    expect(() => manySources([one, listing('s3://b/c', []), one])).toThrow(
      expect.objectContaining({ name: 'ConfigError', code: 'same-source-twice' }),
    );
  });
});
