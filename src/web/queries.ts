/** What stands in the query string of several routes. */
import { parse } from 'node:querystring';
import { z } from 'zod';
import type { Filter } from '../search/search-index.ts';
import { filter, searchQuery } from './api.ts';

const { shape } = filter;
const whole = z.coerce.number().pipe(z.int());
const wholeOrZero = whole.pipe(z.int().min(0));

/** Names that may be given several times. */
const lists = ['label', 'run'];

/** Where such a name is given once, its value is a list of one. */
export function parseQueryString(text: string): Record<string, unknown> {
  const query: Record<string, unknown> = parse(text);
  for (const name of lists) if (typeof query[name] === 'string') query[name] = [query[name]];
  return query;
}

/** A filter, its names in the singular where it is an array there. */
export const filterQuery = z.strictObject({
  label: z.array(wholeOrZero).max(1000).optional().describe('one of these is among its labels'),
  prefix: shape.prefix,
  run: shape.runs,
  minBytes: wholeOrZero.optional(),
  maxBytes: wholeOrZero.optional(),
  minSide: wholeOrZero.optional().describe('pixels of its shorter side, at least'),
  since: shape.since,
  before: shape.before,
});

export const neighboursQuery = filterQuery.extend({
  k: z.coerce.number().pipe(searchQuery.shape.k.unwrap()).default(40),
  minScore: z.coerce.number().min(-1).max(1).optional(),
});

/** How many of a list are asked for, and behind which one. */
export const pageQuery = {
  after: z.string().max(4096).optional().describe('`next` of the page before'),
  limit: whole.pipe(z.int().min(1).max(500)).default(100),
};

export const sizeQuery = {
  size: whole
    .pipe(z.int().min(64).max(1024))
    .default(256)
    .describe('of the longer side, in pixels; smaller pictures stay as they are'),
};

/** Without what is not given: it is no condition. */
export function filterOf({
  label,
  run,
  prefix,
  minBytes,
  maxBytes,
  minSide,
  since,
  before,
}: z.output<typeof filterQuery>): Filter {
  return present({
    labels: label,
    runs: run,
    prefix,
    minBytes,
    maxBytes,
    minSide,
    since,
    before,
  });
}

/** The fields that have a value. */
export function present<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  }; // as it was, but for those
}
