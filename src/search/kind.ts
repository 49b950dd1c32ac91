/**
 * Whether an index pays, and how far it has to look: found by trying, on the images themselves.
 *
 * An IVF_RQ index keeps a code for each embedding, of one bit a number, in partitions around the middles of clusters. A search
 * reads the codes of `nprobes` partitions, and compares the best `refineFactor` times k by their stored embeddings. How much
 * that has to be depends on the images, so some of them are searched for, beginning with what costs least, until what is found
 * is what a comparison with all of them finds. Where one bit is not enough for that, four are tried; where they are not enough
 * either (embeddings without any structure), or where images are few, there is no index and all are compared.
 */
import type { IndexRecord } from './search-index.ts';

/**
 * Numbers up to which all are compared: 2048 images of 2048. There a search takes 4.6 ms, with an index 3.3; of 5,000 images 11
 * to 3.5, of 10,000 42 to 3.5 (two cores).
 */
const fewNumbers = 2 ** 22;

/** Images up to which comparing all of them is as quick as asking an index. */
export function fewImages(dimension: number): number {
  return Math.floor(fewNumbers / dimension);
}

/** Of what the true answer is: a little more than is promised, as it is measured on a sample. */
export const wantedRecall = 0.995;

/** Codes are tried in this order. */
export const bitsTried = [1, 4] as const;

/** Rows that a batch of a build has at most (rows.ts): a file of the table. */
export const rowsPerFile = 16_384;

export type Shape = Pick<IndexRecord, 'kind' | 'parameters'>;
export type Size = Pick<IndexRecord, 'images' | 'model'>;

/** Few, as codes cost little to read and middles much to find: 79 at 100,000 images, 250 at a million. */
export function partitionsFor(images: number): number {
  return Math.max(4, Math.round(Math.sqrt(images) / 4));
}

/** Images that recall is measured with: of their 1,280 nearest, six may be missed. */
export const measuredQueries = 128;

/**
 * What may be tried on an index, cheapest first. Microseconds: 0.03 a code, 15 an embedding that is fetched and compared; ten
 * hits are looked for.
 */
export function attemptsFor(images: number, partitions: number): { nprobes: number; refineFactor: number }[] {
  const shares = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1].map((share) => Math.ceil(partitions * share));
  const attempts = [...new Set(shares)].flatMap((nprobes) =>
    [4, 8, 16, 32, 64].map((refineFactor) => ({
      nprobes,
      refineFactor,
      cost: (0.03 * images * nprobes) / partitions + 15 * 10 * refineFactor,
    })),
  );
  return attempts
    .toSorted((a, b) => a.cost - b.cost)
    .map(({ nprobes, refineFactor }) => ({ nprobes, refineFactor }));
}

/** What is to be done to the index of the vectors: partitions that were found for half as many images do not fit any more. */
export function upkeepOf({ images, model }: Size, base: Shape | undefined, added: number): Upkeep {
  if (images <= fewImages(model.dimension)) return 'none';
  const { trainedFor = 0, addedSince = 0, addedUnmeasured = 0 } = base?.parameters ?? {};
  if (addedSince + added > trainedFor / 2 || images < trainedFor / 2) return 'train';
  return base?.kind === 'ivf-rq' && addedUnmeasured + added > images / 10 ? 'measure' : 'keep';
}

export type Upkeep = 'none' | 'keep' | 'measure' | 'train';

/** Whether a table is to be put in order: rows that no index holds are compared one by one, files are opened one by one. */
export function isUntidy(
  { images, model }: Size,
  { loose, files }: { loose: number; files: number },
): boolean {
  return (
    loose > Math.max(fewImages(model.dimension), images / 200) || files > 16 + (2 * images) / rowsPerFile
  );
}
