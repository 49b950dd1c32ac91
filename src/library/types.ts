/**
 * The types of `import … from 'lensmill'`. They are written out here, and stand on nothing else of the code, so that what a
 * program sees changes only where this file does (docs/api-typescript.md says what may change when).
 */
/// <reference lib="esnext.disposable" preserve="true" />
import type { FailureCode } from '../errors.ts';

/** Every one of T's, or `undefined`, as variables of the environment are. */
export type Given<T> = { [Name in keyof T]?: T[Name] | undefined };

/**
 * The settings of the command, by the names that they have in `lensmill.yaml`; docs/commands.md lists their defaults, units and
 * the environment variables that hold where nothing is given. A number of a setting in `Ms` is milliseconds, of one in `Bytes` bytes.
 */
export interface StoreSettings {
  s3Endpoint: string;
  s3Region: string;
  readTimeoutMs: number | string;
}

/** What whoever reads images may reach. */
export interface ReadSettings extends StoreSettings {
  allowFiles: boolean;
  allowHosts: readonly string[];
  webPerHost: number;
  webPerSecond: number;
}

/** Where a model runs, and from where it comes. */
export interface DeviceSettings {
  device: string;
  threads: number;
  decoder: 'auto' | 'native' | 'sharp';
  cacheDir: string;
}

export interface QueueSettings {
  redis: string;
  queue: string;
  highWater: number;
  attempts: number;
}

/** How fast a run is done on this machine. */
export interface WorkSettings extends DeviceSettings, QueueSettings, ReadSettings {
  batch: number;
  sessions: number;
  lanes: number;
  reads: number;
  graceMs: number | string;
}

/** What a run's rows are. */
export interface PlanSettings extends DeviceSettings, QueueSettings, ReadSettings {
  model: string;
  precision: 'auto' | 'fp32' | 'fp16' | 'int8';
  calibration: string;
  calibrationImages: number;
  resize: 'exact' | 'fast';
  topK: number;
  embedding: 'float32' | 'float16';
  head: string;
  features: readonly Layer[];
  include: readonly string[];
  exclude: readonly string[];
  archives: boolean;
  uriColumn: string;
  idColumn: string;
  columns: readonly string[];
  reuse: 'output' | 'off';
  shardSize: number;
  maxPixels: number;
  maxBytes: number | string;
}

export type Layer = 'layer1' | 'layer2' | 'layer3';

