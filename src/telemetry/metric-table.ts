/**
 * Every metric of our own, once: name, type, labels and what it says. docs/metrics.md tells the same, and a test compares them.
 * Units are Prometheus's base units; counters end in `_total`. The defaults of prom-client come beside these (telemetry/metrics.ts).
 */
import type { FailureCode } from '../errors.ts';

export interface Metric {
  name: string;
  type: 'counter' | 'gauge' | 'histogram';
  labels: readonly string[];
  help: string;
  /** Of a histogram: upper bounds, ascending. */
  buckets?: readonly number[];
}

const counter = <const Labels extends readonly string[]>(name: string, labels: Labels, help: string) => ({
  type: 'counter' as const,
  name,
  labels,
  help,
});

const gauge = <const Labels extends readonly string[]>(name: string, labels: Labels, help: string) => ({
  type: 'gauge' as const,
  name,
  labels,
  help,
});

const histogram = <const Labels extends readonly string[]>(
  name: string,
  labels: Labels,
  help: string,
  buckets: readonly number[],
) => ({ type: 'histogram' as const, name, labels, help, buckets });

/**
 * A shard of 512 images: its model time is 0.17 s at 3,000 images/s and 34 s at 15, and one of 16,384 takes twenty minutes
 * there; a part is written in some tens of ms. Steps of about 2.5 over those five orders, so that a quantile is right to the step.
 */
const stageSeconds = [0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000];

/** What `lensmill work` tells; `device` as in `--devices`. */
export const workerTable = {
  images: counter(
    'lensmill_images_total',
    ['device', 'status'],
    'Rows of the parts that were committed here, by status: ok, failed, or gone from the source.',
  ),
  reused: counter(
    'lensmill_images_reused_total',
    ['device'],
    'Rows, ok or failed, that were not made anew, for their bytes were known.',
  ),
  failures: counter(
    'lensmill_image_failures_total',
    ['device', 'reason'],
    'Rows that failed, by their error code.',
  ),
  shards: counter(
    'lensmill_shards_total',
    ['device', 'result'],
    'Shards that were taken, by how that ended: done; failed, an attempt is lost; handed_back, to wait as before; lost, to another worker.',
  ),
  stage: histogram(
    'lensmill_stage_seconds',
    ['device', 'stage'],
    'Wall time of a shard in a stage, one observation a shard; stages of a shard overlap.',
    stageSeconds,
  ),
  batchImages: counter('lensmill_batch_images_total', ['device'], "Images that were in the model's batches."),
  batchSlots: counter('lensmill_batch_slots_total', ['device'], 'Images that those batches had room for.'),
  deviceBusy: counter(
    'lensmill_device_busy_seconds_total',
    ['device'],
    'Time that the device worked, of its sessions on average; as shards end.',
  ),
  stageBusy: counter(
    'lensmill_stage_busy_seconds_total',
    ['device', 'stage'],
    'Time that each part of the way was busy, of its places on average (reads, cores, lanes, shards in hand, the main thread); as shards end.',
  ),
  worker: counter(
    'lensmill_worker_seconds_total',
    ['device', 'state'],
    'Time of the worker by state: embedding; holding shards whose images are done; loading; idle, while a run is open. As shards end.',
  ),
  read: counter('lensmill_read_bytes_total', ['device'], 'Bytes of images that were fetched.'),
  written: counter('lensmill_written_bytes_total', ['device'], 'Bytes of parts that were stored.'),
  limit: gauge(
    'lensmill_worker_limit',
    ['device', 'limit'],
    '1 for what limited the worker over some five minutes, else 0; absent while it is idle.',
  ),
  lag: gauge(
    'lensmill_event_loop_lag_seconds',
    ['device'],
    "The longest that the worker's event loop was kept waiting within a minute.",
  ),
  redisSeen: gauge(
    'lensmill_redis_last_seen_seconds',
    ['device'],
    'Since Redis last answered the worker, or since the worker started where it never did.',
  ),
  memory: gauge(
    'lensmill_worker_memory_bytes',
    ['device'],
    'Resident memory of the worker process, with all its threads.',
  ),
  inFlight: gauge('lensmill_shards_in_flight', ['device'], 'Shards that the worker has in hand.'),
  ready: gauge('lensmill_worker_ready', ['device'], '1 while the worker takes shards, else 0.'),
  restarts: counter(
    'lensmill_worker_restarts_total',
    ['device', 'cause'],
    'Worker processes that were started in place of another, by cause: crash; memory, above --max-memory; store, which did not answer.',
  ),
  model: gauge(
    'lensmill_model_info',
    ['device', 'model', 'architecture', 'precision', 'fingerprint'],
    '1 for the model that the worker has loaded.',
  ),
  build: gauge('lensmill_build_info', ['version', 'node'], '1 for the version of lensmill and of Node.'),
} satisfies Record<string, Metric>;

/** From what is in memory to a search by a picture on a CPU, and to what a person has given up on. */
const requestSeconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** What `lensmill serve` tells: of the queue of its output, as Redis has it, and of its own requests. */
export const serveTable = {
  jobs: gauge(
    'lensmill_queue_shards',
    ['state'],
    'Shards of open runs in Redis: waiting, active, delayed until their next attempt; and those that failed for good.',
  ),
  runs: gauge(
    'lensmill_runs',
    ['state'],
    'Runs that workers are told of, by state: open, paused, blocked, cancelled.',
  ),
  shards: gauge(
    'lensmill_run_shards',
    ['run', 'state'],
    'Shards of each open run: done, left, or failed for good.',
  ),
  images: gauge('lensmill_queue_images', [], 'Images of open runs that are not done.'),
  pool: gauge(
    'lensmill_pool_images_per_second',
    [],
    'Images a second of all workers over some five minutes, for the runs that are open.',
  ),
  backlog: gauge(
    'lensmill_backlog_worker_seconds',
    [],
    'What one worker would need for all that is in Redis; 0 only when nothing is. Until a shard of a model is done, 500 images a second are assumed.',
  ),
  drain: gauge(
    'lensmill_predicted_drain_seconds',
    [],
    'What the pool, at its present pace, needs for all that is in Redis; absent while nobody works.',
  ),
  errors: counter(
    'lensmill_queue_scrape_errors_total',
    [],
    'Scrapes for which Redis did not answer in time: what is told of the queue is then absent.',
  ),
  requests: histogram(
    'lensmill_http_request_seconds',
    ['method', 'route', 'status'],
    'Requests of the API and the page, by how long they took; streams of events are none.',
    requestSeconds,
  ),
  build: workerTable.build,
} satisfies Record<string, Metric>;

/** The failure codes there are: a counter whose series is new has no first increase. */
export const failureReasons = Object.keys({
  empty: 0,
  'unsupported-format': 0,
  truncated: 0,
  corrupt: 0,
  'too-many-pixels': 0,
  'too-many-bytes': 0,
  'not-found': 0,
  changed: 0,
  'access-denied': 0,
  encrypted: 0,
  'bad-uri': 0,
  'not-allowed': 0,
  'read-failed': 0,
  timeout: 0,
  'crashed-worker': 0,
} satisfies Record<FailureCode, 0>);
