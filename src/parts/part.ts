/**
 * The step "write": a shard's rows become one part, one Parquet object, and are read back.
 *
 * A part is a function of its rows and provenance, to the last byte: two workers that did the same shard on the same
 * kind of device, by the same batch, wrote the same object, and a commit can tell its own part from another's by SHA-256.
 */
import { publicUri } from '../archives/archive.ts';
import type { Failure, FailureCode } from '../errors.ts';
import { toHalf } from '../models/half.ts';
import type { Store } from '../stores/store.ts';
import type { Outcome, Provenance, ShardRows } from '../types.ts';
import {
  countErrors,
  type EmbeddingType,
  notAPart,
  type PartFooter,
  parsePartFooter,
  present,
  storedFooter,
} from './footer.ts';
import { type Column, encodeParquet, int32, int64, lists, ParquetTable, text } from './parquet.ts';
import { featureStarts, type RowColumns, rowShape, takeColumns } from './row-extras.ts';

/** A part's columns that are no lists; the lists are `labels`, `scores` and `embedding`. */
export const flatColumns = [
  'id',
  'uri',
  'etag',
  'sha256',
  'bytes',
  'width',
  'height',
  'format',
  'status',
  'error',
  'message',
  'extra',
] as const;

/** A part's rows column by column; row r of each belongs to the same item. */
export interface PartTable extends RowColumns {
  footer: PartFooter;
  ids: string[];
  uris: string[];
  etags: string[];
  /** Hex; null where the bytes were never read. */
  sha256s: (string | null)[];
  /** Size of the item: as read, or as listed where it was not. */
  bytes: number[];
  /** Pixels, upright; null where decoding did not come so far, as is `formats`. */
  widths: (number | null)[];
  heights: (number | null)[];
  formats: (string | null)[];
  statuses: Outcome['status'][];
  /** Null but in failed rows, as is `messages`. */
  errors: (FailureCode | null)[];
  messages: (string | null)[];
  /** What came with each item; JSON objects, null where nothing did. */
  extras: (string | null)[];
  /** [rows × topK], best first; zeros in rows that are not ok, as are all lists. */
  labels: Int32Array;
  /** [rows × topK], probabilities. */
  scores: Float32Array;
  /** [rows × dimension]; float16 parts are widened, here and in `features`. */
  embeddings: Float32Array;
}

/**
 * A shard's rows, at least one, as a Parquet file. Columns: id, uri, etag, sha256, bytes, width, height, format, status
 * ('ok' | 'failed' | 'gone'), error, message, extra (JSON), labels list<int32>, scores list<float>, embedding list<float32 |
 * float16>; of a run with a head, head_labels list<int32> and head_scores list<float>; of one with features, features_layer3 and
 * so on, as the embedding. A failed row has an error and a message and null lists; an ok row the other way round; a gone one neither. Provenance is JSON under the key `lensmill`.
 */
export function encodePart(
  rows: ShardRows,
  provenance: Provenance,
  options: { dimension: number; topK: number; embeddingType: EmbeddingType },
): Uint8Array {
  const { items, outcomes, embeddings } = rows;
  const isOk = outcomes.map((outcome) => outcome.status === 'ok');
  const failures = outcomes.map((outcome): Partial<Failure> => (outcome.status === 'failed' ? outcome : {}));
  const sizes = items.map((item, row) => outcomes[row]?.bytes ?? item.size);
  const extras = items.map(({ extra }) => ({ extra: extra && JSON.stringify(extra) }));
  const { head, features = [] } = provenance;
  const { topK, dimension } = options;
  const width = rowShape({ topK, model: { dimension }, head, features });
  const starts = featureStarts({ topK, model: { dimension }, head, features });
  const vectors = (name: string, first: number, length: number): Column => {
    const floats = takeColumns(embeddings, width.dimension, { first, length });
    return lists(name, options.embeddingType === 'float16' ? toHalf(floats) : floats, length, isOk);
  };
  const ranked = (prefix: string, first: number, length: number): Column[] => [
    lists(`${prefix}labels`, takeColumns(rows.labels, width.topK, { first, length }), length, isOk),
    lists(`${prefix}scores`, takeColumns(rows.scores, width.topK, { first, length }), length, isOk),
  ];
  const countOf = (status: Outcome['status']): number =>
    outcomes.filter((outcome) => outcome.status === status).length;
  return encodeParquet(
    [
      text('id', pluck(items, 'id')),
      text('uri', items.map(publicUri)),
      text('etag', pluck(items, 'etag')),
      text('sha256', pluck(outcomes, 'sha256'), 'nullable'),
      int64('bytes', sizes),
      int32('width', pluck(outcomes, 'width'), 'nullable'),
      int32('height', pluck(outcomes, 'height'), 'nullable'),
      text('format', pluck(outcomes, 'format'), 'nullable'),
      text('status', pluck(outcomes, 'status')),
      text('error', pluck(failures, 'error'), 'nullable'),
      text('message', pluck(failures, 'message'), 'nullable'),
      text('extra', pluck(extras, 'extra'), 'nullable'),
      ...ranked('', 0, topK),
      vectors('embedding', 0, dimension),
      ...(head ? ranked('head_', topK, head.topK) : []),
      ...features.map(({ layer, length }, at) => vectors(`features_${layer}`, starts[at] ?? 0, length)),
    ],
    // Parsed to put the keys in the schema's order, whoever made the object.
    storedFooter.parse({
      ...provenance,
      embedding: options.embeddingType,
      rows: items.length,
      ok: countOf('ok'),
      failed: countOf('failed'),
      gone: countOf('gone'),
      failures: countErrors(pluck(failures, 'error')),
    }),
  );
}

function pluck<Row, Key extends keyof Row>(rows: readonly Row[], key: Key): Row[Key][] {
  return rows.map((row) => row[key]);
}

/** A part's rows. Throws an Error that names the part by `key` where it is not Parquet, no part, or lacks a column. */
export function readPart(bytes: Uint8Array, key: string): PartTable {
  const footer = parsePartFooter(bytes, key);
  try {
    const table = new ParquetTable(bytes);
    return {
      footer,
      ids: present(table.text('id')),
      uris: present(table.text('uri')),
      etags: present(table.text('etag')),
      sha256s: table.text('sha256'),
      bytes: present(table.integers('bytes')),
      widths: table.integers('width'),
      heights: table.integers('height'),
      formats: table.text('format'),
      // Only encodePart writes these two columns, from the types named here.
      statuses: table.text('status') as PartTable['statuses'],
      errors: table.text('error') as PartTable['errors'],
      messages: table.text('message'),
      extras: table.text('extra'),
      labels: table.intLists('labels', footer.topK),
      scores: table.floatLists('scores', footer.topK),
      embeddings: table.floatLists('embedding', footer.model.dimension),
      headLabels: footer.head ? table.intLists('head_labels', footer.head.topK) : new Int32Array(0),
      headScores: footer.head ? table.floatLists('head_scores', footer.head.topK) : new Float32Array(0),
      features: (footer.features ?? []).map(({ layer, length }) =>
        table.floatLists(`features_${layer}`, length),
      ),
    };
  } catch (error) {
    throw notAPart(key, error);
  }
}

/** As `readPart`, from a store. Throws an Error that names the part where it is gone, too. */
export async function readStoredPart(store: Pick<Store, 'read'>, key: string): Promise<PartTable> {
  const bytes = await store.read(key);
  if (!bytes) throw new Error(`${key} is gone`);
  return readPart(bytes, key);
}