/** How long work is watched and ended. */
export interface Watching {
  /**
   * Where it aborts, work ends in good order and the call rejects with its reason. A run keeps what is done; `resumeRun` goes
   * on with it.
   */
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

export interface Progress {
  /** What is counted: 'images', 'images found', 'parts', 'bytes', 'comparisons'. */
  what: string;
  done: number;
  /** Absent where nobody knows yet. */
  total?: number;
  failed?: number;
}

export interface Logging {
  /** Gets each line of the log, JSON without a newline. By itself the library prints nothing. */
  onLog: (line: string) => void;
  logLevel: 'debug' | 'info' | 'warn' | 'error' | 'silent';
}

export interface NewRun {
  /** Its id: 1 to 64 letters, digits and . _ -. Otherwise the time and a few random digits. */
  run: string;
  /** Only what is new, changed or gone since that run; 'latest': the newest of this source and model, if there is one. */
  since: string;
  /** Whoever finishes the run brings the retrieval index of its model up to date. */
  buildIndex: boolean;
}

export type OpenOptions = Given<ReadSettings & Pick<QueueSettings, 'redis' | 'queue'> & Logging>;
export type EnqueueOptions = Given<NewRun & PlanSettings & Watching & Logging>;
export type ResumeOptions = Given<WorkSettings & Watching & Logging>;
export type IndexOptions = EnqueueOptions & ResumeOptions;

export interface EnqueuedRun {
  run: string;
  /** Images. */
  items: number;
  shards: number;
  /** Where its workers find it in Redis. */
  queue: string;
}

/** Of a finished run: items = ok + failed + gone. */
export interface FinishedRun {
  run: string;
  items: number;
  ok: number;
  failed: number;
  gone: number;
  /** Of those that are ok or failed, the ones whose bytes were known already. */
  reused: number;
  /** Failed images by reason. */
  failures: Record<string, number>;
}

export interface RunStatus {
  run: string;
  state: 'planning' | 'unfinished' | 'done';
  source: string;
  model: string;
  shards: number;
  /** Shards whose part stands in the store. */
  committed: number;
  items: number;
  /** Of a finished run, by itself. */
  ok?: number;
  failed?: number;
  /** The run that this one mends. */
  retryOf?: string;
  /** What Redis knows of one that is unfinished, where it is named and answers. */
  queue?: QueueStatus;
}

export interface QueueStatus {
  /** 'blocked': workers met what only an operator can mend, the `reason`. Absent where Redis does not know the run. */
  state?: 'open' | 'paused' | 'blocked' | 'cancelled';
  reason?: string;
  /** Shards. */
  waiting: number;
  active: number;
  delayed: number;
  /** Shards that were given up, and why. */
  failures: Record<string, string>;
}

/** A class that the model sees in an image, and how likely. */
export interface Label {
  /** Its index. */
  label: number;
  name: string;
  score: number;
}

interface AnyRow {
  /** Unique in its run. */
  id: string;
  uri: string;
  etag: string;
  /** Of its file. */
  bytes: number;
  /** The run that made it: the one that was asked for, one before it, or a retry. */
  run: string;
  /** What came with the image: columns of a list. */
  extra: Record<string, unknown> | null;
}

export interface OkRow extends AnyRow {
  status: 'ok';
  /** Of its content, hex. */
  sha256: string;
  /** Pixels, upright. */
  width: number;
  height: number;
  /** 'jpeg', 'png' …, by content. */
  format: string;
  /** The top k, best first. */
  labels: Label[];
  /** As the model made it: of no certain length. */
  embedding: Float32Array;
  /** What the run's head says; empty where it has none. */
  headLabels: Label[];
  features: { [Name in Layer]?: Float32Array };
}

export interface FailedRow extends AnyRow {
  status: 'failed';
  /** Why it has no embedding; these words are stable. */
  error: FailureCode;
  message: string;
}

export type Row = OkRow | FailedRow;

/** Which run of an output: not needed where there is but one, or one chain of increments. */
export interface WhichRun {
  run: string;
}

export interface Verification {
  run: string;
  /** Every planned image is exactly one row of an undamaged part, and so it is with each retry. */
  isSound: boolean;
  items: number;
  ok: number;
  failed: number;
  gone: number;
  parts: number;
  /** What does not hold, a line each; those of retries too. */
  problems: string[];
}

export interface ImageContent {
  content: Uint8Array;
  /** Hex. */
  sha256: string;
}

/** Where runs are written: a folder, or a prefix in a bucket. */
export interface Output extends AsyncDisposable {
  /** `file:///…` or `s3://…`. */
  readonly uri: string;
  /** Every run, by id. */
  runs(): Promise<RunStatus[]>;
  /** Throws ConfigError 'no-run'. */
  run(id: string): Promise<RunStatus>;
  /**
   * The rows that count of a finished run: its own, of an increment also those of the runs before it, each with the row of its
   * latest retry. Run after run, in each by id. A part is in memory at a time, and two are read ahead. Throws ConfigError 'no-run', 'which-run',
   * 'not-planned', 'not-finished'.
   */
  rows(options?: Given<WhichRun & Pick<Watching, 'signal'>>): AsyncIterable<Row>;
  /** That of one image: some ten small reads, and one part. */
  row(id: string, options?: Given<WhichRun>): Promise<Row | undefined>;
  /** An image's bytes, from where its run found them. Throws ConfigError 'no-image'; ImageError. */
  readImage(id: string, options?: Given<WhichRun & Pick<Watching, 'signal'>>): Promise<ImageContent>;
  /** Reads every part of a run and of its retries. */
  verify(run: string, options?: Given<Watching>): Promise<Verification>;
  /** Safe to call twice, as `await using` does. */
  close(): Promise<void>;
}

/** What an image must be; all that is given must hold. */
export interface Filter {
  /** One of these is among its labels: names, or indices. */
  labels: readonly (string | number)[];
  /** Its id starts with this. */
  prefix: string;
  /** Its row is of one of these runs, or of a retry of them. */
  runs: readonly string[];
  minBytes: number;
  maxBytes: number;
  /** Pixels of its shorter side, at least. */
  minSide: number;
  /** Its run was started then or later. */
  since: Date;
  before: Date;
}

/** Something to search by. What the index holds as it is now is not embedded again. */
export type Query =
  /** An image of the index, by its id, uri or key. */
  | { id: string }
  /** An embedding, of any length but 0. */
  | { vector: ArrayLike<number> }
  /** A path. */
  | { file: string }
  /** `https://…` or `s3://…`. */
  | { url: string }
  /** A picture's bytes. */
  | { content: Uint8Array };

export interface SearchOptions {
  /** Hits wanted, 1 to 1000; 20 otherwise. */
  k: number;
  filter: Given<Filter>;
  /** Cosine that a hit must have. */
  minScore: number;
  /** Every image is compared, whatever index there is. */
  exact: boolean;
  signal: AbortSignal;
}

/** An image of an index. */
export interface IndexedImage {
  /** Names it in an index and in the HTTP API: 32 hex digits. */
  key: string;
  id: string;
  uri: string;
  /** The run that made its row; when that was started: ISO 8601, UTC. */
  run: string;
  runAt: string;
  sha256: string;
  bytes: number;
  width: number;
  height: number;
  format: string;
  labels: Label[];
}

export interface Hit extends IndexedImage {
  /** Cosine to what was searched for, -1 to 1. */
  score: number;
}

export interface DuplicatesOptions extends Watching {
  /** Cosine to the image that is best kept, from which on another is its duplicate; 0.95 otherwise. */
  threshold: number;
  filter: Given<Filter>;
  /** Groups that are told, the largest first; all otherwise. */
  limit: number;
}

export interface Duplicates {
  /** Images that were compared. */
  images: number;
  /** Groups there are; `groups` may be fewer. */
  found: number;
  groups: DuplicateGroup[];
}

export interface DuplicateGroup {
  /** The one that is best kept first, the others by their cosine to it (`score`). */
  images: (Hit & { /** Its bytes are those of the first. */ isCopy: boolean })[];
}

/** A retrieval index, open: a snapshot, which builds that go on meanwhile do not change. */
export interface Index extends AsyncDisposable {
  readonly images: number;
  /** Whose rows are in it. */
  readonly runs: readonly string[];
  /** What made its embeddings; those of two indexes may be compared if and only if `fingerprint` is equal. */
  readonly model: { ref: string; fingerprint: string; dimension: number; untrained: boolean };
  /** Images like these, best first; several are averaged. The model is loaded with the first picture that is not in the index. */
  search(by: Query | readonly Query[], options?: Given<SearchOptions>): Promise<Hit[]>;
  /** By id, uri or key; of several the one of the newest run. */
  find(name: string): Promise<IndexedImage | undefined>;
  /** Its embedding, of length 1. Throws ConfigError 'no-image'. */
  vector(key: string): Promise<Float32Array>;
  duplicates(options?: Given<DuplicatesOptions>): Promise<Duplicates>;
  /** Safe to call twice. */
  close(): Promise<void>;
}

/** Which index of an output: not needed where all its runs are by one model. */
export interface WhichIndex {
  /** The one that holds, or is to hold, the rows of this run. */
  run: string;
  /** How its model's fingerprint starts. */
  fingerprint: string;
}

export type OpenIndexOptions = Given<WhichIndex & DeviceSettings & ReadSettings & Logging>;
export type BuildIndexOptions = Given<WhichIndex & StoreSettings & Watching & { rebuild: boolean }>;

export interface BuiltIndex {
  fingerprint: string;
  images: number;
  runs: string[];
  how: 'built' | 'extended' | 'rebuilt' | 'unchanged';
}
