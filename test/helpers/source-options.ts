import { sourceOptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { sourceUri } from '../../src/sources/open-source.ts';
import type { Globs, SourceSpec } from '../../src/sources/source.ts';

/** The program's own defaults, with no endpoint named. */
export const sourceDefaults = sourceOptionsOf(resolveSettings({}, {}, {}).values);

/** What a run says of its sources, by default all that is below them. */
export function makeSpec(
  uris: readonly string[],
  globs: Partial<Globs> = {},
  changes: Partial<SourceSpec> = {},
): SourceSpec {
  return {
    uris: uris.map(sourceUri),
    include: ['**'],
    exclude: [],
    archives: false,
    list: { uri: null, id: null, keep: [] },
    ...globs,
    ...changes,
  };
}
