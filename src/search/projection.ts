/**
 * Many embeddings as points of a plane, so that those who are neighbours stay near each other.
 *
 *   1. The directions in which they differ most are found (PCA, by subspace iteration), and they are told in those 50.
 *   2. There, the 15 nearest of each are found, all compared with all.
 *   3. UMAP lays out the graph of neighbours: McInnes, Healy and Melville, https://arxiv.org/abs/1802.03426.
 * Without the first step the second takes forty times as long, for nothing: of 2000 embeddings in 40 clouds, the plane then keeps
 * 37 % of each one's ten nearest among its ten nearest, with it 39 %.
 */
import { UMAP } from 'umap-js';
import { uniform } from '../uniform.ts';

export interface Embeddings {
  /** [count × dimension], row-major. */
  vectors: Float32Array;
  count: number;
  dimension: number;
}

const directions = 50;
/** More find truer directions, and the map is no truer for it. */
const iterations = 1;
const neighbours = 15;
/** UMAP's own starting place: random, and the same each time. */
const seed = 1;
/** Shares of the whole time, as measured at 2000 images. */
const shares = { directions: 0.1, neighbours: 0.05 };
/** Between two words about how far it is. */
const sliceMs = 100;

/** Gives, every tenth of a second, how far it is (0 to 1), and in the end [count × 2] points from 0 to 1. The same each time. */
export function* projectEmbeddings(embeddings: Embeddings): Generator<number, Float32Array> {
  const { count } = embeddings;
  // Of so few there is no graph of neighbours.
  if (count <= 3) return fitToSquare(Float32Array.from({ length: count * 2 }, (_, at) => at >> 1));
  const reduced = yield* scaled(0, shares.directions, reduceDimensions(embeddings));
  const near = yield* scaled(shares.directions, shares.neighbours, findNeighbours(reduced));
  const start = shares.directions + shares.neighbours;
  return fitToSquare(yield* scaled(start, 1 - start, layOut(near)));
}

/** A part's own progress as the whole's. */
function* scaled<T>(start: number, share: number, part: Generator<number, T>): Generator<number, T> {
  for (;;) {
    const next = part.next();
    if (next.done) return next.value;
    yield start + share * next.value;
  }
}

/** Their coordinates along the directions in which they differ most. */
function* reduceDimensions({ vectors, count, dimension }: Embeddings): Generator<number, Embeddings> {
  const width = Math.min(directions, dimension, count);
  if (width === dimension) return { vectors, count, dimension };
  const mean = meanOf({ vectors, count, dimension });
  const random = uniform(seed);
  let basis = Float64Array.from({ length: dimension * width }, () => random() - 0.5);
  const coordinates = new Float64Array(count * width);
  const clock = slices();
  for (let pass = 0; pass <= iterations; pass++) {
    const isLast = pass === iterations;
    orthonormalise(basis, dimension, width);
    const next = new Float64Array(dimension * width);
    coordinates.fill(0);
    for (let row = 0; row < count; row++) {
      const own = coordinates.subarray(row * width, (row + 1) * width);
      for (let at = 0; at < dimension; at++) {
        const value = (vectors[row * dimension + at] as number) - (mean[at] as number);
        for (let n = 0; n < width; n++)
          own[n] = (own[n] as number) + value * (basis[at * width + n] as number);
      }
      // The last pass only tells where they are.
      for (let at = 0; at < dimension && !isLast; at++) {
        const value = (vectors[row * dimension + at] as number) - (mean[at] as number);
        for (let n = 0; n < width; n++)
          next[at * width + n] = (next[at * width + n] as number) + value * (own[n] as number);
      }
      if (clock()) yield (pass + row / count) / (iterations + 1);
    }
    basis = next;
  }
  return { vectors: Float32Array.from(coordinates), count, dimension: width };
}

function meanOf({ vectors, count, dimension }: Embeddings): Float64Array {
  const mean = new Float64Array(dimension);
  for (let at = 0; at < count * dimension; at++)
    mean[at % dimension] = (mean[at % dimension] as number) + (vectors[at] as number) / count;
  return mean;
}

