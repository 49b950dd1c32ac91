/** Parquet by ranged reads, no more of a file than needed: the door to hyparquet. */
import { zstdDecompressSync } from 'node:zlib';
import { parquetMetadata, parquetReadObjects } from 'hyparquet';

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
 * Text columns of a file of `size` bytes whose end is at hand. Columns that lie near each other are one read: the text of a
 * part of 512 rows is about 80 kB, its embeddings 4 MB.
 */
export async function readTextColumns<Name extends string>(
  read: ReadRange,
  size: number,
  end: Uint8Array,
  columns: readonly Name[],
): Promise<Record<Name, (string | null)[]>> {
  const rows = await parquetReadObjects({
    file: { byteLength: size, slice: async (first, next = size) => copyOf(await read(first, next - first)) },
    metadata: parquetMetadata(end),
    columns: [...columns],
    compressors: { ZSTD: (compressed) => zstdDecompressSync(compressed) },
  });
  const entries = columns.map((name) => [name, rows.map((row) => row[name] ?? null)]);
  return Object.fromEntries(entries); // the columns asked for, which encodePart wrote as text
}

/** hyparquet takes no views. */
function copyOf(bytes: Uint8Array): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}
