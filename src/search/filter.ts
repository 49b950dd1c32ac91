/** A filter as the SQL that Lance takes (DataFusion's). What a user typed is only ever a quoted value in it. */
import type { Filter } from './search-index.ts';

/** `undefined` where every image will do. */
export function predicateOf(filter: Filter = {}): string | undefined {
  const { labels, prefix, runs, minBytes, maxBytes, minSide, since, before } = filter;
  const parts = [
    labels && (labels.length === 0 ? 'false' : `array_has_any(labels, [${labels.map(numberOf).join(', ')}])`),
    prefix !== undefined && prefix !== '' && startsWith('id', prefix),
    runs && isOneOf('run', runs),
    minBytes !== undefined && `bytes >= ${numberOf(minBytes)}`,
    maxBytes !== undefined && `bytes <= ${numberOf(maxBytes)}`,
    minSide !== undefined && `side >= ${numberOf(Math.min(minSide, longestSide))}`,
    since !== undefined && `run_at >= ${quote(new Date(since).toISOString())}`,
    before !== undefined && `run_at < ${quote(new Date(before).toISOString())}`,
  ].filter((part) => typeof part === 'string');
  return parts.length === 0 ? undefined : parts.join(' AND ');
}

/** More than its column can hold, an int32, is an error to Lance; no image comes near it. */
const longestSide = 2 ** 31 - 1;

/** Of no values, none is. */
export function isOneOf(column: string, values: readonly string[]): string {
  return values.length === 0 ? 'false' : `${column} IN (${values.map(quote).join(', ')})`;
}

/** A string literal; in SQL, nothing but a quote means anything in one. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** All that holds, of predicates that may be missing. */
export function both(...predicates: (string | undefined)[]): string | undefined {
  const given = predicates.filter((predicate) => predicate !== undefined);
  return given.length === 0 ? undefined : given.map((predicate) => `(${predicate})`).join(' AND ');
}

function startsWith(column: string, prefix: string): string {
  return `starts_with(${column}, ${quote(prefix)})`;
}

function numberOf(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`${value} is no number to filter by; this is a bug`);
  return String(Math.trunc(value));
}
