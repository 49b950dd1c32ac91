import { expect, test } from 'vitest';
import { throughputLines } from '../src/cli/speed.ts';
import { liveThroughput } from '../src/telemetry/live-throughput.ts';
import { addMeasures, type Measures, measuresSince, noMeasures } from '../src/telemetry/measures.ts';
import { findLimit, type Limit, reportThroughput } from '../src/telemetry/throughput.ts';

/** 100 s of one worker that the device could hardly have done more in. */
const saturated: Measures = {
  images: 1_400,
  loadMs: 20_000,
  idleMs: 1_000,
  holdMs: 2_000,
  embedMs: 97_000,
  readMs: 4_000,
  decodeMs: 20_000,
  lanesMs: 10_000,
  deviceMs: 95_000,
  writeMs: 1_000,
  mainMs: 2_000,
  coresMs: 99_000,
  cpuMs: 190_000,
  batchImages: 1_400,
  batchRoom: 1_600,
};
const starved = { deviceMs: 50_000, coresMs: 40_000 };

test.each<[string, Limit, Partial<Measures>]>([
  ['a device that hardly waits', 'device', {}],
  ['a device that waits while every core is busy', 'decoding', { deviceMs: 60_000 }],
  ['a device that waits for images to come', 'reading', { ...starved, readMs: 80_000 }],
  ['lanes whose threads are busy, with cores free', 'lanes', { ...starved, lanesMs: 95_000, readMs: 60_000 }],
  ['decoding that waits for threads, with cores free', 'lanes', { ...starved, decodeMs: 300_000 }],
  ['parts that are long in writing', 'writing', { ...starved, holdMs: 47_000, embedMs: 52_000 }],
  ['a main thread without a pause', 'main thread', { ...starved, mainMs: 95_000 }],
  ['workers that find no shard', 'queue', { ...starved, idleMs: 45_000, embedMs: 53_000 }],
  ['a run that is over soon after its model is loaded', 'loading', { loadMs: 101_000 }],
])('%s: limited by %s', (_, limit, changes) => {
  const measures = { ...saturated, ...changes };
  expect(findLimit(measures)).toBe(limit);
  expect(reportThroughput(measures)?.verdict).not.toContain('NaN');
});

test('the device is the limit of two workers together where it is of each', () => {
  const pool = addMeasures(saturated, saturated);
  expect(findLimit(pool)).toBe('device');
  const [one, two] = [saturated, pool].map((measures) => reportThroughput(measures, { pricePerHour: 3 }));
  // Twice the images in twice the hours of workers: everything that is said of a worker or an image stays.
  expect(two).toEqual({ ...one, images: 2_800, workerHours: 2 * (one?.workerHours ?? 0) });
});

test('a share, a rate and a cost are what their names say', () => {
  const report = reportThroughput(saturated, { pricePerHour: 3 });
  expect(report).toMatchObject({
    images: 1_400,
    workerImagesPerSecond: 14,
    mainThreadMicrosecondsPerImage: 2_000_000 / 1_400,
    batchFill: 0.875,
    ceilingImagesPerSecond: 1_600 / 95,
    loadShare: 20 / 120,
    workerHours: 120 / 3_600,
  });
  expect(report?.waitedShare).toBeCloseTo(0.05);
  expect(report?.ceilingShare).toBeCloseTo(0.95 * 0.875);
  expect(report?.imagesPerCoreSecond).toBeCloseTo(1_400 / 190);
  expect(report?.costPerMillionImages).toBeCloseTo((3 * (120 / 3_600) * 1e6) / 1_400);
  expect(report?.stages.decode).toEqual({ busyShare: 0.2, headroom: 5, imagesPerSecond: 70 });
  // With full batches: that is all that the device can do more.
  expect(report?.stages.device.imagesPerSecond).toBeCloseTo(1_600 / 95);
});

test('a run in which nothing was done has no report', () => {
  expect(reportThroughput(noMeasures)).toBeUndefined();
  expect(reportThroughput({ ...saturated, images: 0 })).toBeUndefined();
});

test('a run whose bytes were all known has neither batches nor a ceiling, and says so without an Infinity', () => {
  const known = { ...saturated, ...starved, deviceMs: 0, batchImages: 0, batchRoom: 0, readMs: 90_000 };
  const report = reportThroughput(known);
  expect(report).toMatchObject({
    limit: 'reading',
    waitedShare: 1,
    batchFill: null,
    ceilingImagesPerSecond: null,
  });
  expect(report?.stages.device).toEqual({ busyShare: 0, headroom: null, imagesPerSecond: null });
  expect(report && throughputLines(report).join('\n')).not.toMatch(/NaN|Infinity|null/);
});

test('what a command reports is what was done since it began, also with a Redis that was wiped meanwhile', () => {
  const later = addMeasures(saturated, { ...saturated, images: 100 });
  expect(measuresSince(saturated, later).images).toBe(100);
  expect(measuresSince(later, saturated)).toEqual(saturated);
});

test('the report is a few aligned lines', () => {
  const report = reportThroughput(saturated, { pricePerHour: 0.5 });
  expect(report && throughputLines(report)).toEqual([
    'limit   the device, which waited 5 % of the time: a worker on another device or machine makes the run faster',
    '        read    decode  device  write   main    lanes   cores',
    'busy    4 %     20 %    95 %    1 %     2 %     10 %    99 %',
    'at most 350     70.0    16.8    1,400   700     140     14.1    images/s a worker',
    'device  83 % of the 16.8 images/s that it does with full batches; they were 88 % full',
    'cores   7.37 images a core-second; 1,429 µs of the main thread an image',
    'cost    11.90 a million images',
  ]);
});

const pace = { imagesPerSecond: 28, sinceLastShardMs: 4_000 };

test('a run that is open tells when it will be finished; one that is paused, or stands still, does not', () => {
  const live = liveThroughput({ measures: saturated, pace }, { left: 2_800, state: 'open' });
  expect(live).toMatchObject({ imagesPerSecond: 28, secondsLeft: 100, secondsSinceLastShard: 4 });
  expect(Math.abs(Date.parse(live?.finishAt ?? '') - Date.now() - 100_000)).toBeLessThan(5_000);
  expect(live && throughputLines(live)[0]).toBe('speed   28.0 images/s; the last shard 4.0 s ago');

  const paused = liveThroughput({ measures: saturated, pace }, { left: 2_800, state: 'paused' });
  expect(paused).toEqual(reportThroughput(saturated));
  const still = { ...pace, imagesPerSecond: 0 };
  expect(liveThroughput({ measures: saturated, pace: still }, { left: 2_800, state: 'open' })).toEqual({
    ...reportThroughput(saturated),
    imagesPerSecond: 0,
    secondsSinceLastShard: 4,
  });
});
