/** Synthetic embeddings, the same for the same seed: of two kinds, between which the real ones lie. */
import { uniform } from '../../src/uniform.ts';

/** The sum of four uniforms, of mean 0 and variance 1: near enough to a normal. */
const normal = (random: () => number): number =>
  (random() + random() + random() + random() - 2) * Math.sqrt(3);

export interface VectorKind {
  dimension: number;
  seed: number;
}

/**
 * As a ResNet's are: never negative, a good part of them zero, correlated, in clusters of unlike sizes. A vector is
 * max(0, W z + b), z a point of 24 dimensions near the middle of its cluster. Gives a function that fills the next rows.
 */
export function clusteredVectors({ dimension, seed, clusters = 200 }: VectorKind & { clusters?: number }) {
  const random = uniform(seed);
  const latent = 24;
  const weights = Float32Array.from({ length: dimension * latent }, () => normal(random));
  const biases = Float32Array.from({ length: dimension }, () => normal(random) * 2);
  const middles = Float32Array.from({ length: clusters * latent }, () => normal(random));
  const point = new Float32Array(latent);
  return (rows: number): Float32Array => {
    const vectors = new Float32Array(rows * dimension);
    for (let row = 0; row < rows; row++) {
      const cluster = Math.floor(random() ** 2 * clusters);
      for (let i = 0; i < latent; i++)
        point[i] = (middles[cluster * latent + i] as number) + 0.6 * normal(random);
      for (let j = 0; j < dimension; j++) {
        let sum = biases[j] as number;
        for (let i = 0; i < latent; i++) sum += (weights[j * latent + i] as number) * (point[i] as number);
        vectors[row * dimension + j] = Math.max(0, sum + 0.5 * (random() - 0.5));
      }
    }
    return vectors;
  };
}

/** Each number for itself: all are about as far from each other, so no index can tell where to look. */
export function structurelessVectors({ dimension, seed }: VectorKind) {
  const random = uniform(seed);
  return (rows: number): Float32Array =>
    Float32Array.from({ length: rows * dimension }, () => normal(random));
}
