/** Every setting, once: flag, environment variable, unit, default, and how to choose it. */
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { layers } from '../parts/row-extras.ts';
import {
  byteSize,
  durationMs,
  flagValue,
  leastMemoryBytes,
  list,
  number,
  redisUrl,
  text,
  whole,
} from './values.ts';

interface Setting<T> {
  /** As commander takes it: `--name <value>`. */
  flag: string;
  env: string;
  help: string;
  parse: z.ZodType<T>;
  /** As a user would type it; `undefined` where the setting may stay unset. */
  default: string | undefined;
  /** What of it is not printed: all, or the password of a URL. */
  secret?: 'whole' | 'password';
}

function setting<T>(one: Setting<T>): Setting<T> {
  return one;
}

export const settingsTable = {
  output: setting({
    flag: '--output <uri>',
    env: 'LENSMILL_OUTPUT',
    help: 'where runs are written: a folder or s3://bucket/prefix',
    parse: text.optional(),
    default: undefined,
  }),
  redis: setting({
    flag: '--redis <url>',
    env: 'REDIS_URL',
    help: 'redis://, redis-sentinel://, redis-cluster://, each with rediss for TLS, or a socket path (docs/redis.md); unset: a private redis-server that lives as long as the command',
    parse: redisUrl.optional(),
    default: undefined,
    secret: 'password',
  }),
  queue: setting({
    flag: '--queue <name>',
    env: 'LENSMILL_QUEUE',
    help: "queue in Redis; unset: named after the output, so that an output's workers find each other",
    parse: z
      .string()
      .regex(/^[A-Za-z0-9._-]+$/, 'expected letters, digits and . _ -')
      .optional(),
    default: undefined,
  }),
  model: setting({
    flag: '--model <ref>',
    env: 'LENSMILL_MODEL',
    help: 'a preset (`lensmill model info`), a .safetensors or .onnx file, or random:SEED',
    parse: text.optional(),
    default: undefined,
  }),
  precision: setting({
    flag: '--precision <p>',
    env: 'LENSMILL_PRECISION',
    help: 'fp32; fp16 (for GPUs; on a CPU it is no faster); int8 (for CPUs: three times as fast, close but not equal); auto: fp16 where this machine has a GPU, else fp32, and what an .onnx has',
    parse: z.enum(['auto', 'fp32', 'fp16', 'int8']),
    default: 'auto',
  }),
  calibration: setting({
    flag: '--calibration <file>',
    env: 'LENSMILL_CALIBRATION',
    help: 'what int8 is quantised by (`lensmill model calibrate`); unset: as the newest int8 run of the output, else measured on images of the source',
    parse: text.optional(),
    default: undefined,
  }),
  calibrationImages: setting({
    flag: '--calibration-images <n>',
    env: 'LENSMILL_CALIBRATION_IMAGES',
    help: 'images of the source that int8 is calibrated on, where it is; at least 8',
    parse: whole(8, 4096),
    default: '64',
  }),
  resize: setting({
    flag: '--resize <mode>',
    env: 'LENSMILL_RESIZE',
    help: "exact: torchvision's pixels, bit for bit; fast: shrink while decoding, close but not equal",
    parse: z.enum(['exact', 'fast']),
    default: 'exact',
  }),
  topK: setting({
    flag: '--top-k <n>',
    env: 'LENSMILL_TOP_K',
    help: 'predictions stored per image',
    parse: whole(1, 1000),
    default: '5',
  }),
  embedding: setting({
    flag: '--embedding <type>',
    env: 'LENSMILL_EMBEDDING',
    help: 'how embeddings are stored: float32 (8 KB an image) or float16 (4 KB)',
    parse: z.enum(['float32', 'float16']),
    default: 'float32',
  }),
  head: setting({
    flag: '--head <file>',
    env: 'LENSMILL_HEAD',
    help: 'a head (`lensmill probe train`) that is computed with the embeddings: columns head_labels and head_scores',
    parse: text.optional(),
    default: undefined,
  }),
  features: setting({
    flag: '--features <layers...>',
    env: 'LENSMILL_FEATURES',
    help: 'features from within the network, each the mean over the picture: layer1 (256 numbers), layer2 (512), layer3 (1024); columns features_layer3 …',
    parse: list.pipe(z.array(z.enum(layers, { error: `expected ${layers.join(', ')}` }))).optional(),
    default: undefined,
  }),
  device: setting({
    flag: '--device <d>',
    env: 'LENSMILL_DEVICE',
    help: 'cpu, cuda, cuda:N, tensorrt, tensorrt:N (docs/gpu.md), or auto: cuda where a GPU and its libraries are there, else cpu; never a silent fallback; sleep:MS stands for a GPU in measurements, with --model null',
    parse: z
      .string()
      .regex(
        /^(auto|cpu|(cuda|tensorrt)(:[0-9]+)?|sleep:[0-9]{1,5})$/,
        'expected auto, cpu, cuda, cuda:N, tensorrt, tensorrt:N or sleep:MS',
      ),
    default: 'auto',
  }),
  devices: setting({
    flag: '--devices <list>',
    env: 'LENSMILL_DEVICES',
    help: 'the devices of `lensmill work`, one process each, instead of --device: cuda:0,cuda:2; cuda alone is every GPU that is visible, cpu:4 four processes that share the cores, sleep:MS:4 likewise',
    parse: list
      .pipe(
        z.array(
          z
            .string()
            .regex(
              /^(auto|cpu(:[1-9][0-9]{0,2})?|(cuda|tensorrt)(:[0-9]+)?|sleep:[0-9]{1,5}(:[1-9][0-9]{0,2})?)$/,
              'expected a list such as cuda:0,cuda:1 or cpu:4, of auto, cpu, cpu:COUNT, cuda, cuda:N, tensorrt, tensorrt:N, sleep:MS and sleep:MS:COUNT',
            ),
        ),
      )
      .optional(),
    default: undefined,
  }),
  threads: setting({
    flag: '--threads <n>',
    env: 'LENSMILL_THREADS',
    help: 'threads of all sessions together on a CPU; 0: one per core of this process',
    parse: whole(0),
    default: '0',
  }),
  batch: setting({
    flag: '--batch <n>',
    env: 'LENSMILL_BATCH',
    help: 'images per step of the model; 0: as `lensmill tune` found, else 8 on a CPU, 64 on a GPU',
    parse: whole(0, 4096),
    default: '0',
  }),
  sessions: setting({
    flag: '--sessions <n>',
    env: 'LENSMILL_SESSIONS',
    help: 'models side by side on the device, each with its own memory (0.6 GB for ResNet-152 in fp32); 0: as `lensmill tune` found, else 2 on a CPU, 1 on a GPU',
    parse: whole(0, 64),
    default: '0',
  }),
  lanes: setting({
    flag: '--lanes <n>',
    env: 'LENSMILL_LANES',
    help: 'threads that fetch and decode; 0: two, or one per sixteen cores, on a CPU device; one per core beside a GPU',
    parse: whole(0, 256),
    default: '0',
  }),
  reads: setting({
    flag: '--reads <n>',
    env: 'LENSMILL_READS',
    help: 'images that a lane reads and decodes at once; more hides a slow store, and costs memory',
    parse: whole(1, 256),
    default: '8',
  }),
  decoder: setting({
    flag: '--decoder <d>',
    env: 'LENSMILL_DECODER',
    help: 'of JPEGs: native (libjpeg-turbo), sharp, or auto: native where it is built; the pixels are the same',
    parse: z.enum(['auto', 'native', 'sharp']),
    default: 'auto',
  }),
  shardSize: setting({
    flag: '--shard-size <n>',
    env: 'LENSMILL_SHARD_SIZE',
    help: 'images per shard and part (8 KB each): what is done again when a worker dies; use more beyond 100 million images',
    // Encoding a part holds the thread that renews locks: 16,384 rows take two seconds.
    parse: whole(1, 16384),
    default: '512',
  }),
  include: setting({
    flag: '--include <globs...>',
    env: 'LENSMILL_INCLUDE',
    help: 'only ids that match one of these; unset: the usual image extensions',
    parse: list.optional(),
    default: undefined,
  }),
  exclude: setting({
    flag: '--exclude <globs...>',
    env: 'LENSMILL_EXCLUDE',
    help: 'no id that matches one of these',
    parse: list.optional(),
    default: undefined,
  }),
  archives: setting({
    flag: '--archives',
    env: 'LENSMILL_ARCHIVES',
    help: 'open the tar and zip archives that are found below a folder or prefix',
    parse: flagValue,
    default: 'false',
  }),
  uriColumn: setting({
    flag: '--uri-column <name>',
    env: 'LENSMILL_URI_COLUMN',
    help: 'column of a list that says where its images are; unset: uri, url, path or file',
    parse: text.optional(),
    default: undefined,
  }),
  idColumn: setting({
    flag: '--id-column <name>',
    env: 'LENSMILL_ID_COLUMN',
    help: 'column of a list that names its images; unset: the URI is the id',
    parse: text.optional(),
    default: undefined,
  }),
  columns: setting({
    flag: '--columns <names...>',
    env: 'LENSMILL_COLUMNS',
    help: "columns of a list that are carried to the output, in each row's `extra`",
    parse: list.optional(),
    default: undefined,
  }),
  reuse: setting({
    flag: '--reuse <where>',
    env: 'LENSMILL_REUSE',
    help: 'output: bytes that a run of the output has embedded, by the same model, are not embedded again; off: always anew',
    parse: z.enum(['output', 'off']),
    default: 'output',
  }),
  maxPixels: setting({
    flag: '--max-pixels <n>',
    env: 'LENSMILL_MAX_PIXELS',
    help: 'larger images become failed rows; a lane may need 4 bytes a pixel for each of its reads',
    parse: whole(1),
    default: '100000000',
  }),
  maxBytes: setting({
    flag: '--max-bytes <size>',
    env: 'LENSMILL_MAX_BYTES',
    help: 'larger files become failed rows',
    parse: byteSize,
    default: '64MB',
  }),
  sample: setting({
    flag: '--sample <n>',
    env: 'LENSMILL_SAMPLE',
    help: 'images that a certificate is made of, 20 to 8192; the time to compare them grows with their square',
    parse: whole(20, 8192),
    default: '512',
  }),
  minCosine: setting({
    flag: '--min-cosine <x>',
    env: 'LENSMILL_MIN_COSINE',
    help: 'a certificate wants this median cosine between an embedding and the one by fp32',
    parse: number(0, 1),
    default: '0.99',
  }),
  minTop1: setting({
    flag: '--min-top1 <x>',
    env: 'LENSMILL_MIN_TOP1',
    help: 'a certificate wants this share of images to have the label that fp32 gives them',
    parse: number(0, 1),
    default: '0.95',
  }),
  minRecall: setting({
    flag: '--min-recall <x>',
    env: 'LENSMILL_MIN_RECALL',
    help: "a certificate wants this share of an image's ten nearest to be those by fp32",
    parse: number(0, 1),
    default: '0.9',
  }),
  readTimeoutMs: setting({
    flag: '--read-timeout <time>',
    env: 'LENSMILL_READ_TIMEOUT',
    help: 'longest that one read of an image or a part may take; tried again after that',
    parse: durationMs,
    default: '30s',
  }),
  allowFiles: setting({
    flag: '--allow-files',
    env: 'LENSMILL_ALLOW_FILES',
    help: 'read the files of this machine that a list names',
    parse: flagValue,
    default: 'false',
  }),
  allowHosts: setting({
    flag: '--allow-host <hosts...>',
    env: 'LENSMILL_ALLOW_HOST',
    help: 'hosts (host or host:port) that may be reached although their address is private, loopback or link-local',
    parse: list.optional(),
    default: undefined,
  }),
  webPerHost: setting({
    flag: '--web-per-host <n>',
    env: 'LENSMILL_WEB_PER_HOST',
    help: 'requests at once to one web host, of a worker',
    parse: whole(1, 1024),
    default: '4',
  }),
  webPerSecond: setting({
    flag: '--web-per-second <n>',
    env: 'LENSMILL_WEB_PER_SECOND',
    help: 'requests a second to one web host, of a worker; 0: as many as --web-per-host gives',
    parse: number(0),
    default: '0',
  }),
  s3Endpoint: setting({
    flag: '--s3-endpoint <url>',
    env: 'AWS_ENDPOINT_URL_S3',
    help: 'an S3 server other than AWS (path-style addresses are used then)',
    parse: z.url({ protocol: /^https?$/, error: 'expected http://HOST:PORT or https://HOST' }).optional(),
    default: undefined,
  }),
  s3Region: setting({
    flag: '--s3-region <name>',
    env: 'AWS_REGION',
    help: "unset: the AWS SDK's own search, else us-east-1",
    parse: text.optional(),
    default: undefined,
  }),
  highWater: setting({
    flag: '--high-water <n>',
    env: 'LENSMILL_HIGH_WATER',
    help: 'shards that may wait in Redis (900 bytes each); the producer pauses above this and goes on at half',
    parse: whole(1),
    default: '10000',
  }),
  attempts: setting({
    flag: '--attempts <n>',
    env: 'LENSMILL_ATTEMPTS',
    help: 'times that a shard is tried before its run is reported as failed',
    parse: whole(1, 100),
    default: '5',
  }),
  graceMs: setting({
    flag: '--grace <time>',
    env: 'LENSMILL_GRACE',
    help: 'on SIGTERM, how long shards in flight may take before they are handed back',
    parse: durationMs,
    default: '25s',
  }),
  maxMemoryBytes: setting({
    flag: '--max-memory <size>',
    env: 'LENSMILL_MAX_MEMORY',
    help: 'a worker process of `lensmill work` that has more than this finishes the shards that it has and is replaced; unset: never',
    parse: byteSize.refine((bytes) => bytes >= leastMemoryBytes, 'expected 256MB or more').optional(),
    default: undefined,
  }),
  pricePerHour: setting({
    flag: '--price-per-hour <money>',
    env: 'LENSMILL_PRICE_PER_HOUR',
    help: 'what an hour of one worker costs; unset: reports of speed tell no cost',
    parse: number(0).optional(),
    default: undefined,
  }),
  host: setting({
    flag: '--host <address>',
    env: 'LENSMILL_HOST',
    help: 'address that `lensmill serve` and --metrics-port listen at; where it is not this machine alone, TLS belongs before it',
    parse: text,
    default: '127.0.0.1',
  }),
  port: setting({
    flag: '--port <n>',
    env: 'LENSMILL_PORT',
    help: 'port that it listens at; 0: any that is free',
    parse: whole(0, 65535),
    default: '8152',
  }),
  metricsPort: setting({
    flag: '--metrics-port <n>',
    env: 'LENSMILL_METRICS_PORT',
    help: 'port of /healthz, /readyz and /metrics, for whoever reaches --host; 0: any that is free; unset: none',
    parse: whole(0, 65535).optional(),
    default: undefined,
  }),
  token: setting({
    flag: '--token <text>',
    env: 'LENSMILL_TOKEN',
    help: 'what it asks of whoever connects: 16 or more letters, digits and - . _ ~ + /; unset: a new one each time',
    // What a Bearer header may hold: RFC 6750, section 2.1.
    parse: z
      .string()
      .regex(/^[A-Za-z0-9._~+/-]{16,256}$/, 'expected 16 or more letters, digits and - . _ ~ + /')
      .optional(),
    default: undefined,
    secret: 'whole',
  }),
  queueDashboard: setting({
    flag: '--queue-dashboard',
    env: 'LENSMILL_QUEUE_DASHBOARD',
    help: 'the jobs of the runs that are open, at /queues, to look at (bull-board); wants --redis',
    parse: flagValue,
    default: 'false',
  }),
  maxUploadBytes: setting({
    flag: '--max-upload <size>',
    env: 'LENSMILL_MAX_UPLOAD',
    help: 'larger pictures are not taken to search by',
    parse: byteSize,
    default: '16MB',
  }),
  cacheDir: setting({
    flag: '--cache <folder>',
    env: 'LENSMILL_CACHE',
    help: 'downloaded weights and built models',
    parse: text.transform((path) => resolve(path)),
    default: join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'lensmill'),
  }),
  logLevel: setting({
    flag: '--log-level <level>',
    env: 'LENSMILL_LOG_LEVEL',
    help: 'debug, info, warn, error or silent; on a terminal warn, unless it is set',
    parse: z.enum(['debug', 'info', 'warn', 'error', 'silent']),
    default: 'info',
  }),
  json: setting({
    flag: '--json',
    env: 'LENSMILL_JSON',
    help: 'results as JSON on stdout',
    parse: flagValue,
    default: 'false',
  }),
};

export type SettingName = keyof typeof settingsTable;
export type Settings = { [Name in SettingName]: z.output<(typeof settingsTable)[Name]['parse']> };
/** env-file: the file that its variable with _FILE names. file: `lensmill.yaml`. */
export const settingNames = Object.keys(settingsTable) as SettingName[];
