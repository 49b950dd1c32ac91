/** Workers are killed with SIGKILL again and again, as on machines that vanish; sometimes supervisor and worker at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { findSuccess } from '../../src/runs/run.ts';
import { observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import type { Crew, Pool } from './pool.ts';
import type { Scenario, Stage } from './scenario.ts';
import { enqueue, usualShape } from './usual.ts';

const sizes = {
  full: { count: 16_000, kills: 100, workers: 3 },
  short: { count: 240, kills: 4, workers: 2 },
};

export const kills: Scenario = {
  name: 'kills',
  title: 'workers killed over and over lose no image and do little twice',
  async play(stage) {
    const { count, kills: wanted, workers } = sizes[stage.scale];
    const archive = await stage.archive({ count, brokenEvery: 251, ...usualShape });
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    const crew = pool.keepWorking(workers);
    const observer = observe(place, 'r');
    await enqueue(pool, archive.folder, 'r');

    await killWhileWorking(stage, pool, crew, { images: count, kills: wanted, runs: ['r'] });
    await pool.untilDone('r', 300_000);
    const findings = await stage.audit(pool, 'r', archive, { observer, commands: true });
    const again = workDoneAgain(pool, archive.items);
    if (stage.scale === 'full' && again.share >= 0.05) throw new Error(again.text);
    return {
      done: `${wanted} × SIGKILL among ${workers} workers, ${count.toLocaleString('en-US')} images`,
      shown: `${findings.summary}; ${again.text}`,
    };
  },
};

/** Sends SIGKILL to busy workers of a crew, evenly over the `images` of `runs`. Throws where the runs are over before. */
export async function killWhileWorking(
  stage: Stage,
  pool: Pool,
  crew: Crew,
  { images, kills, runs }: { images: number; kills: number; runs: readonly string[] },
): Promise<void> {
  const isOver = async (): Promise<boolean> =>
    (await Promise.all(runs.map((run) => findSuccess(pool.store, run)))).every(Boolean);
  // By work done, not by the clock: on a slow machine workers would else be killed before they have begun.
  const imagesPerKill = images / (kills + 1);
  for (let killed = 0; killed < kills; ) {
    await sleep(200);
    if (await isOver())
      throw new Error(`all was over after ${killed} kills of ${kills}: give the pool more images`);
    if (imagesComputed(pool) < imagesPerKill * (killed + 1)) continue;
    const busy = new Set(pool.trace().flatMap((line) => ('images' in line ? [line.pid] : [])));
    const alive = crew.members().filter((worker) => busy.has(worker.child() ?? 0));
    const victim = alive[Math.floor(stage.random() * alive.length)];
    if (!victim) continue;
    // A worker that is killed alone is followed by another after a second; the whole machine, by the crew.
    victim.kill('SIGKILL', stage.random() < 0.4 ? 'worker' : 'machine');
    killed += 1;
    if (killed % 10 === 0) stage.say(`${killed} kills, ${pool.logLines('shard done').length} shards done`);
  }
}

/** In all processes together, those that were killed included. */
function imagesComputed(pool: Pool): number {
  return pool.trace().reduce((sum, line) => sum + ('images' in line ? line.images : 0), 0);
}

export function workDoneAgain(pool: Pool, items: number): { share: number; text: string } {
  const computed = imagesComputed(pool);
  const share = computed / items - 1;
  const percent = `${(100 * share).toFixed(1)} %`;
  return { share, text: `the model computed ${computed} images for ${items}: ${percent} again` };
}
