/**
 * Items from a folder and all that is below it.
 *
 * The walk holds the names of one folder per level, so memory is bounded by the largest single folder (some 50 bytes a
 * file in it), not by the tree. Symbolic links are followed, but never into a folder that contains them. Nothing is
 * lost on the way: a file that cannot be examined is listed and fails when read, a folder that cannot be listed stops
 * the listing.
 *
 * Names that are not UTF-8 have no text form; see `escapeName` (uri.ts).
 */
import type { Dirent } from 'node:fs';
import { opendir, realpath, stat } from 'node:fs/promises';
import pMap from 'p-map';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import { openFileObjects } from '../objects/file.ts';
import type { Item } from '../types.ts';
import { escapeName, fileUri, fsPath, type RawPath, rawOfText, textOfRaw, unescapeName } from '../uri.ts';
import { compileGlobs, type GlobFilter } from './globs.ts';
import type { Globs, ItemPage, Source } from './source.ts';

/** Objects looked at per page. */
const pageSize = 1000;

/** Stats in flight: enough for a network file system; a local disk is happy with 4. */
const concurrency = 64;

export class FolderSource implements Source {
  readonly uri: string;
  /** Ends in '/'. */
  readonly #root: RawPath;
  readonly #globs: GlobFilter;
  readonly #files = openFileObjects();

  /** `root` is an absolute path. Throws ConfigError 'bad-glob'. */
  constructor(root: string, globs: Globs) {
    this.uri = fileUri(rawOfText(root));
    this.#root = withSlash(rawOfText(root));
    this.#globs = compileGlobs(globs);
  }

