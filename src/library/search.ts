/** Retrieval: indexes of an output, built, opened and asked. */
import { resolve } from 'node:path';
import type { Embedder } from '../../workers/embedder.ts';
import { openSharedEmbedder, type SharedEmbedder } from '../../workers/shared-embedder.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { findLabels } from '../models/labels.ts';
import type { Caller } from '../producer/caller.ts';
import { readRequest } from '../runs/run.ts';
import { findDuplicates } from '../search/duplicates.ts';
import { openIndex as openSearchIndex } from '../search/open-index.ts';
import {
  embedQueries,
  fileQuery,
  findImage,
  imageQuery,
  type Query as Known,
  urlQuery,
} from '../search/queries.ts';
import { finishedRuns, heldRuns } from '../search/record.ts';
import { type Filter as IndexFilter, type SearchIndex, usualThreshold } from '../search/search-index.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { number, readOption, whole } from '../settings/values.ts';
import type { Store } from '../stores/store.ts';
import { hitReply, imageReply, namesOf } from '../web/replies.ts';
import { callerOf, settingsOf } from './caller.ts';
import { openedOf, openOutputStore, withOutput } from './opened.ts';
import type {
  BuildIndexOptions,
  BuiltIndex,
  DeviceSettings,
  Duplicates,
  DuplicatesOptions,
  Filter,
  Given,
  Hit,
  Index,
  IndexedImage,
  Logging,
  OpenIndexOptions,
  Output,
  Query,
  ReadSettings,
  SearchOptions,
  WhichIndex,
} from './types.ts';

const usualHits = 20;
const mostHits = 1000;
const cosine = number(-1, 1);

/**
 * Brings the retrieval index of an output up to date with its finished runs. Throws ConfigError 'no-run', 'which-index' where the
 * runs are of several models and nothing chooses one, 'index-busy' where somebody else builds it now.
 */
export async function buildIndex(
  output: string | Output,
  options: BuildIndexOptions = {},
): Promise<BuiltIndex> {
  const { run, fingerprint, rebuild = false, ...places } = options;
  return withOutput(output, places, async ({ store, options: opened }) => {
    const { buildIndex: build } = await import('../search/build.ts');
    const { settings, interrupted: signal, reportProgress } = callerOf({ ...opened, ...options });
    const { record, how } = await build(store, {
      fingerprint: await modelOf(store, { run, fingerprint }),
      s3: s3OptionsOf(settings),
      rebuild,
      signal,
      onProgress: ({ what, ...progress }) => reportProgress(what).update(progress),
    });
    return { fingerprint: record.model.fingerprint, images: record.images, runs: record.runs, how };
  });
}

/** The model whose runs are meant. */
async function modelOf(store: Store, { run, fingerprint = '' }: Given<WhichIndex>): Promise<string> {
  const start = run === undefined ? fingerprint : (await readRequest(store, run)).model.fingerprint;
  const models = (await finishedRuns(store)).map(({ model }) => model.fingerprint);
  const meant = new Set(models.filter((known) => known.startsWith(start)));
  const [only] = meant;
  if (only === undefined) throw new ConfigError('no-run', `no finished run in ${store.uri} is meant`);
  if (meant.size === 1) return only;
  const choices = [...meant].map((known) => known.slice(0, 8)).join(' | ');
  throw new ConfigError(
    'which-index',
    `${store.uri} has finished runs of ${meant.size} models: choose with fingerprint ${choices}, or with run`,
  );
}

/**
 * Opens the newest generation of an output's index. Throws ConfigError 'no-index', 'which-index', 'other-version', 'no-run'. It
 * stays open when the output is closed.
 */
export async function openIndex(output: string | Output, options: OpenIndexOptions = {}): Promise<Index> {
  const { run, fingerprint, ...given } = options;
  const opened = typeof output === 'string' ? {} : openedOf(output).options;
  const places = { ...opened, ...given };
  const { store } = await openOutputStore(typeof output === 'string' ? output : output.uri, places);
  try {
    const s3 = s3OptionsOf(settingsOf(places));
    const which = { ...(run !== undefined && { run }), ...(fingerprint !== undefined && { fingerprint }) };
    return new OpenIndex(store, await openSearchIndex(store, { s3, ...which }), places);
  } catch (error) {
    await store.close();
    throw error;
  }
}

/** Images of an output that are like these: opens its index for one search. Throws as `openIndex` and `Index.search`. */
export async function search(
  output: string | Output,
  by: Query | readonly Query[],
  options: OpenIndexOptions & Given<SearchOptions> = {},
): Promise<Hit[]> {
  const { k, filter, minScore, exact, signal, ...places } = options;
  const index = await openIndex(output, places);
  try {
    return await index.search(by, { k, filter, minScore, exact, signal });
  } finally {
    await index.close();
  }
}

const kinds = ['id', 'vector', 'file', 'url', 'content'];

