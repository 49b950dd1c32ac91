/** Redis dies and comes back, is emptied, is replaced by an empty one: the store knows what is missing. */
import { setTimeout as sleep } from 'node:timers/promises';
import { findSuccess } from '../../src/runs/run.ts';
import { type Observer, observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import type { Scenario } from './scenario.ts';
import { enqueue, resume, usualArchive, usualShape } from './usual.ts';

export const redisCrashes: Scenario = {
  name: 'redis-crashes',
  title: 'a pool whose Redis is killed again and again finishes by itself',
  async play(stage) {
    const wanted = stage.scale === 'full' ? 20 : 3;
    const archive = await usualArchive(stage);
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    pool.keepWorking(2);
    const runs = new Map<string, Observer>();
    let crashes = 0;
    while (crashes < wanted) {
      // A quick pool is done before Redis has crashed often enough: it gets another run.
      const run = `r${runs.size}`;
      runs.set(run, observe(place, run));
      await enqueue(pool, archive.folder, run);
      await pool.untilParts(run, 1, 60_000);
      while (crashes < wanted && !(await findSuccess(pool.store, run))) {
        await pool.redis.kill();
        await sleep(200 + 600 * stage.random());
        await pool.redis.start();
        crashes += 1;
        await sleep(200 + 600 * stage.random());
      }
      await pool.untilDone(run, 180_000);
    }
    const summaries: string[] = [];
    for (const [run, observer] of runs)
      summaries.push((await stage.audit(pool, run, archive, { observer })).summary);
    return {
      done: `${crashes} × kill -9 of Redis, restarted from its AOF, in ${runs.size} runs`,
      shown: `${summaries[0]}; no command was needed`,
    };
  },
};

export const redisEmptied: Scenario = {
  name: 'redis-emptied',
  title: 'after FLUSHALL, or with a new and empty Redis, resume does what the store does not hold',
  async play(stage) {
    const archive = await usualArchive(stage);
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    pool.keepWorking(2);
    const shown: string[] = [];
    let runs = 0;
    const ways = { FLUSHALL: () => pool.redis.flush(), 'a new Redis': () => pool.redis.replace() };
    for (const [way, lose] of Object.entries(ways)) {
      const { run, shards, observer } = await lostInTheMiddle(way, lose);
      const taken = (): number =>
        pool.trace().filter((line) => 'step' in line && line.step === 'shard embedded' && line.run === run)
          .length;
      await resume(pool, run);
      const findings = await stage.audit(pool, run, archive, { observer });
      shown.push(`${way}: ${taken()} shards embedded for ${shards} planned, ${findings.summary}`);
    }
    return { done: 'FLUSHALL, then a new Redis, each at a quarter of a run', shown: shown.join('; ') };

    /** Workers are quick: a run that was over by then shows nothing, and the next one is tried. */
    async function lostInTheMiddle(way: string, lose: () => Promise<void>) {
      for (let attempt = 0; attempt < 5; attempt++) {
        const run = `r${runs++}`;
        await enqueue(pool, archive.folder, run, ['--reuse', 'off']);
        const observer = observe(place, run);
        const { shards } = await pool.plan(run);
        await pool.untilParts(run, Math.ceil(shards / 4), 120_000);
        await lose();
        if (!(await findSuccess(pool.store, run))) return { run, shards, observer };
        await observer.stop();
      }
      throw new Error(`each run was over before ${way}`);
    }
  },
};
