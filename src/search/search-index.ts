/**
 * The contract between what builds a retrieval index and what asks it: images by the cosine of their embeddings. An index holds
 * the rows of an output that count, of one model's numbers (one fingerprint): for each image the latest row, if it has an
 * embedding.
 */
import type { ModelIdentity } from '../types.ts';

/** An image of the index. */
export interface IndexedImage {
  /** Names it in an index and its API: 32 hex digits, of its uri and id. */
  key: string;
  id: string;
  /** As in its row: without a signature. */
  uri: string;
  etag: string;
  /** The run that made its row; a retry has an id of its own. */
  run: string;
  /** When that run was claimed: ISO 8601, UTC. */
  runAt: string;
  /** Of its content, hex. */
  sha256: string;
  bytes: number;
  /** Pixels, upright. */
  width: number;
  height: number;
  /** 'jpeg', 'png' …, by content. */
  format: string;
  /** Class indices, best first; `scores` are their probabilities. */
  labels: number[];
  scores: number[];
}

export interface Hit extends IndexedImage {
  /** Cosine to what was searched for, -1 to 1. */
  score: number;
}

/** What an image must be; all that is given must hold. */
export interface Filter {
  /** One of these is among its labels. */
  labels?: readonly number[];
  /** Its id starts with this. */
  prefix?: string;
  runs?: readonly string[];
  /** Of its file. */
  minBytes?: number;
  maxBytes?: number;
  /** Pixels of its shorter side, at least. */
  minSide?: number;
  /** Its run was claimed at this time or later: ISO 8601. */
  since?: string;
  /** Its run was claimed before this time. */
  before?: string;
}

export interface SearchRequest {
  /** What is looked for: embeddings, [dimension] each, of any length but 0. Several are averaged, each with length 1. */
  vectors: readonly Float32Array[];
  /** Hits wanted, 1 to 1000. */
  k: number;
  filter?: Filter;
  /** Cosine that a hit must have. */
  minScore?: number;
  /** Keys of images that shall not be found: those that are searched by. */
  without?: readonly string[];
  /** All rows are compared, whatever index there is: what `--check` and `--exact` do. */
  exact?: boolean;
  signal?: AbortSignal;
}

/** Chosen by size: docs/search.md says how. 'exact': no index is needed. */
export type IndexKind = 'exact' | 'ivf-rq';

/** How tables are laid out since arrow.ts was last changed; others are built anew, and not read. */
export const tableLayout = 2;

/** What stands in the store about an index: immutable, the newest one counts. */
export interface IndexRecord {
  /** The layout of its table. */
  v: number;
  /** Counts up: each build that changed something makes the next. */
  generation: number;
  model: ModelIdentity;
  images: number;
  /** By run: its rows that are ok and not in it, as their embedding has no direction (zeros, or numbers that are not finite). */
  leftOut: Record<string, number>;
  /** Runs whose rows are in it, retries too, in the order in which they count. */
  runs: string[];
  kind: IndexKind;
  /** Of kind: partitions looked into and so on; as `lensmill build-index --json` tells them. */
  parameters: Record<string, number>;
  /** Of the Lance table beside it: what a reader checks out. */
  version: number;
  builtAt: string;
  lensmill: string;
}

/** An index that is open for reading: a snapshot, which builds that go on meanwhile do not change. Close it once. */
export interface SearchIndex {
  readonly record: IndexRecord;
  /** Best first. Throws ConfigError 'wrong-dimension' where a vector is not as long as the model's. */
  search(request: SearchRequest): Promise<Hit[]>;
  /** By key. */
  get(key: string): Promise<IndexedImage | undefined>;
  /** By id or uri; of several the one of the newest run. */
  find(name: string): Promise<IndexedImage | undefined>;
  /** The embeddings of images, each with length 1, in the order of `keys`. Throws ConfigError 'no-image' that names a key. */
  vectorsOf(keys: readonly string[]): Promise<Float32Array[]>;
  /** Images in the order of their keys (which is random, and stable), behind `after`: a page for browsing. */
  list(options: { filter?: Filter; after?: string; limit: number }): Promise<IndexedImage[]>;
  /** All images with their embeddings, some thousand at a time, in no order. */
  scan(options?: { filter?: Filter; signal?: AbortSignal }): AsyncIterable<ScannedImages>;
  /** As `scan`, of the keys of images alone: less to read. */
  scanVectors(signal?: AbortSignal): AsyncIterable<ScannedVectors>;
  count(filter?: Filter): Promise<number>;
  /** How many images have each label as their first, most first. */
  countLabels(filter?: Filter): Promise<{ label: number; count: number }[]>;
  close(): Promise<void>;
}

export interface ScannedVectors {
  keys: string[];
  /** [images × dimension], row-major, each row with length 1. */
  vectors: Float32Array;
}

export interface ScannedImages extends Pick<ScannedVectors, 'vectors'> {
  images: IndexedImage[];
}

/**
 * Cosine from which on two images look alike, unless somebody says otherwise. By a trained ResNet, what was scaled or encoded anew
 * is nearer to its original, and other pictures of the same thing are mostly farther (docs/search.md).
 */
export const usualThreshold = 0.95;
