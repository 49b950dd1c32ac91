/**
 * What `lensmill search` searches by. A word is, in this order:
 *   1. what its beginning says: `file:PATH`, `id:ID` (an id, uri or key of the index), a URL, `s3://…`
 *   2. a file, where one lies at this path
 *   3. an image of the index, by id, uri or key
 * What the index holds as it is now is not embedded again: its embedding is there.
 */
import { resolve } from 'node:path';
import { fileQuery, imageQuery, isFile, type Query, urlQuery } from '../search/queries.ts';
import type { SearchIndex } from '../search/search-index.ts';
import { isWebUri, pathOfUri, schemeOf } from '../uri.ts';

/** Throws ConfigError 'no-image', 'no-file', 'unsupported-format', 'bad-uri' that names the word. */
export async function findQuery(index: SearchIndex, word: string): Promise<Query> {
  if (word.startsWith('id:')) return imageQuery(index, word.slice('id:'.length));
  if (word.startsWith('file:')) {
    return fileQuery(
      index,
      word.startsWith('file://') ? pathOfUri(word) : resolve(word.slice('file:'.length)),
      word,
    );
  }
  if (isWebUri(word) || schemeOf(word) !== 'file') return urlQuery(index, word);
  if (await isFile(resolve(word))) return fileQuery(index, resolve(word), word);
  return imageQuery(index, word, 'no file here, and no image of the index');
}
