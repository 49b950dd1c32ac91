import { ConfigError } from '../errors.ts';
import type { S3Options } from '../s3/s3.ts';
import { pathOfUri, schemeOf } from '../uri.ts';
import { FileStore } from './file.ts';
import { S3Store } from './s3.ts';
import type { Store } from './store.ts';

/**
 * The store that a URI names: a plain path, `file:///…` or `s3://bucket/prefix`. Touches nothing yet: `probe` does, and
 * need not where what another thread's found is `known`. Throws ConfigError: 'unknown-scheme', 'bad-uri'.
 */
export function openStore(uri: string, s3: S3Options, known?: Pick<Store, 'conditional'>): Store {
  const scheme = schemeOf(uri);
  switch (scheme) {
    case 'file':
      return new FileStore(pathOfUri(uri), known);
    case 's3':
      return new S3Store(uri, s3, known);
    default:
      throw new ConfigError(
        'unknown-scheme',
        `no store for '${scheme}://…'; there are: a path, file://, s3://`,
      );
  }
}
