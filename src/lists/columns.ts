/** Which columns of a list are meant, and what its rows make of them. */
import { ConfigError } from '../errors.ts';
import { publicUrl } from '../objects/web-url.ts';
import type { ListColumns } from '../sources/source.ts';

export interface ListRow {
  /** From 1: of text the line that it begins on, of Parquet the row. */
  line: number;
  /** As the list has it, without white space at its ends. Never empty. */
  uri: string;
  /** The same, of the id column; `uri` where there is none. */
  id: string;
  /** The columns to keep, as JSON values; of JSONL those that the row has. */
  extra: Record<string, unknown> | undefined;
}

/** What is known of a list before its columns are. */
export interface Table {
  /** As it may be shown. */
  name: string;
  columns: ListColumns;
  words: ListWords;
  /** What to throw about a line, or row. */
  fail: (line: number, what: string) => Error;
}

/** Of one list, by their names in it. */
export interface Columns {
  uri: string;
  id: string | undefined;
  keep: readonly string[];
}

/** How whoever asks for a list calls its columns. */
export interface ListWords {
  /** Of the column that says which image it is, where none is named: the first that is there. */
  usual: readonly string[];
  /** What to correct where there is no such column. */
  flags: { uri: string; id: string; keep: string };
}

/** Of a list that is a source. */
export const sourceWords: ListWords = {
  usual: ['uri', 'url', 'path', 'file'],
  flags: { uri: '--uri-column', id: '--id-column', keep: '--columns' },
};

/** Throws ConfigError 'no-column' where one is not `there`, 'bad-list' where one is there twice. */
export function chooseColumns(
  { name: list, columns, words: { usual: usualNames, flags } }: Table,
  there: readonly string[],
  { isKeptOptional = false } = {},
): Columns {
  const usual = usualNames.map((wanted) => there.find((name) => name.toLowerCase() === wanted));
  const chosen = {
    uri: columns.uri ?? usual.find((name) => name !== undefined),
    id: columns.id ?? undefined,
  };
  const kept = isKeptOptional ? [] : columns.keep;
  const wanted = [chosen.uri ?? usualNames.join(', '), chosen.id, ...kept];
  for (const name of wanted) {
    if (name === undefined) continue;
    const count = there.filter((other) => other === name).length;
    if (count > 1)
      throw new ConfigError('bad-list', `${list} has ${count} columns '${name}': rename all but one`);
    if (count === 1) continue;
    const flag = name === chosen.uri || !chosen.uri ? flags.uri : name === chosen.id ? flags.id : flags.keep;
    throw new ConfigError(
      'no-column',
      `${list} has no column ${name}, it has ${shortened(there)}: correct ${flag}`,
    );
  }
  return { uri: chosen.uri ?? '', id: chosen.id, keep: columns.keep };
}

/** Where a list has no header, these are values. */
function shortened(names: readonly string[]): string {
  const shown = names.slice(0, 20).map((name) => publicUrl(name).slice(0, 60));
  return [...shown, ...(names.length > shown.length ? ['…'] : [])].join(', ') || 'none';
}

/** Throws what `table.fail` makes. */
export function rowOf(
  table: Table,
  columns: Columns,
  line: number,
  get: (column: string) => unknown,
): ListRow {
  const fail = (column: string, what: string) => table.fail(line, `column '${column}' ${what}`);
  const textOf = (column: string): string => {
    const value = get(column);
    const text = Number.isSafeInteger(value) || typeof value === 'bigint' ? String(value) : (value ?? '');
    if (typeof text !== 'string') throw fail(column, 'holds no text');
    if (text.trim() === '') throw fail(column, 'is empty');
    if (!text.isWellFormed()) throw fail(column, 'holds half a character (a lone surrogate)');
    return text.trim();
  };
  const uri = textOf(columns.uri);
  // An id goes to the output, where a signature has no place.
  const id = columns.id === undefined ? publicUrl(uri) : textOf(columns.id);
  const kept = columns.keep.flatMap((column) => {
    const value = get(column);
    return value === undefined ? [] : [[column, jsonOf(value, (what) => fail(column, what))]];
  });
  return { line, uri, id, extra: kept.length > 0 ? Object.fromEntries(kept) : undefined };
}

/** Deeper than any table is, and far from where JSON.stringify runs out of stack. */
const maxDepth = 64;

/** Bigints beyond 2 ** 53 as text; what is no number (NaN, as pandas writes where nothing is) as null. */
function jsonOf(value: unknown, fail: (what: string) => Error, depth = 0): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (typeof value === 'number') return Number.isFinite(value) ? value : null;
  if (value === undefined || value === null) return null;
  if (typeof value !== 'object') return value;
  if (ArrayBuffer.isView(value))
    throw fail('holds bytes: only text, numbers and what is made of them can be kept');
  if (depth === maxDepth) throw fail(`is nested more than ${maxDepth} deep`);
  if (Array.isArray(value)) return value.map((part) => jsonOf(part, fail, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [name, jsonOf(part, fail, depth + 1)]),
  );
}
