/** What `search` and `duplicates` take alike: which images are meant. */
import { z } from 'zod';
import { findLabels } from '../models/labels.ts';
import { heldRuns } from '../search/record.ts';
import type { Filter, IndexRecord } from '../search/search-index.ts';
import { byteSize, readOption, whole } from '../settings/values.ts';

export const filterOptions: readonly [string, string][] = [
  ['--label <labels...>', 'only images that have one of these among their labels: names, or indices'],
  ['--prefix <text>', 'only ids that start with it'],
  ['--run <ids...>', 'only images of these runs'],
  ['--min-bytes <size>', 'only files of this size or larger, such as 500KB'],
  ['--max-bytes <size>', 'only files of this size or smaller'],
  ['--min-side <pixels>', 'only images whose shorter side has as many'],
  ['--since <time>', 'only images of runs that were started then or later: 2026-11-24, or with a time'],
  ['--before <time>', 'only images of runs that were started before'],
];

export const indexOptions: readonly [string, string][] = [
  ['--fingerprint <start>', 'the index of this model, where the output has several'],
];

/** Of the options above. `onNotice` is told what a name may mean. Throws ConfigError 'bad-option', 'no-label', 'no-run'. */
export function filterOf(
  options: Record<string, unknown>,
  record: IndexRecord,
  onNotice: (notice: string) => void,
): Filter {
  const { classes } = record.model;
  const labels = textsOf(options.label)?.flatMap((text) => {
    const found = findLabels(text, classes);
    if (found.length > 1) onNotice(`'${text}' names classes ${found.join(' and ')}: both are meant`);
    return found;
  });
  const runs = textsOf(options.run)?.flatMap((run) => heldRuns(run, record));
  const filter: { [Name in keyof Filter]: Filter[Name] | undefined } = {
    labels,
    prefix: typeof options.prefix === 'string' ? options.prefix : undefined,
    runs,
    minBytes: readOption('--min-bytes', options.minBytes, byteSize),
    maxBytes: readOption('--max-bytes', options.maxBytes, byteSize),
    minSide: readOption('--min-side', options.minSide, whole(1)),
    since: readOption('--since', options.since, time),
    before: readOption('--before', options.before, time),
  };
  // Only what was given.
  return Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined)) as Filter;
}

/** A day begins in UTC, as the runs' own times are told. */
const time = z
  .union(
    [z.iso.date(), z.iso.datetime({ offset: true })],
    'expected such as 2026-11-24 or 2026-11-24T09:00:00Z',
  )
  .transform((text) => new Date(text).toISOString());

function textsOf(given: unknown): string[] | undefined {
  return Array.isArray(given) ? given.map(String) : undefined;
}
