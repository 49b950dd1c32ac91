/** Workers whose clocks are an hour off: leases are Redis's time, and nothing else depends on a clock. */
import { existsSync } from 'node:fs';
import { observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import { CannotRunHere, type Scenario } from './scenario.ts';
import { enqueue, usualArchive, usualShape } from './usual.ts';

/** Debian's package `libfaketime`, which `faketime` brings. */
const library = `/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu/faketime/libfaketimeMT.so.1`;

export const clocks: Scenario = {
  name: 'clocks',
  title: 'workers an hour ahead and an hour behind complete a run together',
  async play(stage) {
    if (!existsSync(library)) throw new CannotRunHere('no libfaketime: apt-get install faketime');
    const archive = await usualArchive(stage);
    const place = makeFilePlace(`${stage.folder}/output`);
    const pool = await stage.openPool({ place, batch: usualShape.batch });
    const shifts = ['+1h', '-1h'];
    const workers = shifts.map((shift) =>
      pool.work({
        env: {
          LD_PRELOAD: library,
          FAKETIME: shift,
          // Only the clock on the wall is wrong: timers go on. Files keep their true times: they are part of an etag.
          FAKETIME_DONT_FAKE_MONOTONIC: '1',
          NO_FAKE_STAT: '1',
        },
      }),
    );
    await Promise.all(workers.map((worker) => worker.logged('worker ready')));
    await enqueue(pool, archive.folder, 'r');
    const observer = observe(place, 'r');
    await pool.untilDone('r', 300_000);
    const offsets = workers.map(({ log }) => {
      const { time } = log.findLast((line) => line.msg === 'shard done') ?? {};
      return time === undefined ? 0 : Math.round((Date.parse(time) - Date.now()) / 60_000);
    });
    const isShifted = offsets.every((minutes, n) => Math.abs(minutes - (n === 0 ? 60 : -60)) <= 2);
    if (!isShifted) throw new Error(`the clocks of the workers were ${offsets.join(' and ')} minutes off`);
    const findings = await stage.audit(pool, 'r', archive, { observer });
    const shards = workers.map(({ log }) => log.filter((line) => line.msg === 'shard done').length);
    return {
      done: 'one worker an hour ahead, one an hour behind',
      shown: `${shards.join(' and ')} shards done by them; ${findings.summary}`,
    };
  },
};
