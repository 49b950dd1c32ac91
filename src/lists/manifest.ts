/**
 * The rows of a list: CSV, TSV or JSONL, also compressed, are read in one pass; Parquet row group by row group, and of it only
 * the columns that are wanted. The name says which it is. Memory is bounded by the longest line, or the largest row group.
 *
 * A list is either right or refused: nothing has been read for it yet, so whoever made it can mend it, and a row that is
 * left out without a word would be an image that nobody misses.
 */
import { pipeline, Readable } from 'node:stream';
import type { CsvError, Options as CsvOptions } from 'csv-parse';
import { ConfigError, type FailureCode, messageOf } from '../errors.ts';
import type { Objects } from '../objects/objects.ts';
import { persistent } from '../objects/persistent.ts';
import { publicUrl } from '../objects/web-url.ts';
import { openParquet } from '../parts/parquet-ranges.ts';
import { type ListColumns, ReadError } from '../sources/source.ts';
import { isWebUri } from '../uri.ts';
import {
  type Columns,
  chooseColumns,
  type ListRow,
  type ListWords,
  rowOf,
  sourceWords,
  type Table,
} from './columns.ts';
import { type Compression, maxLineBytes, readLines, readText, type TextObject } from './text.ts';

interface List extends TextObject, Table {
  size: number;
}

type RowReader = (list: List) => AsyncGenerator<ListRow>;

const readers: Record<string, RowReader> = {
  '.csv': (list) => readCsv(list, ','),
  '.tsv': (list) => readCsv(list, '\t'),
  '.jsonl': readJsonl,
  '.ndjson': readJsonl,
  '.parquet': readParquet,
};

/** Whether a URI names a list, by its extension. */
export function isList(uri: string): boolean {
  return formatOf(uri) !== undefined;
}

/**
 * Throws ConfigError: 'bad-list' for what is no list, or for a row that is none, with its line and what is wrong;
 * 'no-column'; where the list cannot be read 'no-source', 'access-denied', 'not-allowed', 'source-changed',
 * 'store-unreachable', and as `Objects` does.
 */
