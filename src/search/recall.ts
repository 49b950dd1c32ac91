/** How much of what a comparison of all images finds an index finds too: asked with images of the index itself. */
import { openProducts } from '../infer.ts';
import { productsGraph } from '../models/products.ts';
import type { SearchIndex } from './search-index.ts';

export interface Query {
  key: string;
  /** [dimension] */
  vector: Float32Array;
}

export interface Answer {
  /** Of the hits, best first. */
  scores: number[];
  ms: number;
}

/** Scores that are closer are equal: in which order they come is chance. */
const tie = 1e-6;

/** What an index promises: of the ten images that are closest, it finds as many. */
export const promisedRecall = 0.99;

export interface Check {
  queries: number;
  /** Against a comparison with all images. */
  recallAt1: number;
  recallAt10: number;
  /** For ten hits, one search after the other. */
  p50Ms: number;
  p99Ms: number;
  exactP50Ms: number;
  exactP99Ms: number;
}

/** Searches for images of the index with it and without; fewer where it has fewer. */
export async function checkIndex(
  index: SearchIndex,
  options: { queries: number; signal?: AbortSignal; onProgress?: (done: number, total: number) => void },
): Promise<Check> {
  const { onProgress, signal } = options;
  const queries = await drawQueries(index, options.queries);
  let done = 0;
  const ask = (exact: boolean): Promise<Answer[]> =>
    answerQueries(index, queries, {
      k: 10,
      exact,
      signal,
      onAnswer: () => onProgress?.(++done, 2 * queries.length),
    });
  const truths = await ask(true);
  const answers = await ask(false);
  return {
    queries: queries.length,
    recallAt1: recallOf(truths, answers, 1),
    recallAt10: recallOf(truths, answers, 10),
    p50Ms: percentileMs(answers, 0.5),
    p99Ms: percentileMs(answers, 0.99),
    exactP50Ms: percentileMs(truths, 0.5),
    exactP99Ms: percentileMs(truths, 0.99),
  };
}

/** Images with the least keys, which is a random choice and always the same; fewer where there are fewer. */
export async function drawQueries(
  index: Pick<SearchIndex, 'list' | 'vectorsOf'>,
  count: number,
): Promise<Query[]> {
  const keys = (await index.list({ limit: count })).map(({ key }) => key);
  const vectors = await index.vectorsOf(keys);
  return keys.map((key, at) => ({ key, vector: vectors[at] as Float32Array })); // one for each
}

/** What else is like each, one after the other: as who waits for an answer finds it. */
export async function answerQueries(
  index: Pick<SearchIndex, 'search'>,
  queries: readonly Query[],
  options: { k: number; exact: boolean; signal?: AbortSignal | undefined; onAnswer?: () => void },
): Promise<Answer[]> {
  const { k, exact, signal, onAnswer } = options;
  const answers: Answer[] = [];
  for (const { key, vector } of queries) {
    const startedAt = performance.now();
    const hits = await index.search({
      vectors: [vector],
      k,
      without: [key],
      exact,
      ...(signal && { signal }),
    });
    answers.push({ scores: hits.map(({ score }) => score), ms: performance.now() - startedAt });
    onAnswer?.();
  }
  return answers;
}

/**
 * What a comparison with all images finds for each, as `answerQueries` with `exact`, and that to 1e-6; but all embeddings are read
 * once, not once a query: of a million on S3 that is 4 GB, and they are multiplied with all queries at once.
 */
export async function answerByScan(
  index: Pick<SearchIndex, 'record' | 'scanVectors'>,
  queries: readonly Query[],
  options: { k: number; signal?: AbortSignal | undefined; onScanned?: (images: number) => void },
): Promise<Pick<Answer, 'scores'>[]> {
  const { k, signal, onScanned } = options;
  const { dimension } = index.record.model;
  const asked = new Float32Array(queries.length * dimension);
  for (const [at, { vector }] of queries.entries()) asked.set(vector, at * dimension);
  const answers = queries.map(({ key }) => ({ key, scores: [] as number[] }));
  const products = await openProducts(productsGraph(dimension), dimension);
  try {
    for await (const { keys, vectors } of index.scanVectors(signal)) {
      const cosines = await products.of(asked, vectors);
      for (const [at, { key, scores }] of answers.entries()) {
        for (const [row, cosine] of cosines.subarray(at * keys.length, (at + 1) * keys.length).entries())
          if (cosine > (scores[k - 1] ?? -2) && keys[row] !== key) insertScore(scores, cosine, k);
      }
      onScanned?.(keys.length);
    }
  } finally {
    await products.release();
  }
  return answers;
}

/** Keeps the best k, best first. */
function insertScore(scores: number[], score: number, k: number): void {
  const at = scores.findIndex((other) => other < score);
  scores.splice(at < 0 ? scores.length : at, 0, score);
  if (scores.length > k) scores.pop();
}

/** Of the first k of each true answer, the share that the other has: 1 where there is nothing to be found. */
export function recallOf(
  truths: readonly Pick<Answer, 'scores'>[],
  answers: readonly Answer[],
  k: number,
): number {
  let wanted = 0;
  let missed = 0;
  for (const [at, truth] of truths.entries()) {
    wanted += Math.min(k, truth.scores.length);
    missed += missedOf(truth, answers[at], k);
  }
  return wanted === 0 ? 1 : 1 - missed / wanted;
}

/** How many of the first k of a true answer another one lacks. */
export function missedOf(truth: Pick<Answer, 'scores'>, answer: Answer | undefined, k: number): number {
  const best = truth.scores.slice(0, k);
  const least = (best.at(-1) ?? 0) - tie;
  return best.length - (answer?.scores ?? []).slice(0, k).filter((score) => score >= least).length;
}

/** The time that a share of the answers took no longer than. */
export function percentileMs(answers: readonly Answer[], share: number): number {
  const sorted = answers.map(({ ms }) => ms).toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
