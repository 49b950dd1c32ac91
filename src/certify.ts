/**
 * How far two models agree about the same images: what a precision certificate says. Pure measuring, from rows to figures.
 *
 *   1. cosine   how near is an image's embedding to the one that the reference has of it?
 *   2. top-1    does the image get the same label?
 *   3. recall   does a search find the same images? Each image is searched for among the others.
 */
import { setImmediate } from 'node:timers/promises';
import { dot, toUnit } from './vectors.ts';

/** Two of these are of the same images, in the same order. */
export interface Rows {
  /** [images × dimension], row-major. */
  embeddings: Float32Array;
  /** [images × topK], best first. */
  labels: Int32Array;
}

/** How many of the images, with Wilson's interval for the share in all images that they were drawn from, at 95 %. */
export interface Share {
  count: number;
  share: number;
  low: number;
  high: number;
}

export interface Agreement {
  images: number;
  /** Embeddings with a number that is none, as where fp16 overflows: they agree with nothing, and their cosine is 0. */
  notFinite: number;
  /**
   * Of an image's two embeddings. `p1`: one image in a hundred lies below. `apart`, for scale: the mean cosine of two
   * different images, by the reference.
   */
  cosine: { least: number; p1: number; median: number; mean: number; apart: number };
  top1: Share;
  /** The part of an image's `k` labels that it has by both, whatever their order; the mean. */
  labels: { k: number; overlap: number };
  /** The image found nearest is nearest by the reference, too. */
  nearest: Share;
  /** The part of the `k` images found nearest that are among the reference's `k` nearest; the mean. */
  recall: { k: number; share: number };
}

/** What an agreement has to reach. */
export interface Thresholds {
  /** Of the median. */
  cosine: number;
  top1: number;
  recall: number;
}

/** Fewer say nothing: of `recallAt` neighbours among them, chance alone would find every second one. */
export const leastImages = 20;
const recallAt = 10;

/**
 * Images whose cosines to another one differ by less are equally near to it, so that either may come first: a picture that
 * was saved twice has twins, and float32 rounds a cosine of 2048 products to 1e-7.
 */
const tie = 1e-6;

/**
 * `cosines` are of each image. The work grows with the square of the images: of 2048 numbers each, see
 * docs/certificates.md. Answers the event loop meanwhile.
 */
export async function measureAgreement(
  reference: Rows,
  candidate: Rows,
  { dimension, topK, signal }: { dimension: number; topK: number; signal?: AbortSignal },
): Promise<{ agreement: Agreement; cosines: Float64Array }> {
  const images = candidate.labels.length / topK;
  if (images < leastImages) throw new Error(`${images} images are too few to measure: this is a bug`);
  const ours = toUnits(reference.embeddings, dimension);
  const theirs = toUnits(candidate.embeddings, dimension);
  const rowOf = ({ rows }: Units, image: number) => rows.subarray(image * dimension, (image + 1) * dimension);
  const cosines = Float64Array.from({ length: images }, (_, image) =>
    dot(rowOf(ours, image), rowOf(theirs, image)),
  );
  const neighbours = await compareNeighbours(ours, theirs, { images, dimension, signal });
  const labels = compareLabels(reference.labels, candidate.labels, topK);
  const sorted = cosines.toSorted();
  const agreement: Agreement = {
    images,
    notFinite: theirs.broken.size,
    cosine: {
      least: at(sorted, 0),
      p1: at(sorted, Math.floor(images / 100)),
      median: (at(sorted, (images - 1) >> 1) + at(sorted, images >> 1)) / 2,
      mean: sorted.reduce((sum, cosine) => sum + cosine, 0) / images,
      apart: neighbours.apart,
    },
    top1: shareOf(labels.same, images),
    labels: { k: topK, overlap: labels.overlap },
    nearest: shareOf(neighbours.nearest, images),
    recall: { k: recallAt, share: neighbours.recall },
  };
  return { agreement, cosines };
}

/** Where an agreement falls short, a line each; none where it holds. */
export function shortfallsOf(agreement: Agreement, thresholds: Thresholds): string[] {
  const { notFinite, cosine, top1, recall } = agreement;
  const held: [string, number, number][] = [
    ['the median cosine', cosine.median, thresholds.cosine],
    ['top-1 agreement', top1.share, thresholds.top1],
    [`recall@${recall.k}`, recall.share, thresholds.recall],
  ];
  return [
    ...(notFinite > 0 ? [`${notFinite} embeddings have numbers that are none: they overflow`] : []),
    ...held
      .filter(([, found, least]) => !(found >= least))
      .map(([what, found, least]) => `${what} is ${found.toFixed(4)}, less than ${least}`),
  ];
}

/** Wilson's score interval (https://doi.org/10.1080/01621459.1927.10502953), 95 %: unlike the usual one it holds near 1. */
export function shareOf(count: number, of: number): Share {
  const z = 1.959964;
  const share = count / of;
  const centre = share + z ** 2 / (2 * of);
  const reach = z * Math.sqrt((share * (1 - share)) / of + z ** 2 / (4 * of ** 2));
  const scale = 1 + z ** 2 / of;
  // At the ends rounding would leave them by a bit.
  const low = count === 0 ? 0 : (centre - reach) / scale;
  const high = count === of ? 1 : (centre + reach) / scale;
  return { count, share, low, high };
}

