/** The pictures packed into one tar or zip on a store: its planner is killed, its workers are, and the archive is replaced. */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pMap from 'p-map';
import { readShard } from './audit.ts';
import { startFaultProxy } from './fault-proxy.ts';
import { killWhileWorking, workDoneAgain } from './kills.ts';
import { observe } from './observer.ts';
import { makeFilePlace, makeS3Place } from './place.ts';
import type { Pool } from './pool.ts';
import type { Scale, Scenario } from './scenario.ts';
import { type HookRule, markerOf } from './step-hook.ts';
import { enqueue, mustExit, usualArchive, usualShape } from './usual.ts';
import { sendSignal } from './worker-process.ts';

/** Each is a run of its own, named so: an item's id is then its name in the archive, as it is in the plain folder. */
type Extension = 'tar' | 'tar.gz' | 'zip';

const all: readonly Extension[] = ['tar', 'tar.gz', 'zip'];

/** More items than a page of a plan has, so that a planner goes on in the middle of an archive. */
const killSizes: Record<
  Scale,
  { runs: readonly Extension[]; count: number; brokenEvery: number; kills: number; workers: number }
> = {
  full: { runs: all, count: 600, brokenEvery: 31, kills: 15, workers: 3 },
  short: { runs: ['zip'], count: 240, brokenEvery: 251, kills: 2, workers: 2 },
};
const rate = 0.1;

export const packedKills: Scenario = {
  name: 'packed-kills',
  title:
    'the members of a tar or zip are indexed as files are, whoever is killed and whatever its store does',
  async play(stage) {
    const { runs, kills, workers, ...pictures } = killSizes[stage.scale];
    const archive = await stage.archive({ ...pictures, ...usualShape });
    const server = await stage.startS3();

    const planners = new Map<string, AbortController>();
    const proxy = await startFaultProxy(server.endpoint, {
      rate,
      random: stage.random,
      onRequest(method, path) {
        const [name = ''] = /(?<=pictures\.)[a-z.]+/.exec(path) ?? [];
        if (method === 'GET') planners.get(name)?.abort();
      },
    });
    stage.atEnd(() => proxy.close());
    const bucket = await makeS3Place(server, proxy.endpoint);
    const source = await bucket.upload(await packAll(archive.folder, runs, `${stage.folder}/packed`));
    const place = stage.scale === 'full' ? bucket : makeFilePlace(`${stage.folder}/output`);
    const rules = runs.map((run): HookRule => ({ at: 'page created', do: 'SIGKILL', run }));
    const { env } = bucket;
    const pool = await stage.openPool({ place, env, rules, batch: usualShape.batch, readTimeout: '4s' });
    const crew = pool.keepWorking(workers);

    // The same pictures in each: a row is to be computed, not taken from another run's.
    const flags = ['--reuse', 'off'];
    const resume = (run: string) => pool.cli(['resume', run, '--enqueue', '--redis', pool.redis.url]);
    await pMap(
      runs,
      async (run) => {
        const listing = new AbortController();
        planners.set(run, listing);
        const { signal: killed } = listing;
        const archived = `${source}/pictures.${run}`;
        const first = await pool.enqueue(archived, run, { ...usualShape, flags, killed });
        planners.delete(run);
        if (!killed.aborted || first.code !== undefined)
          throw new Error(`the planner of the ${run} was not killed while it listed: ${first.stderr}`);
        // Nothing can be planned before an archive is listed: it left nothing, and the same command begins again.
        mustExit(await resume(run), [2], `resume ${run}, which nobody claimed`);
        const second = await pool.enqueue(archived, run, { ...usualShape, flags });
        if (second.code !== undefined)
          throw new Error(`the planner of the ${run} was not killed between two pages: ${second.stderr}`);
        mustExit(await resume(run), [0], `resume ${run}`);
      },
      { concurrency: 2 },
    );
    const observers = new Map(runs.map((run) => [run, observe(place, run, 1_000)]));
    const images = archive.items * runs.length;
    await killWhileWorking(stage, pool, crew, { images, kills, runs });
    for (const run of runs) await pool.untilDone(run, stage.scale === 'full' ? 600_000 : 120_000);

    const requests = proxy.requests();
    const struck = Object.values(proxy.counts()).reduce((sum, count) => sum + count, 0);
    proxy.setRate(0);
    const summaries: string[] = [];
    for (const [run, observer] of observers)
      summaries.push(`${run}: ${(await stage.audit(pool, run, archive, { observer })).summary}`);
    return {
      done: `${runs.join(', ')} of ${archive.items} pictures each: planners killed while they listed and between two pages, ${kills} × SIGKILL among ${workers} workers, faults in ${struck} of ${requests} store requests`,
      shown: `${summaries.join('; ')}; ${workDoneAgain(pool, images).text}`,
    };
  },
};

