import { ConfigError } from '../errors.ts';
import type { S3Options } from '../s3.ts';
import { pathOfUri, schemeOf } from '../uri.ts';
import { FolderSource } from './folder.ts';
import { S3Source } from './s3.ts';
import type { Globs, Source } from './source.ts';

/**
 * The source that a URI names: a plain path, `file:///…` or `s3://bucket/prefix`. Reads nothing yet: `probe` does.
 * Throws ConfigError: 'unknown-scheme', 'bad-uri', 'bad-glob'.
 */
export function openSource(uri: string, globs: Globs, s3: S3Options): Source {
  const scheme = schemeOf(uri);
  switch (scheme) {
    case 'file':
      return new FolderSource(pathOfUri(uri), globs);
    case 's3':
      return new S3Source(uri, globs, s3);
    default:
      throw new ConfigError(
        'unknown-scheme',
        `no source for '${scheme}://…'; there are: a path, file://, s3://`,
      );
  }
}