  async probe(): Promise<void> {
    await openFolder(this.#root, '', this.#root);
  }

  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    const start = rawOfText(after ?? '');
    const stack = [await openFolder(this.#root, '', await realFolder(this.#root))];
    let skipped = stack[0]?.others ?? 0;
    let keys: string[] = [];
    for (let folder = stack[0]; folder; folder = stack.at(-1)) {
      const name = folder.names[folder.next++];
      if (name === undefined) {
        stack.pop();
        continue;
      }
      const key = folder.key + name;
      const isFolder = name.endsWith('/');
      // A file up to `after`, or a folder with nothing beyond it.
      if (key <= start && !(isFolder && start.startsWith(key))) continue;
      if (!isFolder) {
        if (this.#globs.isItem(textOfRaw(key))) keys.push(key);
        else skipped++;
      } else if (this.#globs.isFolderExcluded(textOfRaw(key.slice(0, -1)))) {
        skipped++;
      } else {
        signal?.throwIfAborted();
        const path = this.#pathOf(key);
        const real = folder.linked.has(name) ? await realFolder(path) : folder.real + unescapeName(name);
        const isLoop = stack.some((above) => above.real === real);
        const inner = isLoop ? undefined : await openFolder(path, key, real);
        skipped += inner?.others ?? 1;
        if (inner) stack.push(inner);
      }
      if (keys.length + skipped < pageSize) continue;
      signal?.throwIfAborted();
      yield { items: await this.#itemsOf(keys), skipped };
      keys = [];
      skipped = 0;
    }
    if (keys.length + skipped > 0) yield { items: await this.#itemsOf(keys), skipped };
  }

  read(item: Item, { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal }): Promise<Uint8Array> {
    const uri = fileUri(this.#pathOf(rawOfText(item.id)));
    return this.#files.read(uri, { etag: item.etag, maxBytes, signal });
  }

  async refresh(item: Item): Promise<Item> {
    const now = await this.#itemOf(rawOfText(item.id));
    return now.etag === '' ? item : now;
  }

  close(): Promise<void> {
    return this.#files.close();
  }

  #itemsOf(keys: string[]): Promise<Item[]> {
    return pMap(keys, (key) => this.#itemOf(key), { concurrency });
  }

  async #itemOf(key: string): Promise<Item> {
    const uri = fileUri(this.#pathOf(key));
    const unknown = { etag: '', size: 0 }; // a dangling link, a loop of links, no access: `read` says which
    return { id: textOfRaw(key), uri, ...(await this.#files.stat(uri).catch(() => unknown)) };
  }

  #pathOf(key: string): RawPath {
    return this.#root + unescapeName(key);
  }
}

/** A folder on the way from the root to where the walk stands. */
interface OpenFolder {
  /** Id of what is in it, up to and with the last '/'; '' for the root. */
  key: RawPath;
  /** Its path with all symbolic links resolved, ending in '/'. */
  real: RawPath;
  /** Escaped, ordered; a folder's ends in '/', which orders it as the ids of its files: 'a-b', 'a.jpg', 'a/'. */
  names: string[];
  /** Of `names`, the folders that are symbolic links. */
  linked: Set<string>;
  /** Sockets, FIFOs, devices. */
  others: number;
  /** Index of the name that the walk looks at next. */
  next: number;
}

/** Throws ConfigError: 'no-source' for the root, 'access-denied'. A folder that vanished since it was seen is empty. */
async function openFolder(path: RawPath, key: RawPath, real: RawPath): Promise<OpenFolder> {
  const folder: OpenFolder = { key, real, names: [], linked: new Set(), others: 0, next: 0 };
  const links: string[] = [];
  try {
    // The declared type does not know that this encoding gives Buffers; with 'latin1' Node would misread non-ASCII
    // names where the file system leaves their type to lstat.
    const options = { encoding: 'buffer' as BufferEncoding, bufferSize: 1024 };
    const entries = (await opendir(fsPath(path), options)) as unknown as AsyncIterable<Dirent<Buffer>>;
    for await (const entry of entries) {
      const name = escapeName(entry.name.toString('latin1'));
      if (entry.isFile()) folder.names.push(name);
      else if (entry.isDirectory()) folder.names.push(`${name}/`);
      else if (entry.isSymbolicLink()) links.push(name);
      else folder.others++;
    }
  } catch (error) {
    const isGone = ['ENOENT', 'ENOTDIR'].includes(errnoOf(error) ?? '');
    if (key === '' || !isGone) throw explainList(error, path, key);
  }
  const kinds = await pMap(links, (name) => kindOfTarget(path + unescapeName(name)), { concurrency });
  for (const [at, name] of links.entries()) {
    if (kinds[at] === 'folder') folder.linked.add(`${name}/`);
    if (kinds[at] === 'other') folder.others++;
    else folder.names.push(kinds[at] === 'folder' ? `${name}/` : name);
  }
  folder.names.sort();
  return folder;
}

/** A link that leads nowhere counts as a file: it is listed, and fails when it is read. */
async function kindOfTarget(path: RawPath): Promise<'folder' | 'file' | 'other'> {
  const stats = await stat(fsPath(path)).catch(() => undefined);
  if (stats?.isDirectory()) return 'folder';
  return !stats || stats.isFile() ? 'file' : 'other';
}

async function realFolder(path: RawPath): Promise<RawPath> {
  try {
    return withSlash((await realpath(fsPath(path), 'buffer')).toString('latin1'));
  } catch {
    return path; // vanished, or not ours to look at: opening it says so
  }
}

function withSlash(path: RawPath): RawPath {
  return path.endsWith('/') ? path : `${path}/`;
}

function explainList(error: unknown, path: RawPath, key: RawPath): unknown {
  const name = textOfRaw(path);
  const code = errnoOf(error);
  const options = { cause: error };
  switch (code) {
    case 'ENOENT':
      return new ConfigError('no-source', `no folder '${name}': correct the path of the source`, options);
    case 'ENOTDIR':
      return new ConfigError('no-source', `'${name}' is a file: name the folder that holds it`, options);
    case 'EACCES':
    case 'EPERM': {
      const leaveOut = key === '' ? '' : `, or leave it out with --exclude '${textOfRaw(key)}**'`;
      return new ConfigError(
        'access-denied',
        `'${name}' cannot be listed (${code}): make it readable${leaveOut}`,
        options,
      );
    }
    default:
      return error;
  }
}