export const packedReplaced: Scenario = {
  name: 'packed-replaced',
  isLong: true,
  title:
    'an archive that is replaced while it is indexed gives no row of other bytes, and the next run all of them',
  async play(stage) {
    const runs = stage.scale === 'full' ? all : (['tar'] as const);
    const before = await usualArchive(stage);
    // The same names, and not one picture as it was.
    const after = await stage.archive({ count: before.items, seed: 2, ...usualShape });
    const [packedBefore, packedAfter] = [
      await packAll(before.folder, runs, `${stage.folder}/before`),
      await packAll(after.folder, runs, `${stage.folder}/after`),
    ];
    const bucket = await makeS3Place(await stage.startS3());
    const source = await bucket.upload(packedBefore);
    const place = makeFilePlace(`${stage.folder}/output`);
    const rules: HookRule[] = [{ at: 'shard marked done', do: 'SIGSTOP', nth: 2 * runs.length }];
    const pool = await stage.openPool({ place, env: bucket.env, rules, batch: usualShape.batch });
    const archiveOf = (run: string): string => `${source}/pictures.${run}`;
    const inTwos = { concurrency: 2 };
    await pMap(runs, (run) => enqueue(pool, archiveOf(run), run, ['--reuse', 'off']), inTwos);
    const observers = new Map(runs.map((run) => [run, observe(place, run)]));

    // One worker has read of the old archive, and holds some of it in memory; the other comes to the new one.
    const early = pool.work();
    await early.logged('shard done', 2 * runs.length - 1);
    const pid = await stoppedProcess(pool);
    await bucket.upload(packedAfter);
    const late = pool.work();
    await late.logged('shard done', runs.length);
    sendSignal(pid, 'SIGCONT');
    for (const run of runs) await pool.untilDone(run, 300_000);

    const shown: string[] = [];
    for (const [run, observer] of observers) {
      const mustFail = await changedIds(pool, run);
      if (mustFail.size === 0) throw new Error(`run ${run} was over before its archive was replaced`);
      await stage.audit(pool, run, before, { observer, mustFail });
      shown.push(`${run}: ${mustFail.size} of ${before.items} rows 'changed', the others of the old bytes`);
    }
    const mixed = late.log.find(
      ({ msg, commit, items, failed }) => msg === 'shard done' && commit === 'created' && failed !== items,
    );
    if (mixed) throw new Error(`a worker that never saw the old archive has rows: ${JSON.stringify(mixed)}`);

    const next = (run: string): string => `${run}-after`;
    await pMap(runs, (run) => enqueue(pool, archiveOf(run), next(run), ['--since', run]), inTwos);
    for (const run of runs) {
      await pool.untilDone(next(run), 300_000);
      const { summary } = await stage.audit(pool, next(run), after);
      shown.push(`--since ${run}: ${summary}`);
    }
    return {
      done: `${runs.join(', ')} on S3 replaced by others with the same names, in the middle of a run`,
      shown: shown.join('; '),
    };
  },
};

/** `pictures.tar` and so on in `to`, by Python's own modules. */
async function packAll(pictures: string, kinds: readonly Extension[], to: string): Promise<string> {
  mkdirSync(to);
  const folders = readdirSync(pictures);
  for (const kind of kinds) {
    const packer = kind === 'zip' ? 'zipfile' : 'tarfile';
    const args = ['-m', packer, '--create', join(to, `pictures.${kind}`), ...folders];
    await promisify(execFile)('python3', args, { cwd: pictures });
  }
  return to;
}

/** Waits for the pool's only rule to stop a process. */
async function stoppedProcess(pool: Pool): Promise<number> {
  const marker = markerOf(pool.folder, 0);
  const deadline = Date.now() + 30_000;
  while (!existsSync(marker)) {
    if (Date.now() > deadline) throw new Error('no worker was stopped');
    await sleep(50);
  }
  return (JSON.parse(readFileSync(marker, 'utf8')) as { pid: number }).pid; // step-hook.ts's
}

async function changedIds(pool: Pool, run: string): Promise<Map<string, string>> {
  const ids = new Map<string, string>();
  const { shards } = await pool.plan(run);
  for (let shard = 0; shard < shards; shard++) {
    const part = await readShard(pool.store, run, shard);
    for (const [row, id] of part?.ids.entries() ?? [])
      if (part?.errors[row] === 'changed') ids.set(id, 'changed');
  }
  return ids;
}
