/** The one way to the API. Answers are typed by ../api.ts; whatever is no success is thrown as a `ProblemError`. */
import type {
  DuplicateGroups,
  FailedImages,
  FilterQuery,
  Image,
  ImagePage,
  IndexFacts,
  LabelCounts,
  MapPoints,
  Problem,
  RunFacts,
  SearchQuery,
  SearchResult,
} from '../api.ts';
import { createStore } from './store.ts';

/** 'wanted': the server asks for a token, or refused the one we had. */
export const session = createStore<'open' | 'wanted'>('open');

/** What the server said of a request that failed; code 'offline' where it said nothing. */
export class ProblemError extends Error {
  override name = 'ProblemError';
  readonly status: number;
  readonly code: string;

  constructor({ status, code, message }: Problem) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

interface Options {
  query?: URLSearchParams;
  body?: BodyInit;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export async function openSession(token: string): Promise<void> {
  await call('POST', 'session', { headers: { authorization: `Bearer ${token}` } });
  session.set('open');
}

export const askIndex = (signal: AbortSignal) => get<IndexFacts>('index', { signal });

export const askImage = (key: string, signal: AbortSignal) => get<Image>(`images/${key}`, { signal });

export const askLabels = (filter: FilterQuery, signal: AbortSignal) =>
  get<LabelCounts>('labels', { query: queryOf(filter), signal });

export const askImages = (filter: FilterQuery, { after, limit }: Page, signal: AbortSignal) =>
  get<ImagePage>('images', { query: queryOf(filter, { after, limit }), signal });

export interface Page {
  after: string | undefined;
  limit: number;
}

/** By images of the index, by pictures that are sent, or by all of these together. */
export async function search(
  query: SearchQuery,
  pictures: readonly File[],
  signal: AbortSignal,
): Promise<SearchResult> {
  const json = JSON.stringify(query);
  if (pictures.length === 0)
    return read(
      await call('POST', 'search', { body: json, headers: { 'content-type': 'application/json' }, signal }),
    );
  const body = new FormData();
  body.append('query', json);
  for (const picture of pictures) body.append('picture', picture, picture.name);
  return read(await call('POST', 'search', { body, signal }));
}

export const askDuplicates = (threshold: number, limit: number, signal: AbortSignal) =>
  get<DuplicateGroups>('duplicates', {
    query: queryOf({}, { threshold, limit }),
    signal,
  });

export const askMap = (images: number, signal: AbortSignal) =>
  get<MapPoints>('map', { query: queryOf({}, { images }), signal });

export const askRuns = (signal: AbortSignal) => get<RunFacts[]>('runs', { signal });

export const askFailures = (run: string, code: string, { after, limit }: Page, signal: AbortSignal) =>
  get<FailedImages>(`runs/${encodeURIComponent(run)}/failures`, {
    query: queryOf({}, { code, after, limit }),
    signal,
  });

export const runEvents = () => new EventSource('api/runs/events');

/** `size`: pixels of the longer side. */
export const thumbnailOf = (key: string, size: number) => `api/images/${key}/thumbnail?size=${size}`;

export const runThumbnail = (run: string, id: string, size: number) =>
  `api/runs/${encodeURIComponent(run)}/thumbnail?${queryOf({}, { id, size })}`;

/** As the API names filters in a query string. */
function queryOf(
  { labels = [], runs = [], ...single }: FilterQuery,
  more: Record<string, string | number | undefined> = {},
): URLSearchParams {
  const query = new URLSearchParams();
  for (const label of labels) query.append('label', String(label));
  for (const run of runs) query.append('run', run);
  for (const [name, value] of Object.entries({ ...single, ...more }))
    if (value !== undefined) query.set(name, String(value));
  return query;
}

const get = async <T>(path: string, options: Options): Promise<T> => read(await call('GET', path, options));

// The server holds what it answers to the same schemas that these types are made from.
const read = async <T>(reply: Response): Promise<T> => (await reply.json()) as T;

async function call(method: string, path: string, { query, ...init }: Options): Promise<Response> {
  const url = `api/${path}${query?.size ? `?${query}` : ''}`;
  let reply: Response;
  try {
    reply = await fetch(url, { method, ...init });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ProblemError({
      status: 0,
      code: 'offline',
      message:
        'The server does not answer. Is `lensmill serve` still running? This page goes on as soon as it is.',
    });
  }
  if (reply.ok) return reply;
  if (reply.status === 401) session.set('wanted');
  throw new ProblemError(await problemOf(reply));
}

/** A proxy in between may answer in words of its own. */
async function problemOf(reply: Response): Promise<Problem> {
  const said: unknown = await reply.json().catch(() => undefined);
  if (typeof said === 'object' && said !== null && 'message' in said && 'code' in said)
    return { status: reply.status, code: String(said.code), message: String(said.message) };
  return {
    status: reply.status,
    code: 'no-answer',
    message: `The server answered ${reply.status} ${reply.statusText}, and not why.`,
  };
}
