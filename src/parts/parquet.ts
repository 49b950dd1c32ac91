/**
 * Parquet: the door to parquet-wasm (writes and reads) and apache-arrow (its columns).
 *
 * Lists are Arrow `List`, not `FixedSizeList`: the bytes in Parquet are the same, but up to Arrow 25 pyarrow cannot read a
 * fixed-size list that has nulls (https://github.com/apache/arrow/issues/35692), and a failed row's embedding is one.
 *
 * Key-value metadata is one key, `lensmill`, holding JSON (as `geo` and `pandas` are): parquet-wasm keeps the entries in a
 * Rust HashMap, so with two keys their order, and with it the file's SHA-256, would change from call to call.
 */
import { createWriteStream } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  type Data,
  type DataType,
  Field,
  Float16,
  Float32,
  Int32,
  Int64,
  List,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableFromIPC,
  tableToIPC,
  Utf8,
  type Vector,
  vectorFromArray,
} from 'apache-arrow';
import {
  Compression,
  EnabledStatistics,
  readParquet,
  transformParquetStream,
  Table as WasmTable,
  type WriterProperties,
  WriterPropertiesBuilder,
  writeParquet,
} from 'parquet-wasm/node';
import { fromHalf } from '../models/half.ts';
import { metadataKey, parquetFooter } from './parquet-ranges.ts';

/** Rows kept in memory before they go to disk: 33 MB of 2048 float32. A part is one row group in any case. */
const rowGroupRows = 4096;

/** A named column, made by the functions below. */
export interface Column {
  field: Field;
  data: Data;
}

type Nullable<T> = readonly (T | null | undefined)[];

/** UTF-8 text; `nullable` is the schema's word and does not follow from the values. */
export function text(name: string, values: Nullable<string>, nullable?: 'nullable'): Column {
  return flat(name, vectorFromArray(values.map(orNull), new Utf8()).data[0], nullable === 'nullable');
}

/** Integers below 2^31. */
export function int32(name: string, values: Nullable<number>, nullable?: 'nullable'): Column {
  return flat(name, vectorFromArray(values.map(orNull), new Int32()).data[0], nullable === 'nullable');
}

/** Null where there is none. */
export function float32(name: string, values: Nullable<number>): Column {
  return flat(name, vectorFromArray(values.map(orNull), new Float32()).data[0], true);
}

/** Integers below 2^53. */
export function int64(name: string, values: readonly number[]): Column {
  const data = makeData({ type: new Int64(), nullCount: 0, data: BigInt64Array.from(values, BigInt) });
  return flat(name, data, false);
}

/**
 * Lists of `length` values each, straight over `values`, [rows × length], row-major; a Uint16Array holds halves. Rows that
 * are not `present` become null, and what stands in `values` for them is not written.
 */
export function lists(
  name: string,
  values: Int32Array | Float32Array | Uint16Array,
  length: number,
  present: readonly boolean[],
): Column {
  if (values.length !== present.length * length) {
    throw new Error(
      `${name}: ${values.length} values for ${present.length} rows of ${length}: this is a bug`,
    );
  }
  const child = listItems(values);
  const validity = new Uint8Array(Math.ceil(present.length / 8));
  for (const [row, isPresent] of present.entries()) {
    if (isPresent) validity[row >> 3] = (validity[row >> 3] ?? 0) | (1 << (row & 7));
  }
  const data = makeData({
    type: new List(new Field('element', child.type, false)),
    length: present.length,
    nullCount: present.filter((isPresent) => !isPresent).length,
    nullBitmap: validity,
    valueOffsets: Int32Array.from({ length: present.length + 1 }, (_, row) => row * length),
    child,
  });
  return flat(name, data, true);
}

function listItems(values: Int32Array | Float32Array | Uint16Array): Data {
  if (values instanceof Int32Array) return makeData({ type: new Int32(), nullCount: 0, data: values });
  if (values instanceof Float32Array) return makeData({ type: new Float32(), nullCount: 0, data: values });
  return makeData({ type: new Float16(), nullCount: 0, data: values });
}

/** Arrow's builders take `undefined` for an empty text. */
function orNull<T>(value: T | null | undefined): T | null {
  return value ?? null;
}

function flat(name: string, data: Data | undefined, nullable: boolean): Column {
  if (!data) throw new Error(`${name}: no rows: this is a bug`);
  return { field: new Field(name, data.type, nullable), data };
}

/** One Parquet file of one row group, the same bytes for the same input. `metadata` is stored as JSON. At least one row. */
export function encodeParquet(columns: readonly Column[], metadata: object): Uint8Array {
  const flatNames = columns.filter((column) => !(column.data.type instanceof List)).map(nameOf);
  return writeParquet(wasmTable(columns), writerProperties(flatNames, metadata));
}

function nameOf(column: Column): string {
  return column.field.name;
}

/** Copies the columns into WebAssembly's memory. */
function wasmTable(columns: readonly Column[]): WasmTable {
  const schema = new Schema(columns.map((column) => column.field));
  const children = columns.map((column) => column.data);
  const struct = makeData({ type: new Struct(schema.fields), nullCount: 0, children });
  return WasmTable.fromIPCStream(tableToIPC(new Table(schema, new RecordBatch(schema, struct)), 'stream'));
}

