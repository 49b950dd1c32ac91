/** Parquet by ranged reads, no more of a file than needed: the door to hyparquet. */
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib';
import {
  type Compressors,
  type ParquetParsers,
  parquetMetadata,
  parquetReadObjects,
  parquetScan,
  parquetSchema,
} from 'hyparquet';

export const metadataKey = 'lensmill';

/** Bytes asked for at a file's end: a part's footer is about 3 kB, so one read brings it whole. */
const endBytes = 65_536;

export interface ParquetFooter {
  rows: number;
  /** The JSON that its writer gave as `metadata`; `undefined` where another program wrote the file. */
  metadata: unknown;
}

/** Gives bytes [first, first + count) of something. */
export type ReadRange = (first: number, count: number) => Promise<Uint8Array>;

/** The end of a Parquet file of `size` bytes, its whole footer included: one read of 64 kB, a second for a larger footer. */
export async function readParquetEnd(read: ReadRange, size: number): Promise<Uint8Array> {
  const end = await read(Math.max(0, size - endBytes), Math.min(size, endBytes));
  if (end.length < 8) return end;
  // The last 8 bytes: the footer's length, and 'PAR1' (https://parquet.apache.org/docs/file-format/).
  const footerBytes =
    new DataView(end.buffer, end.byteOffset, end.byteLength).getUint32(end.length - 8, true) + 8;
  return footerBytes <= end.length || footerBytes > size ? end : read(size - footerBytes, footerBytes);
}

/** The footer of a file, given whole or by its end. Throws where it is not Parquet. */
export function parquetFooter(end: Uint8Array): ParquetFooter {
  const file = parquetMetadata(end);
  const json = file.key_value_metadata?.find(({ key }) => key === metadataKey)?.value;
  return { rows: Number(file.num_rows), metadata: json === undefined ? undefined : JSON.parse(json) };
}

/**
 * Columns of a file of `size` bytes whose end is at hand: text, or bigint for 64-bit integers. Columns that lie near each other are one read: the text of a
 * part of 512 rows is about 80 kB, its embeddings 4 MB.
 */
export async function readColumns<Name extends string>(
  read: ReadRange,
  size: number,
  end: Uint8Array,
  columns: readonly Name[],
): Promise<Record<Name, (string | bigint | null)[]>> {
  const rows = await parquetReadObjects({
    file: fileOf(read, size),
    metadata: parquetMetadata(end),
    columns: [...columns],
    compressors,
  });
  const entries = columns.map((name) => [name, rows.map((row) => row[name] ?? null)]);
  return Object.fromEntries(entries); // the columns asked for
}

/** A file of `size` bytes that any program may have written. */
export interface ParquetTable {
  /** Names of the top-level columns. */
  columns: string[];
  /**
   * Values of these columns, row group by row group: one group's in memory at a time, and at most `maxGroupBytes`. Numbers,
   * bigints, text, booleans, null; bytes as Uint8Array; times as ISO text to their last digit; lists and structs of these.
   */
  readGroups(
    columns: readonly string[],
  ): AsyncGenerator<{ first: number; count: number; values: ArrayLike<unknown>[] }>;
}

/** Of one row group: the columns that are read, decompressed. */
const maxGroupBytes = 2 ** 30;

/** Throws where it is not Parquet; its groups throw where they are damaged, or hold text that is not UTF-8. */
export async function openParquet(read: ReadRange, size: number): Promise<ParquetTable> {
  const metadata = parquetMetadata(await readParquetEnd(read, size));
  return {
    columns: parquetSchema(metadata).children.map(({ element }) => element.name),

    async *readGroups(columns) {
      const scan = await parquetScan({
        file: fileOf(read, size),
        metadata,
        compressors,
        parsers,
        utf8: false,
        useOffsetIndex: false,
      });
      let first = 0;
      for (const group of metadata.row_groups) {
        const bytes = group.columns
          .filter(({ meta_data: chunk }) => columns.includes(chunk?.path_in_schema[0] ?? ''))
          .reduce((sum, { meta_data: chunk }) => sum + Number(chunk?.total_uncompressed_size ?? 0), 0);
        if (bytes > maxGroupBytes) {
          const held = `${(bytes / 2 ** 30).toFixed(1)} GiB of ${columns.join(', ')}`;
          throw new Error(`its row group at row ${first + 1} holds ${held}: write smaller groups`);
        }
        const count = Number(group.num_rows);
        const range = { rowStart: first, rowEnd: first + count };
        const values: ArrayLike<unknown>[] = [];
        for (const column of columns) values.push(await scan.readColumn({ column, ...range }));
        yield { first, count, values };
        first += count;
      }
    },
  };
}

const compressors: Compressors = {
  ZSTD: (bytes, length) => zstdDecompressSync(bytes, { maxOutputLength: length || 1 }),
  GZIP: (bytes, length) => gunzipSync(bytes, { maxOutputLength: length || 1 }),
  BROTLI: (bytes, length) => brotliDecompressSync(bytes, { maxOutputLength: length || 1 }),
};

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** hyparquet's own cut times to milliseconds and mend text that is not UTF-8. */
const parsers: Partial<ParquetParsers> = {
  timestampFromMilliseconds: (ticks) => isoOf(ticks, 3),
  timestampFromMicroseconds: (ticks) => isoOf(ticks, 6),
  timestampFromNanoseconds: (ticks) => isoOf(ticks, 9),
  dateFromDays: (days) =>
    isoOf(days === undefined ? undefined : BigInt(days) * 86_400n, 0)?.replace(/T.*/, ''),
  stringFromBytes: (bytes) => bytes && utf8.decode(bytes),
};

/** '2026-07-01T12:30:00.250Z' of a count of ticks, of which a second has 10 ** `digits`; the count where no date has it. */
function isoOf(ticks: bigint | undefined, digits: number): string | undefined {
  if (ticks === undefined) return undefined;
  const perSecond = 10n ** BigInt(digits);
  const fraction = ((ticks % perSecond) + perSecond) % perSecond;
  const date = new Date(Number((ticks - fraction) / perSecond) * 1000);
  if (Number.isNaN(date.getTime())) return String(ticks);
  const point = digits === 0 ? '' : `.${String(fraction).padStart(digits, '0')}`;
  return date.toISOString().replace('.000Z', `${point}Z`);
}

/** A footer may say anything: what lies outside of the file is not asked for. */
function fileOf(read: ReadRange, size: number) {
  return {
    byteLength: size,
    slice: async (first: number, next = size) => {
      if (!(first >= 0 && first <= next && next <= size))
        throw new Error('its footer points outside of the file');
      return copyOf(await read(first, next - first));
    },
  };
}

/** hyparquet takes no views. */
function copyOf(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}