class OpenIndex implements Index {
  readonly images: number;
  readonly runs: readonly string[];
  readonly model: Index['model'];
  readonly #store: Store;
  readonly #index: SearchIndex;
  readonly #caller: Caller;
  readonly #names: readonly string[];
  #embedder: SharedEmbedder | undefined;
  #closed: Promise<void> | undefined;

  constructor(store: Store, index: SearchIndex, options: Given<DeviceSettings & ReadSettings & Logging>) {
    const { images, runs, model } = index.record;
    this.images = images;
    this.runs = runs;
    const { ref, fingerprint, dimension, untrained } = model;
    this.model = { ref, fingerprint, dimension, untrained };
    this.#store = store;
    this.#index = index;
    this.#caller = callerOf(options);
    this.#names = namesOf(index.record);
  }

  async search(by: Query | readonly Query[], options: Given<SearchOptions> = {}): Promise<Hit[]> {
    const { filter, exact = false, signal } = options;
    const k = readOption('k', options.k, whole(1, mostHits)) ?? usualHits;
    const minScore = readOption('minScore', options.minScore, cosine);
    const asked: readonly Query[] = [by].flat();
    if (asked.length === 0) throw new ConfigError('bad-option', 'nothing to search by: give a query');
    const vectors: Float32Array[] = [];
    const queries: Known[] = [];
    for (const query of asked) {
      // A program in JavaScript may give a path as it is.
      if (typeof query !== 'object' || !kinds.some((kind) => kind in query))
        throw new ConfigError('bad-option', `a query is an object with one of ${kinds.join(', ')}`);
      if ('vector' in query) vectors.push(Float32Array.from(query.vector));
      else queries.push(await this.#find(query));
    }
    const found = await embedQueries(this.#index, queries, this.#embed, signal);
    const hits = await this.#index.search({
      vectors: [...vectors, ...found.map(({ vector }) => vector)],
      k,
      filter: this.#filterOf(filter),
      // What is searched by is like itself: that tells nobody anything.
      without: found.flatMap(({ image }) => image?.key ?? []),
      exact,
      ...(minScore !== undefined && { minScore }),
      ...(signal && { signal }),
    });
    return hits.map((hit) => hitReply(hit, this.#names));
  }

  async find(name: string): Promise<IndexedImage | undefined> {
    const image = await findImage(this.#index, name);
    return image && imageReply(image, this.#names);
  }

  async vector(key: string): Promise<Float32Array> {
    const [vector] = await this.#index.vectorsOf([key]);
    return vector as Float32Array; // one for each key, or it throws
  }

  async duplicates(options: Given<DuplicatesOptions> = {}): Promise<Duplicates> {
    const { filter, signal, onProgress } = options;
    const threshold = readOption('threshold', options.threshold, cosine) ?? usualThreshold;
    const limit = readOption('limit', options.limit, whole(1));
    const { images, found, groups } = await findDuplicates(this.#index, {
      threshold,
      filter: this.#filterOf(filter),
      ...(limit !== undefined && { limit }),
      ...(onProgress && { onProgress: (progress) => onProgress({ what: 'images', ...progress }) }),
      signal,
    });
    const told = groups.map((group) => ({
      images: group.images.map((image) => ({ ...hitReply(image, this.#names), isCopy: image.isCopy })),
    }));
    return { images, found, groups: told };
  }

  close(): Promise<void> {
    this.#closed ??= Promise.all([this.#embedder?.close(), this.#index.close()]).then(() =>
      this.#store.close(),
    );
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #find(query: Exclude<Query, { vector: unknown }>): Promise<Known> {
    if ('id' in query) return imageQuery(this.#index, query.id);
    if ('file' in query) return fileQuery(this.#index, resolve(query.file));
    if ('url' in query) return urlQuery(this.#index, query.url);
    return Promise.resolve({ name: 'the picture', picture: { content: query.content } });
  }

  /** The model is loaded with the first picture, and let go when none has come for a while. */
  readonly #embed: Embedder['embed'] = async (pictures, { signal = new AbortController().signal } = {}) => {
    const { settings, log } = this.#caller;
    const run = this.runs.at(-1);
    if (run === undefined) throw new Error('an index without runs: this is a bug');
    const { device } = resolveDevice(settings.device);
    this.#embedder ??= openSharedEmbedder(this.#store, { device, settings }, log);
    return this.#embedder.embed(run, pictures, { signal });
  };

  #filterOf({ labels, runs, since, before, ...filter }: Given<Filter> = {}): IndexFilter {
    const { record } = this.#index;
    const given = {
      ...filter,
      labels: labels?.flatMap((label) => findLabels(String(label), record.model.classes)),
      runs: runs?.flatMap((run) => heldRuns(run, record)),
      since: since?.toISOString(),
      before: before?.toISOString(),
    };
    // Only what was given.
    return Object.fromEntries(
      Object.entries(given).filter(([, value]) => value !== undefined),
    ) as IndexFilter;
  }
}
