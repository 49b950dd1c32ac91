/**
 * How many images a model is given at once, and in how many sessions: found by trying, in as few trials as will do.
 *
 *   1. The climb: for one session, then more, batches of growing size, until memory is short or two in a row gain less than
 *      2 %. More sessions are tried as long as the best of them gains 2 %.
 *   2. The finals: a machine's speed drifts, so the best few take turns in several rounds, there and back.
 *   3. Of those within 2 % of the best median, the one that needs the least memory is chosen.
 */
import type { Device } from './devices/device.ts';
import { ConfigError } from './errors.ts';

export interface Arrangement {
  /** Images per run of the model. */
  batch: number;
  /** Side by side, each in a thread of its own. */
  sessions: number;
}

export interface Trial extends Arrangement {
  /** Null where memory was too short. */
  imagesPerSecond: number | null;
}

export interface Sweep {
  chosen: Trial & { imagesPerSecond: number };
  /** In the order of the climb; finalists have their median. */
  trials: Trial[];
}

/** Both ascending. */
export interface TuningSpace {
  batches: readonly number[];
  sessions: readonly number[];
}

/** Less than this is noise. */
const leastGain = 1.02;
/** One that does not gain may have had bad luck. */
const mostDull = 2;
/** How far from the best a trial of the climb may be and still win the finals. */
const finalShare = 0.93;
const mostFinalists = 3;
const finalRounds = 3;

export function tuningSpaceOf({ kind }: Device, threads: number): TuningSpace {
  if (kind !== 'cpu') return { batches: doublings(8, 512), sessions: [1, 2] };
  return { batches: doublings(1, 32), sessions: [...new Set([...doublings(1, threads), threads])] };
}

function doublings(first: number, last: number): number[] {
  return first > last ? [] : [first, ...doublings(first * 2, last)];
}

/**
 * `measure`: images/s, or undefined where memory is short. Rejects as it does, and with ConfigError 'device-failed' where not
 * even the first arrangement fits.
 */
export async function findArrangement(
  { batches, sessions }: TuningSpace,
  measure: (arrangement: Arrangement) => Promise<number | undefined>,
): Promise<Sweep> {
  const trials: Trial[] = [];
  let best = 0;
  for (const count of sessions) {
    let [top, dull] = [0, 0];
    for (const batch of batches) {
      const rate = await measure({ batch, sessions: count });
      trials.push({ batch, sessions: count, imagesPerSecond: rate ?? null });
      if (rate === undefined) break;
      dull = rate >= top * leastGain ? 0 : dull + 1;
      top = Math.max(top, rate);
      if (dull === mostDull) break;
    }
    const isGain = top >= best * leastGain;
    best = Math.max(best, top);
    if (!isGain) break;
  }

  const finalists = trials
    .filter((trial) => rateOf(trial) > 0 && rateOf(trial) >= best * finalShare)
    .toSorted((a, b) => rateOf(b) - rateOf(a))
    .slice(0, mostFinalists);
  if (finalists.length > 1) await playFinals(finalists, measure);
  const fastest = Math.max(...finalists.map(rateOf));
  const [chosen] = finalists
    .filter((trial) => rateOf(trial) * leastGain >= fastest)
    .toSorted((a, b) => a.batch * a.sessions - b.batch * b.sessions || a.sessions - b.sessions);
  if (!chosen) {
    throw new ConfigError(
      'device-failed',
      `the device has too little memory for ${batches[0]} images at a time: end what else uses it, or give --precision fp16`,
    );
  }
  return { chosen: { ...chosen, imagesPerSecond: rateOf(chosen) }, trials };
}

/** Replaces the finalists' rates. */
async function playFinals(
  finalists: Trial[],
  measure: (arrangement: Arrangement) => Promise<number | undefined>,
): Promise<void> {
  const rates = new Map(finalists.map((trial): [Trial, number[]] => [trial, []]));
  for (let round = 0; round < finalRounds; round++) {
    for (const trial of round % 2 === 0 ? finalists : finalists.toReversed())
      rates.get(trial)?.push((await measure(trial)) ?? 0);
  }
  for (const [trial, all] of rates)
    trial.imagesPerSecond = all.toSorted((a, b) => a - b)[finalRounds >> 1] ?? 0;
}

const rateOf = ({ imagesPerSecond }: Trial): number => imagesPerSecond ?? 0;
