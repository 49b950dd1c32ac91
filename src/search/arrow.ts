/** Images as the Arrow batches that a Lance table takes and gives. */
import {
  type Data,
  Field,
  FixedSizeList,
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
  Utf8,
  vectorFromArray,
} from 'apache-arrow';
import { fromHalf } from '../models/half.ts';
import type { IndexedImage } from './search-index.ts';

/** Images with their embeddings as they are stored: [images × dimension] halves. */
export interface ImageRows {
  images: readonly IndexedImage[];
  halves: Uint16Array;
}

/** The columns of an `IndexedImage`; a table has three more: `label`, its first, `side`, its shorter, and `vector`. */
export const imageColumns = [
  'key',
  'id',
  'uri',
  'etag',
  'run',
  'run_at',
  'sha256',
  'bytes',
  'width',
  'height',
  'format',
  'labels',
  'scores',
] as const;

export function encodeImages({ images, halves }: ImageRows, dimension: number): Table {
  const texts = (pick: (image: IndexedImage) => string): Data => textData(images.map(pick));
  const int32s = (pick: (image: IndexedImage) => number): Data =>
    makeData({ type: new Int32(), length: images.length, data: Int32Array.from(images, pick) });
  const bytes = BigInt64Array.from(images, (image) => BigInt(image.bytes));
  const columns: Record<(typeof imageColumns)[number] | 'label' | 'side' | 'vector', Data> = {
    key: texts(({ key }) => key),
    id: texts(({ id }) => id),
    uri: texts(({ uri }) => uri),
    etag: texts(({ etag }) => etag),
    run: texts(({ run }) => run),
    run_at: texts(({ runAt }) => runAt),
    sha256: texts(({ sha256 }) => sha256),
    bytes: makeData({ type: new Int64(), length: images.length, data: bytes }),
    width: int32s(({ width }) => width),
    height: int32s(({ height }) => height),
    side: int32s(({ width, height }) => Math.min(width, height)),
    format: texts(({ format }) => format),
    label: int32s(({ labels }) => labels[0] ?? -1),
    labels: lists(
      images.map(({ labels }) => labels),
      new Int32(),
      (values, length) => makeData({ type: new Int32(), length, data: Int32Array.from(values) }),
    ),
    scores: lists(
      images.map(({ scores }) => scores),
      new Float32(),
      (values, length) => makeData({ type: new Float32(), length, data: Float32Array.from(values) }),
    ),
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

function lists<T extends Int32 | Float32>(
  rows: readonly (readonly number[])[],
  type: T,
  encode: (values: number[], length: number) => Data<T>,
): Data {
  const valueOffsets = new Int32Array(rows.length + 1);
  for (const [row, values] of rows.entries())
    valueOffsets[row + 1] = (valueOffsets[row] as number) + values.length;
  const values = rows.flat();
  return makeData({
    type: new List(new Field('item', type, true)),
    length: rows.length,
    nullCount: 0,
    valueOffsets,
    child: encode(values, values.length),
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

/** The images of a batch that has `imageColumns`. */
export function decodeImages(batch: Batch): IndexedImage[] {
  // As encodeImages wrote them, here and below.
  const text = (name: (typeof imageColumns)[number]) => columnOf(batch, name) as (row: number) => string;
  const number = (name: (typeof imageColumns)[number]) => columnOf(batch, name) as (row: number) => number;
  const list = (name: (typeof imageColumns)[number]) =>
    columnOf(batch, name) as (row: number) => Iterable<number>;
  const [key, id, uri, etag, run] = [text('key'), text('id'), text('uri'), text('etag'), text('run')];
  const [runAt, sha256, format] = [text('run_at'), text('sha256'), text('format')];
  const [bytes, width, height] = [number('bytes'), number('width'), number('height')];
  const [labels, scores] = [list('labels'), list('scores')];
  return Array.from({ length: batch.numRows }, (_, row) => ({
    key: key(row),
    id: id(row),
    uri: uri(row),
    etag: etag(row),
    run: run(row),
    runAt: runAt(row),
    sha256: sha256(row),
    bytes: Number(bytes(row)),
    width: width(row),
    height: height(row),
    format: format(row),
    labels: [...labels(row)],
    scores: [...scores(row)],
  }));
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

/** Gives a vector length 1, in place. False, and nothing is done, where it has no direction. */
export function toUnit(vector: Float32Array): boolean {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const length = Math.sqrt(squares);
  if (!(length > 0 && length < Number.POSITIVE_INFINITY)) return false;
  for (let i = 0; i < vector.length; i++) vector[i] = (vector[i] as number) / length;
  return true;
}
