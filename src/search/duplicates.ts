/**
 * Images that look alike, in groups with one that is best kept.
 *
 * All images are ranked, best to keep first (`compareKeepers`). In that order, an image that no better one has claimed becomes a
 * keeper and claims the images behind it whose cosine to it is at least the threshold; one that several keepers claim goes to
 * the nearest. So every image of a group is near its keeper, no two keepers are near each other, and a row of pictures of which
 * each resembles the next is no group: who deletes all but the keepers loses nothing that has no near one left.
 *
 * Images of the same bytes are joined first. The rest is compared in one of two ways:
 *   - all with all, where their embeddings fit into memory (`mostBytes`): exact, 25 million pairs of 2048 numbers a core-second;
 *   - beyond that by the index, an image's nearest at a time. What the index does not find is not in a group.
 */
import pMap from 'p-map';
import { compareAll, compareByIndex } from './all-pairs.ts';
import { type Candidate, compareKeepers, type Group, joinGroups, rankCandidates } from './grouping.ts';
import type { Filter, Hit, IndexedImage, SearchIndex } from './search-index.ts';

export interface DuplicatesOptions {
  /** Cosine to its keeper that an image of a group has at least, -1 to 1. */
  threshold: number;
  filter?: Filter;
  /** Groups that are told; all are counted. */
  limit?: number;
  /** For embeddings in memory; more are compared by the index. */
  mostBytes?: number;
  signal?: AbortSignal | undefined;
  /** Of the comparisons; images. */
  onProgress?: (progress: { done: number; total: number }) => void;
}

export interface Duplicates {
  threshold: number;
  /** Images that were compared. */
  images: number;
  /** Groups there are; `groups` may be fewer. */
  found: number;
  /** Images of all groups but their keepers. */
  surplus: { images: number; bytes: number };
  /** Largest first. */
  groups: DuplicateGroup[];
}

export interface DuplicateGroup {
  /** The keeper first, then by cosine to it (`score`). */
  images: DuplicateImage[];
}

export interface DuplicateImage extends Hit {
  /** Its bytes are the keeper's. */
  isCopy: boolean;
}

/** 65,000 embeddings of 2048 numbers. */
const mostBytesUsually = 512 * 2 ** 20;

/** Throws the reason of `signal`, soon. Answers the event loop meanwhile, every ten milliseconds or so. */
export async function findDuplicates(index: SearchIndex, options: DuplicatesOptions): Promise<Duplicates> {
  const { threshold, filter, limit = Number.POSITIVE_INFINITY, mostBytes = mostBytesUsually } = options;
  const { dimension } = index.record.model;
  const images = await index.count(filter);
  const isHeld = images * dimension * 4 <= mostBytes;
  const loaded = await load(index, { ...options, images, isHeld });
  const ranking = rankCandidates(loaded.candidates);
  const claims = loaded.vectors
    ? await compareAll(loaded.vectors, ranking, { ...options, dimension })
    : await compareByIndex(index, ranking, options);
  const groups = joinGroups(ranking, claims);
  const surplus = groups.flatMap(({ others }) => others);
  return {
    threshold,
    images,
    found: groups.length,
    surplus: {
      images: surplus.length,
      bytes: surplus.reduce((sum, { candidate }) => sum + candidate.bytes, 0),
    },
    groups: await pMap(groups.slice(0, limit), (group) => describe(index, loaded.known, group), {
      concurrency: 4,
      ...(options.signal && { signal: options.signal }),
    }),
  };
}

interface Loaded {
  candidates: Candidate[];
  /** All that is known of them, by key; empty where there are too many. */
  known: Map<string, IndexedImage>;
  /** [images × dimension]; `undefined` where there are too many. */
  vectors: Float32Array | undefined;
}

async function load(
  index: SearchIndex,
  {
    filter,
    signal,
    images: count,
    isHeld,
  }: Pick<DuplicatesOptions, 'filter' | 'signal'> & { images: number; isHeld: boolean },
): Promise<Loaded> {
  const { dimension } = index.record.model;
  const candidates: Candidate[] = [];
  const known = new Map<string, IndexedImage>();
  const vectors = isHeld ? new Float32Array(count * dimension) : undefined;
  for await (const batch of index.scan({ ...(filter && { filter }), ...(signal && { signal }) })) {
    vectors?.set(batch.vectors, candidates.length * dimension);
    for (const image of batch.images) {
      const { key, id, sha256, bytes, runAt, width, height } = image;
      candidates.push({ key, id, sha256, bytes, runAt, pixels: width * height });
      if (isHeld) known.set(key, image);
    }
  }
  return { candidates, known, vectors };
}

async function describe(
  index: SearchIndex,
  known: ReadonlyMap<string, IndexedImage>,
  { keeper, others }: Group,
): Promise<DuplicateGroup> {
  const ordered = others.toSorted((a, b) => b.score - a.score || compareKeepers(a.candidate, b.candidate));
  const images: DuplicateImage[] = [];
  for (const { candidate, score } of [{ candidate: keeper, score: 1 }, ...ordered]) {
    const image = known.get(candidate.key) ?? (await index.get(candidate.key));
    if (!image) throw new Error(`${candidate.id} is no longer in its index: this is a bug`);
    images.push({ ...image, score, isCopy: candidate !== keeper && candidate.sha256 === keeper.sha256 });
  }
  return { images };
}
