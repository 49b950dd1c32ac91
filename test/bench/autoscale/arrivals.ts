/** Runs of a day, drawn from a seed: when they come, how large they are, how they are cut, and by which model. */
import { uniform } from '../../../src/uniform.ts';
import type { PlannedRun } from './day.ts';

export interface Kind {
  shardSize: number;
  imagesPerSecond: number;
  /** How many of all runs are like this, relative to the other kinds. */
  weight: number;
}

export interface Arrivals {
  runs: number;
  /** Half of the runs have more images. */
  medianImages: number;
  /** Of the logarithm. */
  sigma: number;
  kinds: readonly Kind[];
}

/** Of a day, hour by hour: nobody sleeps at noon. */
const hourWeights = [1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 7, 9, 10, 10, 9, 7, 5, 4, 3, 3, 2, 2];

export function drawRuns({ runs, medianImages, sigma, kinds }: Arrivals, seed: number): PlannedRun[] {
  const random = uniform(seed);
  const hours = hourWeights.map((weight, hour) => ({ hour, weight }));
  return Array.from({ length: runs }, () => {
    const { hour } = drawOf(hours, random);
    const { shardSize, imagesPerSecond } = drawOf(kinds, random);
    return {
      at: Math.floor(3_600 * (hour + random())),
      images: Math.max(1, Math.round(medianImages * Math.exp(sigma * normal(random)))),
      shardSize,
      imagesPerSecond,
    };
  });
}

/** Each as often as its weight says. */
function drawOf<T extends { weight: number }>(all: readonly T[], random: () => number): T {
  let left = random() * all.reduce((sum, { weight }) => sum + weight, 0);
  const drawn = all.find(({ weight }) => {
    left -= weight;
    return left < 0;
  });
  if (!drawn) throw new Error('nothing to draw from');
  return drawn;
}

/** Box and Muller's. */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
