/**
 * Several sources as one. Each gives its ids a prefix: its label and '/', where the label is the last segment of its URI
 * ('photos' of `s3://bucket/old/photos`), with '~2', '~3' … where an earlier source of the command has it already.
 *
 * No label holds a '/', so no prefix begins another one: source after source in the order of their prefixes is the order
 * of all ids.
 */
import { ConfigError } from '../errors.ts';
import { publicUrl } from '../objects/web-url.ts';
import type { Item } from '../types.ts';
import { compareBytewise } from '../uri.ts';
import type { ItemPage, Source } from './source.ts';

export interface NamedSource {
  /** Canonical, as `Source.uri` has it. */
  uri: string;
  source: Source;
}

interface Member extends NamedSource {
  /** Label and '/'. */
  prefix: string;
}

/**
 * Two or more sources, in the order of the command, which decides who gets the bare label. Its `uri` is all of theirs,
 * with spaces between. Its items differ from the members' in nothing but the id; closing it closes them.
 * Throws ConfigError 'same-source-twice'.
 */
export function manySources(sources: readonly NamedSource[]): Source {
  const members = prefixed(sources);
  const ordered = members.toSorted((a, b) => compareBytewise(a.prefix, b.prefix));
  const byPrefix = new Map(members.map((member) => [member.prefix, member]));
  const memberOf = ({ id }: Item): Member => {
    const member = byPrefix.get(id.slice(0, id.indexOf('/') + 1));
    if (member) return member;
    throw new Error(`'${id}' belongs to none of ${members.map(({ uri }) => uri).join(', ')}: this is a bug`);
  };

  return {
    uri: sources.map(({ source }) => source.uri).join(' '),

    async probe() {
      for (const { source } of members) await source.probe();
    },

    async *list({ after, ...options } = {}): AsyncGenerator<ItemPage> {
      for (const { prefix, source } of ordered) {
        const isWithin = after?.startsWith(prefix) ?? false;
        if (after !== undefined && !isWithin && compareBytewise(prefix, after) < 0) continue;
        const pages = source.list({
          ...options,
          ...(isWithin && { after: after?.slice(prefix.length) ?? '' }),
        });
        for await (const { items, skipped } of pages) {
          yield { items: items.map((item) => ({ ...item, id: prefix + item.id })), skipped };
        }
      }
    },

    async read(item, options) {
      const { source, prefix } = memberOf(item);
      return source.read(withoutPrefix(item, prefix), options);
    },

    async refresh(item) {
      const { source, prefix } = memberOf(item);
      const now = await source.refresh?.(withoutPrefix(item, prefix));
      return now ? { ...now, id: item.id } : item;
    },

    async close() {
      await Promise.all(members.map(({ source }) => source.close()));
    },
  };
}

function prefixed(sources: readonly NamedSource[]): Member[] {
  const uris = new Set<string>();
  const taken = new Set<string>();
  return sources.map(({ uri, source }) => {
    if (uris.has(uri))
      throw new ConfigError('same-source-twice', `${publicUrl(uri)} is named twice: name each source once`);
    uris.add(uri);
    const label = labelOf(uri);
    let prefix = `${label}/`;
    for (let nth = 2; taken.has(prefix); nth++) prefix = `${label}~${nth}/`;
    taken.add(prefix);
    return { uri, source, prefix };
  });
}

/** The last segment of a URI's path as a person would write it; of a bucket or host without a path, its name. */
function labelOf(uri: string): string {
  const isS3 = /^s3:/i.test(uri);
  const path = isS3 ? uri : uri.replace(/[?#].*$/s, '');
  const segment = path.replace(/\/+$/, '').split('/').at(-1) ?? '';
  const label = isS3 ? segment : decoded(segment);
  return label === 'file:' || label === '' ? 'root' : label;
}

/** A key of S3 is not percent-encoded; the other URIs are. What would become a '/' or is not UTF-8 stays as it is. */
function decoded(segment: string): string {
  try {
    const text = decodeURIComponent(segment);
    return text.includes('/') ? segment : text;
  } catch {
    return segment;
  }
}

function withoutPrefix(item: Item, prefix: string): Item {
  return { ...item, id: item.id.slice(prefix.length) };
}
