/** Workers are stopped past their lease at each point of a commit, others finish their shards, then they wake. */
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Step } from '../../src/steps.ts';
import { observe } from './observer.ts';
import { makeFilePlace, makeS3Place, type Place } from './place.ts';
import type { Pool } from './pool.ts';
import type { Report, Scenario, Stage } from './scenario.ts';
import { type HookRule, markerOf } from './step-hook.ts';
import { commitSteps, enqueue, usualArchive, usualShape } from './usual.ts';
import { sendSignal } from './worker-process.ts';

const shortSteps: readonly Step[] = ['shard embedded', 'lease checked', 'part created'];
/** In which a worker that woke has long done whatever it would do. */
const wakeMs = 6_000;

export const freeze: Scenario = {
  name: 'freeze',
  title: 'a worker that wakes up after its lease writes nothing',
  async play(stage) {
    const onFiles = await freezeOn(stage, makeFilePlace(`${stage.folder}/output`));
    if (stage.scale === 'short') return onFiles;
    const onS3 = await freezeOn(stage, await makeS3Place(await stage.startS3()));
    return { done: `${onFiles.done}; the same on S3`, shown: `${onFiles.shown}; on S3: ${onS3.shown}` };
  },
};

async function freezeOn(stage: Stage, place: Place): Promise<Report> {
  const steps = stage.scale === 'full' ? commitSteps : shortSteps;
  const rules = steps.map((at): HookRule => ({ at, do: 'SIGSTOP' }));
  const archive = await usualArchive(stage);
  const pool = await stage.openPool({ place, rules, batch: usualShape.batch });
  await enqueue(pool, archive.folder, 'r');
  const observer = observe(place, 'r');
  // Each rule stops one worker, so one is left.
  for (let n = 0; n <= steps.length; n++) pool.work();
  await pool.untilDone('r', 180_000);

  const frozen = steps.map((step, rule) => ({ step, pid: stoppedBy(pool, rule) }));
  const missed = frozen.filter(({ pid }) => pid === undefined);
  if (missed.length > 0) throw new Error(`nobody passed ${missed.map(({ step }) => step).join(', ')}`);
  const before = await place.versions('runs/r/');
  const linesBefore = pool.workers.map(({ log }) => log.length);
  for (const { pid } of frozen) sendSignal(pid ?? 0, 'SIGCONT');
  await sleep(wakeMs);

  const after = await place.versions('runs/r/');
  const writes = after.filter(
    ({ key, version }) => !before.some((o) => o.key === key && o.version === version),
  );
  if (writes.length > 0)
    throw new Error(`workers that woke wrote ${writes.map(({ key }) => key).join(', ')}`);
  const said = pool.workers.flatMap(({ log }, n) => log.slice(linesBefore[n]).map((line) => line.msg));
  const findings = await stage.audit(pool, 'r', archive, { observer });
  return {
    done: `${steps.length} workers stopped for ≥ 10 s, at ${steps.map((step) => `'${step}'`).join(', ')}`,
    shown: `0 writes of theirs accepted (they logged ${countWords(said)}); ${findings.summary}`,
  };
}

function stoppedBy(pool: Pool, rule: number): number | undefined {
  const marker = markerOf(pool.folder, rule);
  return existsSync(marker) ? (JSON.parse(readFileSync(marker, 'utf8')) as { pid: number }).pid : undefined;
}

function countWords(words: readonly string[]): string {
  const counts = Object.entries(Object.groupBy(words, (word) => word));
  return counts.map(([word, all = []]) => `${all.length} × '${word}'`).join(', ') || 'nothing';
}
