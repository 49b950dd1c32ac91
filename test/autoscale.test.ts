/** The simulation with which test/bench/autoscale.ts compares what an autoscaler may go by. */
import { describe, expect, test } from 'vitest';
import { drawRuns } from './bench/autoscale/arrivals.ts';
import { type DayOptions, type PlannedRun, simulateDay } from './bench/autoscale/day.ts';
import { openWorkerPool, type Shard } from './bench/autoscale/pool.ts';
import { desiredReplicas, fixedPool, openScaler, type Scaler } from './bench/autoscale/scaler.ts';
import { drainTimeSignal } from './bench/autoscale/signals.ts';

const scaling = {
  target: 600,
  maxReplicas: 16,
  pollingSeconds: 15,
  cooldownSeconds: 120,
  stabilizationSeconds: 300,
};
const nodes = { nodeSeconds: 240, startSeconds: 20, graceSeconds: 25, lingerSeconds: 60 };

function simulate(runs: readonly PlannedRun[], changes: Partial<DayOptions> = {}) {
  const scaler = openScaler(scaling);
  const options = { signal: drainTimeSignal(), nodes, metricSeconds: 15, highWater: 10_000, scaler };
  return simulateDay({ ...options, runs, ...changes });
}

/** Replicas, second by second. */
function course(scaler: Scaler, from: number, metrics: readonly number[]): number[] {
  return metrics.map((metric, n) => scaler.look(from + n, metric));
}

describe('the autoscaler', () => {
  test('asks for as many as Kubernetes’ own examples say', () => {
    // https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details: 200m of 100m, 50m of 100m
    expect(desiredReplicas(1, 200, 100)).toBe(2);
    expect(desiredReplicas(2, 50, 100)).toBe(1);
    // https://kubernetes.io/blog/2025/04/28/kubernetes-v1-33-hpa-configurable-tolerance/: 90 % of 75 %, and its tolerance
    expect(desiredReplicas(50, 90, 75)).toBe(60);
    expect(desiredReplicas(50, 80, 75)).toBe(50);
  });

  test('starts one at the next poll, then four more or twice as many each 15 s, up to the most', () => {
    const replicas = course(openScaler(scaling), 1, Array(76).fill(1e6));
    expect(replicas[13]).toBe(0);
    expect([14, 29, 44, 59].map((n) => replicas[n])).toEqual([5, 10, 16, 16]);
  });

  test('goes down only to the most that it asked for within the window, and to zero after the cooldown', () => {
    const scaler = openScaler(scaling);
    course(scaler, 0, Array(60).fill(16 * 600));
    const replicas = course(scaler, 60, Array(600).fill(1_200));
    expect(replicas[280]).toBe(16);
    expect(replicas[300]).toBe(2);
    const ending = course(scaler, 660, Array(200).fill(0));
    expect(ending[100]).toBeGreaterThan(0);
    expect(ending[120]).toBe(0);
  });
});

describe('a worker that is told to stop', () => {
  test.each([
    ['finishes a shard that is done within the grace period', 20, { done: 1, back: 0 }],
    ['gives back one that is not', 60, { done: 0, back: 1 }],
  ])('%s', (_, seconds, expected) => {
    const pool = openWorkerPool({ ...nodes, startSeconds: 0 }, { readyNodes: 1 });
    const ends = { done: 0, back: 0 };
    let shards = 1;
    const take = (): Shard | undefined =>
      shards-- > 0 ? { seconds, done: () => ends.done++, back: () => ends.back++ } : undefined;
    pool.pass(1, take);
    for (let second = 0; second < 60; second++) pool.pass(0, take);
    expect(ends).toEqual(expected);
  });
});

describe('a day', () => {
  const kinds = [
    { shardSize: 512, imagesPerSecond: 3_000, weight: 3 },
    { shardSize: 4_096, imagesPerSecond: 750, weight: 1 },
  ];
  const runs = drawRuns({ runs: 40, medianImages: 300_000, sigma: 1.5, kinds }, 7);
  const images = runs.reduce((sum, run) => sum + run.images, 0);

  test('does each image of each run once, whatever scales it', () => {
    for (const changes of [{}, { scaler: fixedPool(1), readyNodes: 1 }]) {
      const day = simulate(runs, changes);
      expect(day.imagesDone).toBe(images);
      expect(day.done).toHaveLength(runs.length);
      expect(day.busyHours).toBeLessThan(day.gpuHours);
    }
  });

  test('costs of GPU time what its images take, where no shard is given back', () => {
    const { busyHours } = simulate(runs);
    const work = runs.reduce((sum, run) => sum + run.images / run.imagesPerSecond, 0);
    expect(busyHours * 3_600).toBeCloseTo(work, 3);
  });

  test('of the same runs is the same day', () => {
    expect(simulate(runs)).toEqual(simulate(runs));
  });

  test('under a constant load has as many workers as that load needs', () => {
    // 30 s of a worker's time come every 10 s.
    const steady = Array.from({ length: 8_640 }, (_, n) => ({
      at: 10 * n,
      images: 90_000,
      shardSize: 512,
      imagesPerSecond: 3_000,
    }));
    const { course } = simulate(steady);
    const afternoon = course.filter(({ second }) => second >= 43_200 && second < 86_400);
    const mean = afternoon.reduce((sum, at) => sum + at.nodes, 0) / afternoon.length;
    expect(mean).toBeGreaterThanOrEqual(3);
    expect(mean).toBeLessThan(3.5);
    expect(Math.max(...afternoon.map(({ leftWorkerSeconds }) => leftWorkerSeconds))).toBeLessThan(4 * 600);
  });

  test('without runs costs nothing', () => {
    expect(simulate([]).gpuHours).toBe(0);
  });
});
