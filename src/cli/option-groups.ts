/** What several commands take alike: settings by what they decide, and arguments. */
import type { SettingName } from '../settings/table.ts';

/** What of a source is meant. */
export const sourceSettings: readonly SettingName[] = [
  'include',
  'exclude',
  'archives',
  'uriColumn',
  'idColumn',
];

/** What decides a run's rows. */
export const planSettings: readonly SettingName[] = [
  'output',
  'model',
  'precision',
  'calibration',
  'calibrationImages',
  'resize',
  'topK',
  'embedding',
  'head',
  'features',
  ...sourceSettings,
  'columns',
  'reuse',
  'shardSize',
  'maxPixels',
  'maxBytes',
];
/** What decides how fast they are made. */
export const workSettings: readonly SettingName[] = [
  'device',
  'batch',
  'threads',
  'sessions',
  'lanes',
  'reads',
  'decoder',
  'readTimeoutMs',
  'graceMs',
  'pricePerHour',
];
export const queueSettings: readonly SettingName[] = ['redis', 'queue', 'highWater', 'attempts'];
/** What the process that reads images may do. */
export const readSettings: readonly SettingName[] = [
  'allowFiles',
  'allowHosts',
  'webPerHost',
  'webPerSecond',
];
export const placeSettings: readonly SettingName[] = ['cacheDir', 's3Endpoint', 's3Region'];

export const sourceArguments: readonly [string, string][] = [
  [
    '<source...>',
    'a folder, s3://bucket/prefix, a tar, zip or list (csv, jsonl, parquet) there or on the web',
  ],
];
export const runOptions: readonly [string, string][] = [
  ['--run <id>', 'name of the run (default: the time)'],
  [
    '--since <run>',
    'only what is new, changed or gone since that run; `latest`: the newest of this source and model',
  ],
  ['--build-index', 'bring the retrieval index up to date when the run is finished'],
];
