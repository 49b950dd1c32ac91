/** Workers are killed with SIGKILL again and again, as on machines that vanish; sometimes supervisor and worker at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { findSuccess } from '../../src/run.ts';
import { observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import type { Pool } from './pool.ts';
import type { Scenario } from './scenario.ts';
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

    // By work done, not by the clock: on a slow machine workers would else be killed before they have begun.
    const imagesPerKill = count / (wanted + 1);
    let killed = 0;
    while (killed < wanted && !(await findSuccess(pool.store, 'r'))) {
      await sleep(200);
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
    await pool.untilDone('r', 300_000);
    const findings = await stage.audit(pool, 'r', archive, { observer, commands: true });
    const again = workDoneAgain(pool, archive.items);
    if (killed < wanted)
      throw new Error(`the run was over after ${killed} kills of ${wanted}: give it more images`);
    if (stage.scale === 'full' && again.share >= 0.05) throw new Error(again.text);
    return {
      done: `${killed} × SIGKILL among ${workers} workers, ${count.toLocaleString('en-US')} images`,
      shown: `${findings.summary}; ${again.text}`,
    };
  },
};

/** In all processes together, those that were killed included. */
function imagesComputed(pool: Pool): number {
  return pool.trace().reduce((sum, line) => sum + ('images' in line ? line.images : 0), 0);
}

function workDoneAgain(pool: Pool, items: number): { share: number; text: string } {
  const computed = imagesComputed(pool);
  const share = computed / items - 1;
  const percent = `${(100 * share).toFixed(1)} %`;
  return { share, text: `the model computed ${computed} images for ${items}: ${percent} again` };
}