/**
 * Text and numbers: zstd, dictionary, statistics. Lists: none of them, because embeddings do not repay it. Rows/s on one
 * Zen 5 core and B a row, 1024 rows of 2048 float32: as here 71k, 8220; with zstd 29k, 7390; with byte-stream split and
 * zstd 22k, 6810; with snappy 65k, 8210; with dictionary and statistics, the library's defaults, 23k.
 * parquet-wasm takes a column's name for its whole path, so lists can be reached by the defaults only.
 */
function writerProperties(flatNames: readonly string[], metadata: object): WriterProperties {
  let builder = new WriterPropertiesBuilder()
    .setDictionaryEnabled(false)
    .setStatisticsEnabled(EnabledStatistics.None)
    .setCompression(Compression.UNCOMPRESSED)
    .setMaxRowGroupSize(rowGroupRows)
    .setKeyValueMetadata(new Map([[metadataKey, JSON.stringify(metadata)]]));
  for (const name of flatNames) {
    builder = builder
      .setColumnDictionaryEnabled(name, true)
      .setColumnStatisticsEnabled(name, EnabledStatistics.Chunk)
      .setColumnCompression(name, Compression.ZSTD);
  }
  return builder.build();
}

/** A Parquet file that grows by tables of one schema, with memory for one row group. */
export interface ParquetFile {
  /** Appends columns, or another Parquet file's rows, which never become JavaScript values. */
  append(rows: readonly Column[] | Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** Creates `path`. Append at least once: without a row there is no schema to write. `flatNames` are the columns not lists. */
export function createParquetFile(path: string, flatNames: readonly string[], metadata: object): ParquetFile {
  const { readable, writable } = new TransformStream();
  const writer = writable.getWriter();
  // The stream of bytes is handed out only after the first batch came in, so it cannot be awaited here.
  const written = transformParquetStream(readable, writerProperties(flatNames, metadata)).then((bytes) =>
    pipeline(Readable.fromWeb(bytes), createWriteStream(path, { flags: 'wx' })),
  );
  written.catch(() => {}); // A failure is told by the append or close that it interrupts.
  return {
    async append(rows) {
      const table = rows instanceof Uint8Array ? readParquet(rows) : wasmTable(rows);
      for (const batch of table.recordBatches()) await Promise.race([writer.write(batch), written]);
      table.free();
    },
    async close() {
      await Promise.race([writer.close(), written]);
      await written;
    },
  };
}

/** A Parquet file in memory, read column by column. */
export class ParquetTable {
  readonly rows: number;
  readonly #table: Table;

  /** Throws where `bytes` is not Parquet. */
  constructor(bytes: Uint8Array) {
    this.rows = parquetFooter(bytes).rows;
    // One batch, so that each list column is one piece of memory.
    this.#table = tableFromIPC(readParquet(bytes, { batchSize: this.rows }).intoIPCStream());
  }

  /** Text, null where there is none. Throws, as all the others do, naming a column that the file lacks. */
  text(name: string): (string | null)[] {
    return [...this.#column<Utf8>(name)];
  }

  /** int32 or int64. */
  integers(name: string): (number | null)[] {
    return Array.from(this.#column<Int32 | Int64>(name), (value) => (value === null ? null : Number(value)));
  }

  /** [rows × length] of int32; zeros where the list is null. A view of the file's memory where it can be. */
  intLists(name: string, length: number): Int32Array {
    const values = this.#lists(name, length);
    if (values instanceof Int32Array) return values;
    throw new Error(`column '${name}' is not a list of int32`);
  }

  /** [rows × length] of float32 or float16; zeros where the list is null. A view of the file's memory where it can be. */
  floatLists(name: string, length: number): Float32Array {
    const values = this.#lists(name, length);
    if (values instanceof Float32Array) return values;
    if (values instanceof Uint16Array) return fromHalf(values);
    throw new Error(`column '${name}' is not a list of floats`);
  }

  #lists(name: string, length: number): Int32Array | Float32Array | Uint16Array {
    const list = this.#column<List>(name).data[0];
    const items = list?.children[0];
    if (!list || !items) throw new Error(`column '${name}' is not a list`);
    const packed: Int32Array | Float32Array | Uint16Array = items.values.subarray(0, items.length);
    const isWhole = packed.length === this.rows * length;
    const rows = isWhole ? packed : new (constructorOf(packed))(this.rows * length);
    for (let row = 0; row < this.rows; row++) {
      const [first = 0, end = 0] = list.valueOffsets.subarray(row, row + 2);
      if (end === first) continue;
      if (end - first !== length)
        throw new Error(`column '${name}': ${end - first} values in row ${row}, not ${length}`);
      if (!isWhole) rows.set(packed.subarray(first, end), row * length);
    }
    return rows;
  }

  #column<T extends DataType>(name: string): Vector<T> {
    const column: Vector<T> | null = this.#table.getChild(name);
    if (!column) throw new Error(`no column '${name}'`);
    return column;
  }
}

function constructorOf(values: Int32Array | Float32Array | Uint16Array) {
  if (values instanceof Int32Array) return Int32Array;
  return values instanceof Float32Array ? Float32Array : Uint16Array;
}
