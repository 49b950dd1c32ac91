/** What the search view is asked for, read from the URL; and pictures that were dropped, which no URL can hold. */
import type { FilterQuery, Image, SearchResult } from '../api.ts';
import { go, hrefOf, newName, route, withParams } from './route.ts';

export interface SearchState {
  /** Keys of images that are searched by. */
  by: string[];
  /** Names a set of dropped pictures; see `picturesOf`. */
  dropped: string | null;
  filter: FilterQuery;
  minScore: number | undefined;
  /** Hits wanted. */
  k: number;
}

const firstHits = 60;
/** As many as the API gives. */
export const mostHits = 500;
/** Images of the index that one search takes. */
const mostKeys = 32;

export function readSearch(params: URLSearchParams): SearchState {
  return {
    by: params.getAll('by'),
    dropped: params.get('dropped'),
    filter: readFilter(params),
    minScore: numberOf(params, 'minScore'),
    k: numberOf(params, 'k') ?? firstHits,
  };
}

function readFilter(params: URLSearchParams): FilterQuery {
  const labels = params.getAll('label').map(Number).filter(Number.isInteger);
  const prefix = params.get('prefix');
  const runs = params.getAll('run');
  const minBytes = numberOf(params, 'minBytes');
  const maxBytes = numberOf(params, 'maxBytes');
  const minSide = numberOf(params, 'minSide');
  const since = timeOf(params, 'since');
  const before = timeOf(params, 'before');
  return {
    ...(labels.length > 0 && { labels }),
    ...(prefix && { prefix }),
    ...(runs.length > 0 && { runs }),
    ...(minBytes !== undefined && { minBytes }),
    ...(maxBytes !== undefined && { maxBytes }),
    ...(minSide !== undefined && { minSide }),
    ...(since && { since }),
    ...(before && { before }),
  };
}

function numberOf(params: URLSearchParams, name: string): number | undefined {
  const text = params.get(name);
  const value = Number(text);
  return text && Number.isFinite(value) ? value : undefined;
}

/** The URL has a day, which begins when it begins here. */
function timeOf(params: URLSearchParams, name: string): string | undefined {
  const time = new Date(`${params.get(name)}T00:00`);
  return Number.isNaN(time.getTime()) ? undefined : time.toISOString();
}

const filterNames = [
  'label',
  'prefix',
  'run',
  'minBytes',
  'maxBytes',
  'minSide',
  'since',
  'before',
  'minScore',
];

export const hasFilter = (params: URLSearchParams): boolean => filterNames.some((name) => params.has(name));

export const withoutFilter = (params: URLSearchParams): URLSearchParams =>
  withParams(params, Object.fromEntries(filterNames.map((name) => [name, null])));

/** The link that searches by an image alone; filters stay. */
export function hrefBy(params: URLSearchParams, key: string): string {
  return hrefOf({
    view: 'search',
    params: withParams(params, { by: key, dropped: null, why: null, k: null }),
  });
}

export function changeSearch(
  changes: Record<string, string | readonly string[] | null>,
  options: { replace?: boolean } = {},
): void {
  const { view, params } = route.get();
  // On other views a search begins anew: their parameters are their own.
  const before = view === 'search' ? params : new URLSearchParams();
  go({ view: 'search', params: withParams(before, changes) }, options);
}

/** One image more, of whose average the search is. */
export function addToSearch(key: string): void {
  const by = route.get().params.getAll('by');
  if (!by.includes(key)) changeSearch({ by: [...by, key].slice(-mostKeys), why: null, k: null });
}

/** Kept until the page is closed, so that Back finds them. */
const dropped = new Map<string, File[]>();

export function searchByPictures(files: readonly File[]): void {
  if (files.length === 0) return;
  const id = newName();
  dropped.set(id, [...files]);
  changeSearch({ dropped: id, by: null, why: null, k: null });
}

/** Undefined where the page was loaded anew since, or opened by someone else. */
export const picturesOf = (id: string): readonly File[] | undefined => dropped.get(id);

/** What became of a dropped picture: the labels that the model sees in it, or why it could not be searched by. */
export type Seen = { labels: Image['labels'] } | { refused: string };

/** In the order of the files; the answer tells of the good ones and of the refused ones apart, each in that order. */
export function seenIn(files: readonly File[], { pictures, refused }: SearchResult): (Seen | undefined)[] {
  const good = [...pictures];
  const bad = [...refused];
  return files.map(({ name }) => {
    const isRefused = bad[0]?.name === name && good[0]?.name !== name;
    const message = isRefused && bad.shift()?.message;
    if (message) return { refused: message };
    const labels = good.shift()?.labels;
    return labels && { labels };
  });
}
