/** Links between README.md and the pages of docs/, and from them to the repository's files. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const pages = ['README.md', 'CHANGELOG.md', ...globSync('docs/*.md', { cwd: root })];

test('every link leads to a file that is there, and to a heading of it', () => {
  const lost = pages.flatMap((page) => {
    const links = [...read(page).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g)];
    return links.flatMap(([, path = '', anchor]) => {
      const target = path === '' ? page : join(dirname(page), path);
      const isThere =
        existsSync(join(root, target)) && (anchor === undefined || anchorsOf(target).includes(anchor));
      return isThere ? [] : `${page}: ${target}${anchor === undefined ? '' : `#${anchor}`}`;
    });
  });
  expect(lost).toEqual([]);
});

/** As GitHub makes them of headings, and those that are set. */
function anchorsOf(page: string): string[] {
  const text = read(page);
  const headings = [...text.replaceAll(/^```.*?^```/gms, '').matchAll(/^#+ (.*)$/gm)];
  return [
    ...headings.map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}_\- ]/gu, '')
        .replaceAll(' ', '-'),
    ),
    ...[...text.matchAll(/<a id="([^"]+)">/g)].map(([, id = '']) => id),
  ];
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}
