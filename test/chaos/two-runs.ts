/** Two runs on one pool, and an operator who stops a worker, pauses, cancels and resumes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { findSuccess } from '../../src/runs/run.ts';
import { observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import type { Pool } from './pool.ts';
import type { Scenario } from './scenario.ts';
import { enqueue, mustExit, resume, usualArchive, usualShape } from './usual.ts';

/** In which the shards in flight, three a worker, are long done. */
const settleMs = 3_000;

export const smallBehindLarge: Scenario = {
  name: 'small-behind-large',
  title: 'a small run that is enqueued behind a large one does not wait for it',
  async play(stage) {
    const large = await usualArchive(stage);
    const small = await stage.archive({ count: 12, brokenEvery: 5, ...usualShape });
    const pool = await stage.openPool({
      place: makeFilePlace(`${stage.folder}/output`),
      batch: usualShape.batch,
    });
    await enqueue(pool, large.folder, 'large');
    await enqueue(pool, small.folder, 'small');
    pool.keepWorking(2);
    await pool.untilDone('small', 120_000);
    const { shards } = await pool.plan('large');
    const parts = await partsOf(pool, 'large');
    if (parts > shards / 2)
      throw new Error(`${parts} of ${shards} shards of the large run were done before the small one`);
    await pool.untilDone('large', 300_000);
    const findings = await stage.audit(pool, 'large', large);
    await stage.audit(pool, 'small', small);
    return {
      done: `3 shards enqueued behind ${shards}, before any worker started`,
      shown: `the small run was done when ${parts} of ${shards} shards of the large one were; ${findings.summary}`,
    };
  },
};

export const drain: Scenario = {
  name: 'drain',
  title: 'a worker that is told to stop finishes what it has begun, and nothing is done twice',
  async play(stage) {
    const archive = await usualArchive(stage);
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    await enqueue(pool, archive.folder, 'r');
    const observer = observe(place, 'r');
    const leaving = pool.work();
    await leaving.logged('shard done', 2);
    const pid = leaving.child();
    const asked = performance.now();
    leaving.kill('SIGTERM', 'supervisor');
    const how = await leaving.ended;
    const seconds = (performance.now() - asked) / 1000;
    if (how !== 'exit code 0') throw new Error(`a drained worker ends with ${how}`);
    const steps = pool.trace().filter((line) => 'step' in line && line.pid === pid);
    const count = (step: string): number =>
      steps.filter((line) => 'step' in line && line.step === step).length;
    const taken = count('shard taken');
    const done = count('part created');
    if (await findSuccess(pool.store, 'r')) throw new Error('the run was over before the worker stopped');
    pool.work();
    await pool.untilDone('r', 300_000);
    const findings = await stage.audit(pool, 'r', archive, { observer });
    const { shards } = await pool.plan('r');
    const embedded = pool.trace().filter((line) => 'step' in line && line.step === 'shard embedded').length;
    if (taken - done > 3) throw new Error(`a drained worker left ${taken - done} shards that it had taken`);
    if (embedded - shards > taken - done)
      throw new Error(`${embedded} shards were embedded for ${shards}, after one worker was drained`);
    return {
      done: `SIGTERM to a worker with ${usualShape.shardSize}-image shards in flight`,
      shown: `it ended in ${seconds.toFixed(1)} s with code 0, ${done} of the ${taken} shards it took committed; ${embedded} embedded for ${shards}; ${findings.summary}`,
    };
  },
};

export const operator: Scenario = {
  name: 'operator',
  title: 'a run that is paused or cancelled stands still, and is whole after resume',
  async play(stage) {
    // One worker, and enough for it to do: the command must be there before the run is over.
    const archive = await stage.archive({ count: 240, brokenEvery: 251, ...usualShape });
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    pool.keepWorking(1);
    const shown: string[] = [];
    for (const word of ['pause', 'cancel'] as const) {
      const run = `to-${word}`;
      await enqueue(pool, archive.folder, run);
      const observer = observe(place, run);
      await pool.untilParts(run, 2, 60_000);
      const atWord = await partsOf(pool, run);
      mustExit(await pool.cli([word, run, '--redis', pool.redis.url]), [0], word);
      await sleep(settleMs);
      const settled = await partsOf(pool, run);
      await sleep(settleMs);
      const later = await partsOf(pool, run);
      const { shards } = await pool.plan(run);
      if (later !== settled) throw new Error(`after ${word}, ${later - settled} more parts were made`);
      if (later === shards) throw new Error(`the run was over before ${word}`);
      await resume(pool, run);
      const findings = await stage.audit(pool, run, archive, { observer });
      shown.push(
        `${word} at ${atWord} of ${shards} parts: ${settled}, then no more; resume: ${findings.summary}`,
      );
    }
    return { done: 'pause and resume, cancel and resume, in the middle of a run', shown: shown.join('; ') };
  },
};

async function partsOf(pool: Pool, run: string): Promise<number> {
  return (await Array.fromAsync(pool.store.list(`runs/${run}/parts/`))).length;
}