export async function* readManifest(
  uri: string,
  objects: Objects,
  columns: ListColumns,
  { signal, words = sourceWords }: { signal?: AbortSignal | undefined; words?: ListWords } = {},
): AsyncGenerator<ListRow> {
  const format = formatOf(uri);
  if (!format) {
    const known = Object.keys(readers).join(' ');
    throw new ConfigError(
      'bad-list',
      `${publicUrl(uri)} is no list by its name: expected ${known}, or text with .gz or .zst`,
    );
  }
  const fail = (line: number, what: string) => badRow(uri, line, what);
  try {
    const patient = persistent(objects);
    const { etag, size } = await patient.stat(uri, { signal });
    yield* format.read({
      uri,
      name: publicUrl(uri),
      etag,
      size,
      objects: patient,
      columns,
      words,
      compression: format.compression,
      signal,
      fail,
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof ReadError ? explain(error, uri) : error;
  }
}

/** Something is wrong with one row of a list. `what` follows its line: 'is not UTF-8'. */
export function badRow(uri: string, line: number, what: string): ConfigError {
  const word = formatOf(uri)?.read === readParquet ? 'row' : 'line';
  return new ConfigError('bad-list', `${publicUrl(uri)}: ${word} ${line} ${what}`);
}

function formatOf(uri: string): { read: RowReader; compression: Compression | undefined } | undefined {
  const path = isWebUri(uri) ? uri.replace(/[?#].*$/s, '') : uri;
  const [, extension = '', compression] = /(\.[a-z]+)(\.gz|\.zst)?$/.exec(path.toLowerCase()) ?? [];
  const read = Object.hasOwn(readers, extension) ? readers[extension] : undefined;
  if (!read || (compression && read === readParquet)) return undefined;
  return { read, compression: compression as Compression | undefined }; // the expression has no others
}

/** RFC 4180, with a header. Lines with nothing on them are passed over. */
async function* readCsv(list: List, delimiter: string): AsyncGenerator<ListRow> {
  // Where the next record begins. csv-parse's own count takes CR LF within quotes for two lines.
  let next = 1;
  let empty = 0;
  let width = 0;
  const options: CsvOptions<CsvRecord, string[]> = {
    bom: true,
    delimiter,
    record_delimiter: ['\r\n', '\n', '\r'],
    max_record_size: maxLineBytes,
    skip_empty_lines: true,
    on_record: (fields, { empty_lines }) => {
      const line = next + empty_lines - empty;
      empty = empty_lines;
      width ||= fields.length;
      next = line + 1 + fields.reduce((sum, field) => sum + breaksIn(field), 0);
      return { line, fields };
    },
  };
  // Loaded here: workers read what lists name, and no list.
  const { parse: parseCsv } = await import('csv-parse');
  // Its types know no record that is not an array, unless it names the columns itself.
  const parser = parseCsv(options as unknown as CsvOptions);
  // What goes wrong on the way reaches whoever reads the parser.
  const records: AsyncIterable<CsvRecord> = pipeline(Readable.from(readText(list)), parser, () => {});
  let columns: Columns | undefined;
  let places = new Map<string, number>();
  try {
    for await (const { line, fields } of records) {
      if (columns) {
        yield rowOf(list, columns, line, (name) => fields[places.get(name) ?? -1]);
      } else {
        columns = chooseColumns(list, fields);
        places = new Map(fields.map((name, place) => [name, place]));
      }
    }
  } catch (error) {
    if (!isCsvError(error)) throw error;
    throw list.fail(next + Number(error.empty_lines) - empty, csvProblem(error, width));
  }
  if (!columns)
    throw new ConfigError('bad-list', `${list.name} is empty: its first line must name the columns`);
}

interface CsvRecord {
  line: number;
  fields: string[];
}

function breaksIn(field: string): number {
  return field.includes('\n') || field.includes('\r') ? (field.match(/\r\n|\n|\r/g)?.length ?? 0) : 0;
}

function isCsvError(error: unknown): error is CsvError {
  return error instanceof Error && 'empty_lines' in error;
}

/** csv-parse's own messages quote values, and those may hold secrets. */
function csvProblem({ code, record }: CsvError, width: number): string {
  switch (code) {
    case 'CSV_RECORD_INCONSISTENT_FIELDS_LENGTH':
      return `has ${(record as string[]).length} values, the header ${width}`;
    case 'CSV_QUOTE_NOT_CLOSED':
      return 'opens a quote that is never closed';
    case 'CSV_MAX_RECORD_SIZE':
      return `begins a row of more than ${maxLineBytes} bytes: is a quote not closed?`;
    case 'INVALID_OPENING_QUOTE':
      return 'has a quote within a value: put the whole value in quotes, and write each quote in it twice';
    case 'CSV_INVALID_CLOSING_QUOTE':
      return 'goes on after a closing quote: write each quote within a quoted value twice';
    default:
      return `is not CSV (${code})`;
  }
}

/** Which columns there are, the first row says; those to keep need not be in every row, but in one. */
async function* readJsonl(list: List): AsyncGenerator<ListRow> {
  let columns: Columns | undefined;
  const missing = new Set(list.columns.keep);
  for await (const { line, text } of readLines(list)) {
    if (text.trim() === '') continue;
    const row = parseObject(text);
    if (!row) throw list.fail(line, 'is not a JSON object');
    columns ??= chooseColumns(list, Object.keys(row), { isKeptOptional: true });
    for (const name of missing) if (Object.hasOwn(row, name)) missing.delete(name);
    yield rowOf(list, columns, line, (name) => (Object.hasOwn(row, name) ? row[name] : undefined));
  }
  const [never] = missing;
  if (columns && never !== undefined)
    throw new ConfigError(
      'no-column',
      `no row of ${list.name} has '${never}': correct ${list.words.flags.keep}`,
    );
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const row: unknown = /\d{16}/.test(text) ? JSON.parse(text, keepDigits) : JSON.parse(text);
    const isObject = typeof row === 'object' && row !== null && !Array.isArray(row);
    return isObject ? (row as Record<string, unknown>) : undefined; // whose keys can only be text
  } catch {
    return undefined; // its message quotes the text, which may hold secrets
  }
}

/** An integer that a double cannot hold becomes text, rather than another integer. */
function keepDigits(_: string, value: unknown, { source }: { source?: string } = {}): unknown {
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? source : value;
}

async function* readParquet(list: List): AsyncGenerator<ListRow> {
  const { uri, name, etag, size, objects, signal } = list;
  const read = (first: number, count: number) => objects.readRange(uri, { etag, first, count, signal });
  const explained = async <T>(reading: Promise<T>): Promise<T> => {
    try {
      return await reading;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ReadError || error instanceof ConfigError) throw error;
      throw new ConfigError('bad-list', `${name} cannot be read as Parquet: ${messageOf(error)}`, {
        cause: error,
      });
    }
  };
  if (size === 0)
    throw new ConfigError(
      'bad-list',
      `${name} is empty, or its server does not tell its size, which Parquet needs`,
    );
  const table = await explained(openParquet(read, size));
  const columns = chooseColumns(list, table.columns);
  const names = [...new Set([columns.uri, columns.id ?? columns.uri, ...columns.keep])];
  const groups = table.readGroups(names);
  for (;;) {
    const { value: group, done } = await explained(groups.next());
    if (done) return;
    const values = new Map(names.map((name, at) => [name, group.values[at]]));
    for (let row = 0; row < group.count; row++) {
      yield rowOf(list, columns, group.first + row + 1, (name) => values.get(name)?.[row] ?? null);
    }
  }
}

function explain(error: ReadError, uri: string): ConfigError {
  const [code, remedy] = explanations[error.code] ?? ['store-unreachable', 'try again'];
  return new ConfigError(code, `${publicUrl(uri)} cannot be read, ${remedy}: ${messageOf(error)}`, {
    cause: error,
  });
}

const explanations: Partial<Record<FailureCode, [code: string, remedy: string]>> = {
  'not-found': ['no-source', 'correct its name'],
  'access-denied': ['access-denied', 'make it readable'],
  'not-allowed': ['not-allowed', 'allow its host'],
  changed: ['source-changed', 'as it changed meanwhile: start again'],
  'bad-uri': ['bad-uri', 'correct it'],
};
