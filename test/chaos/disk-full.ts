/** The disk under Redis, or under the store, is full in the middle of a run: it is said what to do, and then it works. */
import { observe } from './observer.ts';
import { makeFilePlace, type Place } from './place.ts';
import { startRedis } from './redis.ts';
import type { Scenario, Stage } from './scenario.ts';
import { mountSmallDisk, type SmallDisk } from './small-disk.ts';
import { enqueue, resume, usualArchive, usualShape } from './usual.ts';

export const diskFull: Scenario = {
  name: 'disk-full',
  title: 'a full disk is named with its remedy, and resume completes the run when there is space',
  async play(stage) {
    const disk = (name: string): SmallDisk => {
      // Redis 7 rewrites its AOF at 64 MB; parts of the full run are 12 MB.
      const mounted = mountSmallDisk(`${stage.folder}/${name}`, '48m');
      stage.atEnd(() => mounted.close());
      return mounted;
    };
    const small = disk('store-disk');
    const underStore = await fillDuringRun(
      stage,
      small,
      makeFilePlace(`${small.folder}/output`),
      `${stage.folder}/redis`,
    );
    const other = disk('redis-disk');
    const underRedis = await fillDuringRun(
      stage,
      other,
      makeFilePlace(`${stage.folder}/output`),
      other.folder,
    );
    return {
      done: 'the disk filled to the last byte in the middle of a run: under the store, then under Redis',
      shown: `store: ${underStore}; Redis: ${underRedis}`,
    };
  },
};

async function fillDuringRun(
  stage: Stage,
  disk: SmallDisk,
  place: Place,
  redisFolder: string,
): Promise<string> {
  const archive = await usualArchive(stage);
  // Redis refuses writes from the first that its file could not take ('appendfsync always' would make it exit instead).
  const redis = await startRedis({ folder: redisFolder });
  stage.atEnd(() => redis.close());
  const pool = await stage.openPool({ place, redis, batch: usualShape.batch });
  await enqueue(pool, archive.folder, 'r');
  const observer = observe(place, 'r');
  const first = pool.work();
  await pool.untilParts('r', 3, 60_000);
  disk.fill();
  const refused = await pool.cli(
    ['resume', 'r', '--redis', redis.url, '--batch', '4', '--threads', '1', '--attempts', '2'],
    { timeoutMs: 90_000 },
  );
  const message = refused.stderr.trim().split('\n').at(-1) ?? '';
  if (refused.code === 0 || refused.code === 3 || refused.code === undefined)
    throw new Error(`resume on a full disk exits with ${refused.code}:\n${refused.stderr.slice(-800)}`);
  if (!/no space left|disk.*full|full.*disk|free some/i.test(message))
    throw new Error(`resume on a full disk does not say what to do: ${message}`);
  disk.free();
  await resume(pool, 'r');
  first.kill('SIGTERM', 'supervisor');
  const findings = await stage.audit(pool, 'r', archive, { observer });
  return `exit code ${refused.code} and '${message.slice(0, 160)}'; then ${findings.summary}`;
}
