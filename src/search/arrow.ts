/** Images as the Arrow batches that a Lance table takes and gives. */
import {
  type Data,
  Field,
  FixedSizeList,
  Float16,
  Int32,
  Int64,
  List,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  Utf8,
  vectorFromArray,
} from 'apache-arrow';
import { fromHalf } from '../models/half.ts';
import { toUnit } from '../vectors.ts';
import type { IndexedImage } from './search-index.ts';

/** Images with their embeddings as they are stored: [images × dimension] halves. */
export interface ImageRows {
  images: readonly IndexedImage[];
  halves: Uint16Array;
}

/**
 * The column of an `IndexedImage`, as JSON: in a store each column of each hit is a read of its own. Ten hits among 10,000 on S3
 * took 15 ms with a column for each fact, and take 9 with this one (a local radosgw). The other columns are there to be
 * searched: what images are looked up, filtered and counted by.
 */
export const factsColumn = 'facts';

export function encodeImages({ images, halves }: ImageRows, dimension: number): Table {
  const texts = (pick: (image: IndexedImage) => string): Data => textData(images.map(pick));
  const int32s = (values: Int32Array): Data =>
    makeData({ type: new Int32(), length: values.length, data: values });
  const bytes = BigInt64Array.from(images, (image) => BigInt(image.bytes));
  const columns = {
    key: texts(({ key }) => key),
    id: texts(({ id }) => id),
    uri: texts(({ uri }) => uri),
    run: texts(({ run }) => run),
    run_at: texts(({ runAt }) => runAt),
    bytes: makeData({ type: new Int64(), length: images.length, data: bytes }),
    side: int32s(Int32Array.from(images, ({ width, height }) => Math.min(width, height))),
    label: int32s(Int32Array.from(images, ({ labels }) => labels[0] ?? -1)),
    labels: int32Lists(images.map(({ labels }) => labels)),
    [factsColumn]: texts((image) => JSON.stringify(image)),
    vector: makeData({
      type: new FixedSizeList(dimension, new Field('item', new Float16(), true)),
      length: images.length,
      nullCount: 0,
      child: makeData({ type: new Float16(), length: halves.length, data: halves }),
    }),
  };
  const schema = new Schema(Object.entries(columns).map(([name, { type }]) => new Field(name, type, false)));
  const struct = makeData({
    type: new Struct(schema.fields),
    length: images.length,
    nullCount: 0,
    children: Object.values(columns),
  });
  return new Table(schema, [new RecordBatch(schema, struct)]);
}

function textData(values: readonly string[]): Data {
  // Of no values it makes no chunk.
  return vectorFromArray(values, new Utf8()).data[0] ?? makeData({ type: new Utf8() });
}

function int32Lists(rows: readonly (readonly number[])[]): Data {
  const valueOffsets = new Int32Array(rows.length + 1);
  for (const [row, values] of rows.entries())
    valueOffsets[row + 1] = (valueOffsets[row] as number) + values.length;
  const values = Int32Array.from(rows.flat());
  return makeData({
    type: new List(new Field('item', new Int32(), true)),
    length: rows.length,
    nullCount: 0,
    valueOffsets,
    child: makeData({ type: new Int32(), length: values.length, data: values }),
  });
}

/** What this file reads of a batch: LanceDB brings an Arrow library of its own, whose classes are others. */
export interface Batch {
  readonly numRows: number;
  getChild(name: string): Column | null;
}

interface Column {
  readonly data: readonly {
    readonly offset: number;
    readonly values: ArrayLike<unknown>;
    readonly children: readonly { readonly offset: number; readonly values: unknown }[];
  }[];
  get(row: number): unknown;
}

/** The images of a batch that has `factsColumn`. */
export function decodeImages(batch: Batch): IndexedImage[] {
  const facts = columnOf(batch, factsColumn);
  // As encodeImages wrote them.
  return Array.from({ length: batch.numRows }, (_, row) => JSON.parse(String(facts(row))) as IndexedImage);
}

/** A column's values by row. */
export function columnOf(batch: Batch, name: string): (row: number) => unknown {
  const column = batch.getChild(name);
  if (!column) throw new Error(`the index's table has no column '${name}'`);
  return (row) => column.get(row);
}

/** [rows × dimension], each row with length 1: rounding to halves made it a little longer or shorter. */
export function decodeVectors(batch: Batch, dimension: number): Float32Array {
  const vectors = new Float32Array(batch.numRows * dimension);
  let filled = 0;
  for (const { offset, children } of batch.getChild('vector')?.data ?? []) {
    const [child] = children;
    if (!child) break;
    const rows = Math.min(batch.numRows - filled, (child.values as Uint16Array).length / dimension - offset);
    const halves = (child.values as Uint16Array).subarray(offset * dimension, (offset + rows) * dimension);
    vectors.set(fromHalf(halves), filled * dimension);
    filled += rows;
  }
  if (filled !== batch.numRows) throw new Error(`${filled} embeddings for ${batch.numRows} images`);
  for (let row = 0; row < filled; row++) toUnit(vectors.subarray(row * dimension, (row + 1) * dimension));
  return vectors;
}
