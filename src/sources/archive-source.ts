/** Items from one archive. An id is a member's name. */
import { type ArchiveKind, type Member, memberUri } from '../archives/archive.ts';
import { type Archives, openArchives } from '../archives/archive-kinds.ts';
import { ConfigError } from '../errors.ts';
import type { Objects } from '../objects/objects.ts';
import { persistent } from '../objects/persistent.ts';
import { publicUrl } from '../objects/web-url.ts';
import type { Item } from '../types.ts';
import { rawOfText } from '../uri.ts';
import { compileGlobs, type GlobFilter } from './globs.ts';
import { type Globs, type ItemPage, type ItemRead, ReadError, type Source } from './source.ts';

const pageSize = 1000;

export class ArchiveSource implements Source {
  readonly uri: string;
  /** `uri`, and with its signature where it has one. */
  readonly #archive: string;
  readonly #kind: ArchiveKind;
  readonly #globs: GlobFilter;
  readonly #objects: Objects;
  readonly #archives: Archives;

  /** `objects` is this source's, and closed with it. Throws ConfigError 'bad-glob'. */
  constructor(uri: string, kind: ArchiveKind, globs: Globs, objects: Objects) {
    this.uri = publicUrl(uri);
    this.#archive = uri;
    this.#kind = kind;
    this.#globs = compileGlobs(globs);
    this.#objects = objects;
    this.#archives = openArchives(objects);
  }

  async probe(): Promise<void> {
    try {
      await persistent(this.#objects).stat(this.#archive);
    } catch (error) {
      throw explainList(error, this.uri);
    }
  }

  /** Throws ConfigError 'bad-archive' too. */
  async *list({ after, signal }: { after?: string; signal?: AbortSignal } = {}): AsyncGenerator<ItemPage> {
    const listed = await this.#archives.list(this.#kind, this.#archive, signal).catch((error) => {
      signal?.throwIfAborted();
      throw explainList(error, this.uri);
    });
    const { members, skipped } = chooseMembers(listed, '', { after, globs: this.#globs });
    for (let first = 0; first < members.length || first === 0; first += pageSize) {
      signal?.throwIfAborted();
      const items = members.slice(first, first + pageSize).map((member) => itemOf(this.#archive, '', member));
      if (items.length + skipped > 0) yield { items, skipped: first === 0 ? skipped : 0 };
    }
  }

  read(item: Item, options: ItemRead): Promise<Uint8Array> {
    return this.#archives.read(this.#kind, item, options);
  }

  close(): Promise<void> {
    return this.#archives.close();
  }
}

/**
 * Of what an archive holds, the items whose ids, `prefix` and name, come behind `after`. What is no item is counted as skipped;
 * what is not even a member, only by a listing that begins with the archive, not by one that goes on in it.
 */
export function chooseMembers(
  listed: { members: Member[]; skipped: number },
  prefix: string,
  { after = '', globs }: { after?: string | undefined; globs: GlobFilter },
): { members: Member[]; skipped: number } {
  const start = rawOfText(after);
  const later =
    after === '' ? listed.members : listed.members.filter(({ name }) => rawOfText(prefix + name) > start);
  const members = later.filter(({ name }) => globs.isItem(prefix + name));
  return { members, skipped: later.length - members.length + (after === '' ? listed.skipped : 0) };
}

export function itemOf(archive: string, prefix: string, { name, ...facts }: Member): Item {
  return { id: prefix + name, uri: memberUri(archive, name), ...facts };
}

/** What keeps an archive, or a picture on the web, from being listed becomes what its operator can do. */
export function explainList(error: unknown, uri: string): unknown {
  if (!(error instanceof ReadError)) return error;
  const name = publicUrl(uri);
  const options = { cause: error };
  switch (error.code) {
    case 'not-found':
      return new ConfigError('no-source', `nothing at ${name}: correct the path of the source`, options);
    case 'access-denied':
      return new ConfigError(
        'access-denied',
        `${name} cannot be read (${error.message}): make it readable`,
        options,
      );
    case 'changed':
      return new ConfigError('source-changed', `${name} changed while it was listed: begin again`, options);
    case 'not-allowed':
      return new ConfigError('not-allowed', `${name} is not read: ${error.message}`, options);
    default:
      return new ConfigError('store-unreachable', `${name} cannot be read: ${error.message}`, options);
  }
}
