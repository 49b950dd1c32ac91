/**
 * Items that a list names: a table of URIs in a file, on S3 or on the web (manifest.ts says of which formats).
 *
 * A list has any order and a source has one, so the rows are sorted first (sorted.ts), on disk where they are many. What is
 * wrong with the list as a whole, or makes a row no row, stops the listing; a row that names what nothing reads is an item that
 * fails, like a picture that is gone.
 */
import { dirname, isAbsolute, resolve } from 'node:path';
import { ConfigError } from '../errors.ts';
import type { ListRow } from '../lists/columns.ts';
import { badRow, readManifest } from '../lists/manifest.ts';
import { type Entry, type SortOptions, sortEntries } from '../lists/sorted.ts';
import type { Objects } from '../objects/objects.ts';
import { hasCredentials, publicUrl } from '../objects/web-url.ts';
import type { Item } from '../types.ts';
import { fileUri, isWebUri, pathOfFileUri, type RawPath, rawOfText, schemeOf, textOfRaw } from '../uri.ts';
import { compileGlobs, type GlobFilter } from './globs.ts';
import { type Globs, type ItemPage, type ListColumns, ReadError, type Source } from './source.ts';

export interface ListOptions {
  /** The list may name files. */
  allowFiles: boolean;
  /** For tests. */
  sort?: Pick<SortOptions, 'runBytes' | 'folder'>;
}

export class ListSource implements Source {
  readonly uri: string;
  /** `uri`, and with its signature where it has one. */
  readonly #list: string;
  /** What relative paths are relative to; nothing where the list is not a file. */
  readonly #folder: RawPath | undefined;
  readonly #columns: ListColumns;
  readonly #globs: GlobFilter;
  readonly #objects: Objects;
  readonly #options: ListOptions;

  /** `uri` is canonical. Closes `objects` when it is closed. Throws ConfigError 'bad-glob'. */
  constructor(uri: string, columns: ListColumns, globs: Globs, objects: Objects, options: ListOptions) {
    this.uri = publicUrl(uri);
    this.#list = uri;
    const path = pathOfFileUri(uri);
    this.#folder = path && dirname(path);
    this.#columns = columns;
    this.#globs = compileGlobs(globs);
    this.#objects = objects;
    this.#options = options;
  }

  async probe(): Promise<void> {
    for await (const row of readManifest(this.#list, this.#objects, this.#columns)) {
      if (this.#globs.isItem(row.id)) this.#uriOf(row);
      break;
    }
  }

  /**
   * As any source's. Etags and sizes are not known yet: '' and 0. Throws what `readManifest` throws, and ConfigError
   * 'duplicate-id', 'credentials-in-list', 'files-not-allowed', 'disk-full', 'not-writable'.
   */
  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    let last: { id: string; line: number } | undefined;
    for await (const entries of sortEntries(this.#entries(after, signal), {
      ...this.#options.sort,
      signal,
    })) {
      const page: ItemPage = { items: [], skipped: 0 };
      for (const { key, value } of entries) {
        if (value === leftOut) {
          page.skipped++;
          continue;
        }
        const [line, uri, extra]: Row = JSON.parse(value); // as `#entries` wrote it
        const id = textOfRaw(key);
        if (id === last?.id) {
          if (this.#columns.id !== null) throw this.#duplicateId(id, last.line, line);
          page.skipped++;
          continue;
        }
        last = { id, line };
        page.items.push({ id, uri, etag: '', size: 0, ...(extra && { extra }) });
      }
      yield page;
    }
  }

  async read(item: Item, options: { maxBytes: number; signal?: AbortSignal }): Promise<Uint8Array> {
    options.signal?.throwIfAborted();
    this.#throwIfUnreadable(item);
    return this.#objects.read(item.uri, { etag: item.etag, ...options });
  }

  async refresh(item: Item): Promise<Item> {
    try {
      this.#throwIfUnreadable(item);
      return { ...item, ...(await this.#objects.stat(item.uri)) };
    } catch (error) {
      if (error instanceof ReadError) return item;
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#objects.close();
  }

  /** What comes after `after`, ready to be sorted. What the globs leave out is there too, to be counted in its place. */
  async *#entries(after: string | undefined, signal: AbortSignal | undefined): AsyncGenerator<Entry> {
    const start = after === undefined ? undefined : rawOfText(after);
    for await (const row of readManifest(this.#list, this.#objects, this.#columns, { signal })) {
      const key = rawOfText(row.id);
      if (start !== undefined && key <= start) continue;
      if (!this.#globs.isItem(row.id)) {
        yield { key, value: leftOut };
      } else {
        const fields: Row = [row.line, this.#uriOf(row), row.extra];
        yield { key, value: JSON.stringify(fields) };
      }
    }
  }

  /** Throws ConfigError 'credentials-in-list', 'files-not-allowed'. */
  #uriOf({ uri: text, line }: ListRow): string {
    const refuse = (code: string, what: string) =>
      new ConfigError(code, badRow(this.#list, line, what).message);
    if (hasCredentials(text) || unparsedCredentials.test(text)) {
      throw refuse(
        'credentials-in-list',
        'has a name or password in its URL, which every result would show: remove it',
      );
    }
    const uri = canonicalUri(text, this.#folder);
    if (this.#options.allowFiles || !isFile(uri)) return uri;
    throw refuse('files-not-allowed', `names the file ${uri}: --allow-files lets a list do that`);
  }

  /** Before anything is opened: an item comes from a plan, and whoever can write to the store can write those. */
  #throwIfUnreadable({ uri }: Item): void {
    if (archiveMember.test(uri))
      throw new ReadError(
        'bad-uri',
        `'${publicUrl(uri)}' is a member of an archive: name the archive as a source`,
      );
    if (isFile(uri) && !this.#options.allowFiles)
      throw new ReadError('not-allowed', `${uri} is a file, and this worker runs without --allow-files`);
    if (schemeOf(uri) === 'file' && !isFile(uri))
      throw new ReadError('bad-uri', `'${publicUrl(uri)}' is no URL, and no path where this list lies`);
  }

  #duplicateId(id: string, first: number, second: number): ConfigError {
    const { message } = badRow(
      this.#list,
      second,
      `has the id '${id}', which ${first} has already: ids must be unique`,
    );
    return new ConfigError('duplicate-id', message);
  }
}

/** Line, URI and what is kept of a row, as it waits to be sorted. */
type Row = [line: number, uri: string, extra?: ListRow['extra']];

/** In the place of a `Row`. */
const leftOut = '';

const archiveMember = /\.(tar|tar\.\w+|tgz|tzst|zip)!/i;

/** 'http://NAME:PASSWORD@' before what is no host: no URL, but a password all the same. */
const unparsedCredentials = /^(?!file:)[a-z][a-z0-9+.-]*:[/\\]{2}[^/\\?#]*@/i;

/** A path, where it is relative, from `folder`; without one it names nothing and stays as it is, as does what is no URI. */
function canonicalUri(text: string, folder: RawPath | undefined): string {
  if (isWebUri(text)) return URL.parse(text)?.href ?? text;
  if (/^s3:\/\//i.test(text)) return `s3${text.slice(2)}`;
  if (/^file:/i.test(text)) {
    const path = pathOfFileUri(text);
    return path === undefined ? text : fileUri(resolve(path));
  }
  const isPath = schemeOf(text) === 'file' && (folder !== undefined || isAbsolute(text));
  return isPath ? fileUri(resolve(folder ?? '/', rawOfText(text))) : text;
}

function isFile(uri: string): boolean {
  return schemeOf(uri) === 'file' && pathOfFileUri(uri) !== undefined;
}
