/** Which of several images that look alike is kept, and which of them it stands for. */
import { compareBytewise } from '../uri.ts';
import type { IndexedImage } from './search-index.ts';

/** What is remembered of an image: 300 bytes, where all that is known of it would be a kilobyte. */
export interface Candidate extends Pick<IndexedImage, 'key' | 'id' | 'sha256' | 'bytes' | 'runAt'> {
  pixels: number;
}

export interface Ranking {
  /** Best to keep first; of images of the same bytes only the best. */
  singles: Candidate[];
  /** By the best one's key, the others of the same bytes. */
  copies: Map<string, Candidate[]>;
  /** Of each candidate, its place among the singles; -1 of copies. */
  places: Int32Array;
}

export function rankCandidates(candidates: readonly Candidate[]): Ranking {
  const order = [...candidates.keys()].sort((a, b) =>
    compareKeepers(candidates[a] as Candidate, candidates[b] as Candidate),
  );
  const singles: Candidate[] = [];
  const copies = new Map<string, Candidate[]>();
  const bests = new Map<string, Candidate>();
  const places = new Int32Array(candidates.length).fill(-1);
  for (const at of order) {
    const candidate = candidates[at] as Candidate; // its index
    const best = bests.get(candidate.sha256);
    if (best) {
      const others = copies.get(best.key) ?? [];
      copies.set(best.key, others);
      others.push(candidate);
    } else {
      bests.set(candidate.sha256, candidate);
      places[at] = singles.length;
      singles.push(candidate);
    }
  }
  return { singles, copies, places };
}

/** Most pixels, then most bytes, then the oldest run: what was made of it later is a copy. */
export function compareKeepers(a: Candidate, b: Candidate): number {
  if (a.pixels !== b.pixels) return b.pixels - a.pixels;
  if (a.bytes !== b.bytes) return b.bytes - a.bytes;
  if (a.runAt !== b.runAt) return a.runAt < b.runAt ? -1 : 1;
  return compareBytewise(a.id, b.id) || compareBytewise(a.key, b.key);
}

/** Who claims whom; by places among the singles. */
export class Claims {
  /** -1: nobody. */
  readonly keepers: Int32Array;
  /** Cosine to the keeper. */
  readonly scores: Float32Array;

  constructor(count: number) {
    this.keepers = new Int32Array(count).fill(-1);
    this.scores = new Float32Array(count);
  }

  isClaimed(place: number): boolean {
    return this.keepers[place] !== -1;
  }

  /** Only images behind it are a keeper's to claim; of several keepers the nearest has an image. */
  claim(keeper: number, place: number, score: number): void {
    if (place <= keeper || (this.isClaimed(place) && score <= (this.scores[place] as number))) return;
    this.keepers[place] = keeper;
    this.scores[place] = score;
  }
}

export interface Group {
  keeper: Candidate;
  others: { candidate: Candidate; score: number }[];
}

/** Largest first, then as their keepers are ranked. */
export function joinGroups({ singles, copies }: Ranking, { keepers, scores }: Claims): Group[] {
  const groups = new Map<number, Group>();
  for (const [place, single] of singles.entries()) {
    const keeper = keepers[place] === -1 ? place : (keepers[place] as number); // as many as singles
    const score = keeper === place ? 1 : (scores[place] as number);
    const group = groups.get(keeper) ?? { keeper: single, others: [] };
    // A keeper comes before those that it claims.
    groups.set(keeper, group);
    if (place !== keeper) group.others.push({ candidate: single, score });
    for (const candidate of copies.get(single.key) ?? []) group.others.push({ candidate, score });
  }
  return [...groups.values()]
    .filter(({ others }) => others.length > 0)
    .toSorted((a, b) => b.others.length - a.others.length);
}