/** Columns of a [rows × width] matrix, by Gram and Schmidt, twice: once leaves what rounding left. */
function orthonormalise(matrix: Float64Array, rows: number, width: number): void {
  for (let column = 0; column < width; column++) {
    for (let time = 0; time < 2; time++) {
      for (let before = 0; before < column; before++) {
        let dot = 0;
        for (let at = 0; at < matrix.length; at += width)
          dot += (matrix[at + before] as number) * (matrix[at + column] as number);
        for (let at = 0; at < matrix.length; at += width)
          matrix[at + column] = (matrix[at + column] as number) - dot * (matrix[at + before] as number);
      }
    }
    let square = 0;
    for (let row = 0; row < rows; row++) square += (matrix[row * width + column] as number) ** 2;
    // Where they differ in fewer directions, the others say nothing.
    const scale = square > 1e-24 ? 1 / Math.sqrt(square) : 0;
    for (let row = 0; row < rows; row++)
      matrix[row * width + column] = (matrix[row * width + column] as number) * scale;
  }
}

export interface Neighbours {
  /** Of each, the nearest first: itself, at 0. */
  indices: number[][];
  distances: number[][];
}

/** By Euclidean distance, all compared with all. */
function* findNeighbours({ vectors, count, dimension }: Embeddings): Generator<number, Neighbours> {
  const wanted = Math.min(neighbours, count - 1);
  const indices: number[][] = [];
  const distances: number[][] = [];
  const clock = slices();
  for (let row = 0; row < count; row++) {
    const [own, far] = [[row], [0]];
    for (let other = 0; other < count; other++) {
      if (other === row) continue;
      let square = 0;
      for (let at = 0; at < dimension; at++)
        square +=
          ((vectors[row * dimension + at] as number) - (vectors[other * dimension + at] as number)) ** 2;
      if (own.length === wanted && square >= (far[wanted - 1] as number)) continue;
      let place = Math.min(own.length, wanted - 1);
      for (; place > 1 && (far[place - 1] as number) > square; place--) {
        own[place] = own[place - 1] as number;
        far[place] = far[place - 1] as number;
      }
      own[place] = other;
      far[place] = square;
    }
    indices.push(own);
    distances.push(far.map(Math.sqrt));
    if (clock()) yield row / count;
  }
  return { indices, distances };
}

function* layOut({ indices, distances }: Neighbours): Generator<number, Float32Array> {
  const random = uniform(seed);
  const umap = new UMAP({ nNeighbors: indices[0]?.length ?? 0, random });
  umap.setPrecomputedKNN(indices, distances);
  // It looks only at how many there are, since it is told their neighbours.
  const epochs = umap.initializeFit(indices);
  const clock = slices();
  for (let epoch = 0; epoch < epochs; epoch++) {
    umap.step();
    if (clock()) yield epoch / epochs;
  }
  return Float32Array.from(umap.getEmbedding().flat());
}

/** Into the unit square, in its middle, with one scale for both axes. */
function fitToSquare(points: Float32Array): Float32Array {
  const axes = [0, 1].map((axis) => {
    const values = points.filter((_, at) => at % 2 === axis);
    const [least, most] = [
      values.reduce((a, b) => Math.min(a, b), Infinity),
      values.reduce((a, b) => Math.max(a, b), -Infinity),
    ];
    return { middle: (least + most) / 2, extent: most - least };
  });
  const extent = Math.max(...axes.map((axis) => axis.extent)) || 1;
  return points.map((value, at) =>
    Math.min(1, Math.max(0, 0.5 + (value - (axes[at % 2]?.middle ?? 0)) / extent)),
  );
}

/** Says, when it is asked often, each time that a slice of time is over. */
function slices(): () => boolean {
  let end = performance.now() + sliceMs;
  return () => {
    const now = performance.now();
    if (now < end) return false;
    end = now + sliceMs;
    return true;
  };
}
