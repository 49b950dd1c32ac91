/** What most scenarios begin with: the usual archive and a run of it that is enqueued. */
import type { Step } from '../../src/steps.ts';
import type { Archive } from './archive.ts';
import type { Reference } from './audit.ts';
import type { Command, Pool } from './pool.ts';
import type { Stage } from './scenario.ts';

/** The steps of a shard, from its job to its mark; workers pass them. */
export const commitSteps: readonly Step[] = [
  'shard taken',
  'shard embedded',
  'part encoded',
  'lease checked',
  'part created',
  'shard marked done',
];

/** Small shards: many commits for few images. */
export const usualShape = { shardSize: 4, batch: 4 };
const counts = { full: 1_200, short: 96 };

/** 1,200 images in 300 shards, or 96 in 24; some of them broken. */
export function usualArchive(stage: Stage): Promise<Archive & { reference: Reference }> {
  return stage.archive({ count: counts[stage.scale], brokenEvery: 31, ...usualShape });
}

export async function enqueue(
  pool: Pool,
  source: string,
  run: string,
  flags: readonly string[] = [],
): Promise<void> {
  mustExit(await pool.enqueue(source, run, { ...usualShape, flags }), [0], `enqueue ${run}`);
}

/** Exit code 3 is a run that is done, with failed rows: the broken images. */
export async function resume(pool: Pool, run: string): Promise<void> {
  mustExit(await pool.resume(run), [0, 3], `resume ${run}`);
}

export function mustExit(command: Command, codes: readonly number[], what: string): void {
  if (command.code === undefined || !codes.includes(command.code))
    throw new Error(`${what} exits with ${command.code}:\n${command.stderr.slice(-1_500)}`);
}
