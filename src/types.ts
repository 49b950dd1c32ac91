/** The words that every step shares. */
import type { Failure } from './errors.ts';
import type { RowExtras } from './parts/row-extras.ts';

/** One image to do, as its source listed it. */
export interface Item {
  /** Unique in its run: the path or key below the source's root, '/'-separated. */
  id: string;
  /** Where it can be read again: `file:///…`, `s3://…`, `https://…`; a member of an archive is `ARCHIVE-URI!MEMBER`. */
  uri: string;
  /** Changes when the content does: S3's ETag, size and mtime of a file; '' where nothing is known of it. */
  etag: string;
  /** Bytes; 0 where it is not known. */
  size: number;
  /** Of an archive's member: where it lies, so that it can be read without the rest. */
  at?: MemberPlace;
  /** What came with it, as JSON values: columns of a list, WebDataset's `__key__`. */
  extra?: Readonly<Record<string, unknown>>;
  /** An earlier run has a row of it, which this one's replaces. */
  replaces?: true;
  /** Its source no longer has it: nothing is read, and its row says so. It `replaces`. */
  gone?: true;
}

export interface MemberPlace {
  /** Etag of the archive that this place is in. */
  archive: string;
  /** In a tar: the first byte of its content, in the decompressed stream where the tar is compressed. In a zip: its local header. */
  first: number;
  /** Bytes from there on: of its content in a tar; of header and compressed content in a zip. */
  count: number;
  /** How a zip holds it; absent in a tar. 'encrypted' and any other method's number cannot be read. */
  packed?: 'stored' | 'deflated' | 'encrypted' | number;
}

/** What a decoder learned of a picture. Width and height are those of the upright picture, in pixels. */
export interface ImageFacts {
  width: number;
  height: number;
  /** 'jpeg', 'png', 'webp', 'gif', 'tiff', 'avif' …: by content, never by name. */
  format: string;
}

/** What is known of an item's bytes, whether or not they became pixels. */
export interface ByteFacts {
  sha256: string;
  bytes: number;
}

/** How one item ended: pixels in a batch slot, a reason, or nothing to do. */
export type Outcome =
  | ({ status: 'gone' } & { [Fact in keyof (ByteFacts & ImageFacts)]?: undefined })
  | ({ status: 'ok' } & ImageFacts & ByteFacts)
  | ({ status: 'failed' } & Failure & Partial<ByteFacts> & Partial<ImageFacts>);

/** What bytes came to, before or elsewhere. */
export interface KnownRow {
  outcome: Outcome;
  /** [dimension], and [topK] each; meaningless where the outcome is not ok. */
  embedding: Float32Array;
  scores: Float32Array;
  labels: Int32Array;
  /** What made it, as in `Provenance`. */
  device: string;
}

/** One shard's results, column by column; row r belongs to `items[r]`. With extras its rows are longer: parts/row-extras.ts. */
export interface ShardRows {
  items: readonly Item[];
  outcomes: readonly Outcome[];
  /** [rows × dimension], row-major; the rows of failed items are meaningless. */
  embeddings: Float32Array;
  /** [rows × topK], softmax probabilities, best first. */
  scores: Float32Array;
  /** [rows × topK], class indices. */
  labels: Int32Array;
}

/** What the model makes of one batch; row r belongs to image r. */
export interface BatchResult {
  /** [batch × dimension] */
  embeddings: Float32Array;
  /** [batch × topK] */
  scores: Float32Array;
  /** [batch × topK] */
  labels: Int32Array;
}

/** Colour means and deviations are per channel, RGB, on a 0–1 scale. */
export interface Preprocessing {
  /** Length in pixels that the shorter side is resized to. */
  resize: number;
  /** Side of the centre crop in pixels: what the network sees. */
  crop: number;
  interpolation: 'bilinear' | 'bicubic';
  mean: readonly [number, number, number];
  std: readonly [number, number, number];
}

/** 'exact' equals torchvision's pixels bit for bit; 'fast' lets libvips shrink while it decodes. */
export type ResizeMode = 'exact' | 'fast';

/** What a model reckons in. 'int8': bytes, on ranges that were measured beforehand; for CPUs. */
export type Precision = 'fp32' | 'fp16' | 'int8';

/** Which numbers a run makes. Two outputs may be compared if and only if their fingerprints are equal. */
export interface ModelIdentity {
  /** What the user asked for: a preset, a file name, or `random:SEED`. */
  ref: string;
  /** 'resnet152', 'resnet50', or depths such as 'resnet-1-1-1-1'. */
  architecture: string;
  /** SHA-256 of the weights file, or of the seed's recipe. */
  weights: string;
  /** True for `random:SEED`: every place that shows results must say so. */
  untrained: boolean;
  preprocessing: Preprocessing;
  resizeMode: ResizeMode;
  precision: Precision;
  /** In int8, the SHA-256 of the ranges that activations are told apart in (`hashCalibration`); else null. */
  calibration: string | null;
  /** Length of an embedding: 2048 in this family. */
  dimension: number;
  /** Length of the logits: labels are indices below it. */
  classes: number;
  /** SHA-256 over the fields above but `ref`, and but a `calibration` of null. */
  fingerprint: string;
}

/** Everything that says how a part was made; written into the part's Parquet key-value metadata. */
export interface Provenance extends RowExtras {
  run: string;
  shard: number;
  lensmill: string;
  source: string;
  model: ModelIdentity;
  topK: number;
  /** 'cpu', 'cuda' or 'tensorrt', and what ran it; several joined by '+' where rows of other runs were taken. */
  device: string;
  /** Images per `session.run`. */
  batch: number;
  /** Rows that were not embedded anew, for their bytes were known. */
  reused: number;
  /** What decoded the JPEGs, such as 'libjpeg-turbo 2.1.5'; the pixels are the same whatever it was. Older parts do not say. */
  decoder?: string | undefined;
}
