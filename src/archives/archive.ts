/**
 * Files that hold others. A member of this family lists what is in an archive and reads one of it, over ranged reads of the
 * archive or one pass through it; nothing is unpacked to disk. test/archives.test.ts holds every member to this contract.
 *
 * Names are ids and nothing else: nobody opens a path by them, so '..', '/etc/passwd' or 64 KB of them do no harm.
 */
import { ConfigError } from '../errors.ts';
import type { ObjectFacts, Objects } from '../objects/objects.ts';
import { publicUrl } from '../objects/web-url.ts';
import type { ItemRead } from '../sources/source.ts';
import type { Item } from '../types.ts';
import { escapeInUri, rawOfText } from '../uri.ts';

export interface ArchiveKind {
  /** Lower case, with their dot: '.tar'. */
  readonly extensions: readonly string[];

  /** Whatever this thread needs to read archives of this kind. */
  open(objects: Objects): ArchiveReader;
}

export interface ArchiveReader {
  /**
   * Every file in it, ordered bytewise by name, each name once (of several with one name the last counts, as when it is
   * unpacked; the others are `skipped`, as are folders, links and devices). Holds the names of one archive in memory.
   * Throws ConfigError 'bad-archive', naming archive and offset, where it is damaged, where it has more members
   * than `maxMembers`, and where it has no bytes; ReadError as `Objects` does.
   */
  list(
    uri: string,
    facts: ObjectFacts,
    options?: { signal?: AbortSignal | undefined },
  ): Promise<{ members: Member[]; skipped: number }>;

  /** As `Source.read`, for an item that `list` made a member of. */
  read(item: Item, options: ItemRead): Promise<Uint8Array>;

  /** Safe to call twice. */
  close(): Promise<void>;
}

/** What `list` knows of an item; its id is its archive's, '!', and `name`, and its URI is `memberUri`. */
export interface Member extends Pick<Item, 'etag' | 'size' | 'extra'> {
  /** With '/' between folders and without a leading './'. What is not UTF-8 is escaped as in a folder (`escapeName`). */
  name: string;
  at: NonNullable<Item['at']>;
}

/** A central directory or tar of more entries is refused: their names would not fit into memory. */
export const maxMembers = 10_000_000;

/** The name is escaped as in a `file:` URI, '!' too: the last '!' of a member's URI is the one behind its archive's. */
export function memberUri(archive: string, name: string): string {
  return `${archive}!${escapeInUri(rawOfText(name)).replaceAll('!', '%21')}`;
}

/** The archive's URI of a member's. */
export function archiveUriOf({ uri }: Pick<Item, 'uri'>): string {
  const end = uri.lastIndexOf('!');
  if (end < 0) throw new Error(`${uri} is no member of an archive: this is a bug`);
  return uri.slice(0, end);
}

/** An item's URI as it may be shown to anybody, and as the output has it; see `publicUrl`. */
export function publicUri(item: Pick<Item, 'uri' | 'at'>): string {
  if (!item.at) return publicUrl(item.uri);
  const archive = archiveUriOf(item);
  return publicUrl(archive) + item.uri.slice(archive.length);
}

/** For what is read from where it needs: a server that tells no size would make an archive without members of any. */
export function throwIfSizeless(uri: string, { size }: ObjectFacts): void {
  if (size > 0) return;
  const name = publicUrl(uri);
  throw new ConfigError(
    'bad-archive',
    `${name} is empty, or its server does not tell its size, which reading it needs: fetch it and index the file`,
  );
}

/** `place` says where: 'byte 512'. `found` is what is there, as a whole clause. */
export function badArchive(uri: string, place: string, found: string, options?: ErrorOptions): ConfigError {
  const remedy = 'pack it anew, or leave it out with --exclude';
  return new ConfigError(
    'bad-archive',
    `${publicUrl(uri)} is damaged at ${place}: ${found}; ${remedy}`,
    options,
  );
}
