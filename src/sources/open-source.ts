import { statSync } from 'node:fs';
import { archiveKindOf } from '../archives/archive-kinds.ts';
import { ConfigError } from '../errors.ts';
import { isList } from '../lists/manifest.ts';
import { openObjects } from '../objects/open-objects.ts';
import { hasCredentials, publicUrl } from '../objects/web-url.ts';
import { fileUri, isWebUri, pathOfUri, rawOfText, schemeOf } from '../uri.ts';
import { ArchiveSource } from './archive-source.ts';
import { archivesWithin } from './archives-within.ts';
import { FolderSource } from './folder.ts';
import { DEFAULT_INCLUDE } from './globs.ts';
import { ListSource } from './list.ts';
import { manySources } from './many.ts';
import { OneSource } from './one.ts';
import { S3Source } from './s3.ts';
import type { Globs, Source, SourceOptions, SourceSpec } from './source.ts';

/**
 * The source of a run: what its name ends in says what it is. Reads nothing yet: `probe` does. Throws ConfigError:
 * 'unknown-scheme', 'bad-uri', 'bad-glob', 'same-source-twice'.
 */
export function openSource(spec: SourceSpec, options: SourceOptions): Source {
  const sources = spec.uris.map((uri) => ({ uri, source: openOne(uri, spec, options) }));
  const [only] = sources;
  if (!only) throw new Error('a run without a source: this is a bug');
  return sources.length === 1 ? only.source : manySources(sources);
}

/**
 * A source's URI as runs keep it: canonical, absolute, without a trailing slash. Throws ConfigError 'unknown-scheme', 'bad-uri',
 * 'credentials-in-uri'.
 */
export function sourceUri(given: string): string {
  switch (schemeOf(given)) {
    case 'file':
      // 'https:/user:password@host' would be a path, and be told to everybody.
      if (isWebUri(given))
        throw new ConfigError('bad-uri', `'${publicUrl(given)}' is no URL: expected https://HOST/PATH`);
      return fileUri(rawOfText(pathOfUri(given)));
    case 's3':
      return given.replace(/^s3/i, 's3').replace(/\/+$/, '');
    case 'http':
    case 'https': {
      const url = URL.parse(given);
      if (!url) throw new ConfigError('bad-uri', `'${publicUrl(given)}' is no URL`);
      if (!hasCredentials(given)) return url.href;
      const shown = publicUrl(given);
      throw new ConfigError(
        'credentials-in-uri',
        `${shown}: leave out user and password, a run would keep them`,
      );
    }
    default:
      throw unknownScheme(given);
  }
}

function openOne(uri: string, spec: SourceSpec, options: SourceOptions): Source {
  const globs = { include: spec.include ?? DEFAULT_INCLUDE, exclude: spec.exclude };
  const scheme = schemeOf(uri);
  const isWeb = isWebUri(uri);
  if (!isWeb && scheme !== 'file' && scheme !== 's3') throw unknownScheme(uri);

  const name = isWeb ? new URL(uri).pathname : uri;
  if (scheme !== 'file' || !isFolder(uri)) {
    const kind = archiveKindOf(name);
    if (kind) return new ArchiveSource(uri, kind, globs, openObjects(options));
    if (isList(uri)) {
      const listGlobs = { ...globs, include: spec.include ?? ['**'] };
      return new ListSource(uri, spec.list, listGlobs, openObjects(options), options);
    }
  }
  if (isWeb) return new OneSource(uri, openObjects(options));
  const openTree = (wanted: Globs): Source =>
    scheme === 's3' ? new S3Source(uri, wanted, options.s3) : new FolderSource(pathOfUri(uri), wanted);
  return spec.archives ? archivesWithin(openTree, globs, openObjects(options)) : openTree(globs);
}

/** A folder may be called 'holidays.zip'. */
function isFolder(uri: string): boolean {
  return statSync(pathOfUri(uri), { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function unknownScheme(uri: string): ConfigError {
  return new ConfigError(
    'unknown-scheme',
    `no source for '${schemeOf(uri)}://…'; there are: a path, file://, s3://, https://`,
  );
}