/** Embeddings of length 1, so that a dot product is a cosine. */
interface Units {
  /** [images, filled up with zeros to a multiple of `abreast` × dimension] */
  rows: Float32Array;
  /** Images whose embedding has a number that is none, or has length 0: zeros here. */
  broken: Set<number>;
}

/** Rows that a product is made with at once: one sum waits for its own last addition, four do not (2.1 to 1.15 GMAC/s). */
const abreast = 4;

function toUnits(embeddings: Float32Array, dimension: number): Units {
  const images = embeddings.length / dimension;
  const rows = new Float32Array(Math.ceil(images / abreast) * abreast * dimension);
  const broken = new Set<number>();
  for (let image = 0; image < images; image++) {
    const [first, end] = [image * dimension, (image + 1) * dimension];
    const unit = embeddings.slice(first, end);
    if (toUnit(unit)) rows.set(unit, first);
    else broken.add(image);
  }
  return { rows, broken };
}

function compareLabels(
  ours: Int32Array,
  theirs: Int32Array,
  topK: number,
): { same: number; overlap: number } {
  let same = 0;
  let shared = 0;
  for (let first = 0; first < ours.length; first += topK) {
    if (ours[first] === theirs[first]) same += 1;
    const known = new Set(ours.subarray(first, first + topK));
    for (const label of theirs.subarray(first, first + topK)) if (known.has(label)) shared += 1;
  }
  return { same, overlap: shared / ours.length };
}

/** Images whose cosines are made together: all of them would be images² numbers, and one at a time would be slower. */
const blockImages = 32;

/** What the candidate finds nearest is judged by the reference's own cosines, so that of twins either will do. */
async function compareNeighbours(
  ours: Units,
  theirs: Units,
  { images, dimension, signal }: { images: number; dimension: number; signal: AbortSignal | undefined },
): Promise<{ nearest: number; recall: number; apart: number }> {
  let [nearest, recalled, apart] = [0, 0, 0];
  for (let first = 0; first < images; first += blockImages) {
    const byOurs = cosinesOf(first, ours, dimension);
    const byTheirs = cosinesOf(first, theirs, dimension);
    const width = byOurs.length / blockImages;
    for (let image = first; image < Math.min(first + blockImages, images); image++) {
      const start = (image - first) * width;
      const cosines = byOurs.subarray(start, start + images);
      for (const cosine of cosines) apart += cosine;
      apart -= at(cosines, image);
      if (ours.broken.has(image) || theirs.broken.has(image)) continue;
      const cosineOf = (other: number): number => at(cosines, other);
      const wanted = nearestOf(cosines, image).map(cosineOf);
      const found = nearestOf(byTheirs.subarray(start, start + images), image).map(cosineOf);
      if (at(found, 0) >= at(wanted, 0) - tie) nearest += 1;
      recalled += found.filter((cosine) => cosine >= at(wanted, recallAt - 1) - tie).length;
    }
    await setImmediate();
    signal?.throwIfAborted();
  }
  return { nearest, recall: recalled / recallAt / images, apart: apart / (images * (images - 1)) };
}

/** [blockImages × rows]: the cosines of the images from `first` on to every row. */
function cosinesOf(first: number, { rows }: Units, dimension: number): Float32Array {
  const width = rows.length / dimension;
  const cosines = new Float32Array(blockImages * width);
  const count = Math.min(blockImages, width - first);
  for (let other = 0; other < width; other += abreast) {
    const [p, q, r, s] = [0, 1, 2, 3].map((next) => (other + next) * dimension) as [
      number,
      number,
      number,
      number,
    ];
    for (let image = 0; image < count; image++) {
      const own = (first + image) * dimension;
      let [a, b, c, d] = [0, 0, 0, 0];
      // Not by `at`: V8 would make one of it for all kinds of arrays, which takes twice as long.
      for (let i = 0; i < dimension; i++) {
        const value = rows[own + i] as number;
        a += value * (rows[p + i] as number);
        b += value * (rows[q + i] as number);
        c += value * (rows[r + i] as number);
        d += value * (rows[s + i] as number);
      }
      cosines.set([a, b, c, d], image * width + other);
    }
  }
  return cosines;
}

/** The `recallAt` images nearest to `self`, nearest first, without itself. */
function nearestOf(cosines: Float32Array, self: number): number[] {
  const nearest: number[] = [];
  for (const [other, cosine] of cosines.entries()) {
    if (other === self) continue;
    let place = nearest.length;
    while (place > 0 && cosine > at(cosines, at(nearest, place - 1))) place--;
    if (place === recallAt) continue;
    nearest.splice(place, 0, other);
    if (nearest.length > recallAt) nearest.pop();
  }
  return nearest;
}

/** By an index that is known to be inside. */
function at(values: ArrayLike<number>, index: number): number {
  return values[index] as number;
}
