/** Settings that several commands take alike, by what they decide. */
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
