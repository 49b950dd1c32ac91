/**
 * What workers did with their time, in sums: each worker tells what it did since it last told (workers/tally.ts), and Redis adds
 * that up for the run whose shard has just ended (telemetry/counters.ts). Sums of several workers are again measures.
 *
 * Times are whole ms of a worker's clock, and only lengths, so clocks may differ. A stage's time is that of its places on
 * average: of a device with two sessions, one of which was busy for 10 s, 5 s. So every time can be held against `workMs`.
 */

export interface Measures {
  /** Images whose rows were made; what stood already, and what is gone, is none. */
  images: number;
  /** Loading models, and rows that are to be used again. */
  loadMs: number;
  /** The run was open, and had no shard for this worker. */
  idleMs: number;
  /** It had shards, and the images of all of them were done: parts were written, or the plan was read. */
  holdMs: number;
  /** Images were under way. */
  embedMs: number;
  /** Fetching, of the reads that its lanes may do at once. */
  readMs: number;
  /** Decoding, of the cores that may decode. More images at once than cores wait for each other, and count for more. */
  decodeMs: number;
  /** The lanes' own threads; decoding uses others as well. */
  lanesMs: number;
  /** The model, of its sessions. */
  deviceMs: number;
  /** Encoding and committing parts, of the shards that it may have at once. */
  writeMs: number;
  /** The main thread, in CPU time. */
  mainMs: number;
  /** All cores of its machine, by whomever they were used. */
  coresMs: number;
  /** CPU time of its process, while it did not load. */
  cpuMs: number;
  /** Images that were in the model's batches. */
  batchImages: number;
  /** Images that those batches had room for. */
  batchRoom: number;
}

export const noMeasures: Readonly<Measures> = {
  images: 0,
  loadMs: 0,
  idleMs: 0,
  holdMs: 0,
  embedMs: 0,
  readMs: 0,
  decodeMs: 0,
  lanesMs: 0,
  deviceMs: 0,
  writeMs: 0,
  mainMs: 0,
  coresMs: 0,
  cpuMs: 0,
  batchImages: 0,
  batchRoom: 0,
};

const names = Object.keys(noMeasures) as (keyof Measures)[];

export function mapMeasures(value: (name: keyof Measures) => number): Measures {
  const measures = { ...noMeasures };
  for (const name of names) measures[name] = value(name);
  return measures;
}

export const addMeasures = (a: Measures, b: Measures): Measures => mapMeasures((name) => a[name] + b[name]);

/** What was added to `before`; all of `after` where that is less, for Redis may have been wiped. */
export function measuresSince(before: Measures, after: Measures): Measures {
  const isWiped = names.some((name) => after[name] < before[name]);
  return isWiped ? after : mapMeasures((name) => after[name] - before[name]);
}
