/** What several settings say together: of reading images, and of S3. */
import type { S3Options } from '../s3/s3.ts';
import type { SourceOptions } from '../sources/source.ts';
import type { Settings } from './table.ts';

/** What the settings say of reading images. */
export function sourceOptionsOf(
  settings: Pick<
    Settings,
    's3Endpoint' | 's3Region' | 'readTimeoutMs' | 'allowFiles' | 'allowHosts' | 'webPerHost' | 'webPerSecond'
  >,
): SourceOptions {
  const { allowFiles, allowHosts = [], webPerHost, webPerSecond, readTimeoutMs } = settings;
  return {
    s3: s3OptionsOf(settings),
    web: { allowHosts, perHost: webPerHost, perSecond: webPerSecond, timeoutMs: readTimeoutMs },
    allowFiles,
  };
}

/** What the settings say of S3, for sources and stores alike. */
export function s3OptionsOf(
  settings: Pick<Settings, 's3Endpoint' | 's3Region' | 'readTimeoutMs'>,
): S3Options {
  return {
    endpoint: settings.s3Endpoint,
    region: settings.s3Region,
    requestTimeoutMs: settings.readTimeoutMs,
    connectionTimeoutMs: 5_000,
    maxSockets: 64,
    maxAttempts: 3,
  };
}
