/** The process ends at every named step of a run's life, one run a step; what is left completes each of them. */
import { existsSync } from 'node:fs';
import pMap from 'p-map';
import type { Step } from '../../src/steps.ts';
import { makeFilePlace } from './place.ts';
import type { Report, Scenario, Stage } from './scenario.ts';
import { type HookRule, markerOf } from './step-hook.ts';
import { commitSteps, resume, usualShape } from './usual.ts';

/** Passed by `lensmill enqueue`: whoever typed it types `lensmill resume`. */
const planSteps: readonly Step[] = [
  'run claimed',
  'page listed',
  'page items created',
  'page created',
  'plan created',
  'shards enqueued',
];
/** Passed by workers: the pool goes on by itself. */
const workSteps: readonly Step[] = [
  ...commitSteps,
  'finalize enqueued',
  'finalize taken',
  'parts read',
  'success created',
  'run closed',
];

/** Of these, the short form has the ones at which the most is half done. */
const shortSteps: readonly Step[] = [
  'run claimed',
  'page items created',
  'shards enqueued',
  'part created',
  'shard marked done',
  'finalize taken',
  'success created',
];

/** Three shards. */
const count = 12;

export const everyStep: Scenario = {
  name: 'every-step',
  title: 'a process that ends at any named step of a run costs nothing but time',
  async play(stage) {
    const killed = await endAtEveryStep(stage, 'SIGKILL');
    return stage.scale === 'short' ? killed : endAtEveryStep(stage, 'exit', killed);
  },
};

async function endAtEveryStep(stage: Stage, how: 'SIGKILL' | 'exit', before?: Report): Promise<Report> {
  const archive = await stage.archive({ count, brokenEvery: 5, ...usualShape });
  const isChosen = (step: Step): boolean => stage.scale === 'full' || shortSteps.includes(step);
  const [planned, worked] = [planSteps.filter(isChosen), workSteps.filter(isChosen)];
  const steps = [...planned, ...worked];
  const runOf = (step: Step): string => `at-${step.replaceAll(' ', '-')}`;
  const rules = steps.map((at): HookRule => ({ at, do: how, run: runOf(at) }));
  const place = makeFilePlace(`${stage.folder}/output-${how}`);
  const pool = await stage.openPool({ place, rules, batch: usualShape.batch });
  const enqueueAt = (step: Step) => pool.enqueue(archive.folder, runOf(step), usualShape);

  // Several commands at once: what they do first is wait for a process to start.
  const together = { concurrency: 2 };
  await pMap(
    steps,
    async (step) => {
      const { code, stderr } = await enqueueAt(step);
      if ((code === 0) !== worked.includes(step))
        throw new Error(`enqueue for '${step}' exits with ${code}:\n${stderr}`);
    },
    together,
  );
  pool.keepWorking(3);
  await pMap(planned, async (step) => resume(pool, runOf(step)), together);
  for (const step of worked) await pool.untilDone(runOf(step), 120_000);
  // What comes after _SUCCESS.json may still be under way.
  await waitFor(() => rules.every((_, rule) => existsSync(markerOf(pool.folder, rule))), 30_000);
  const missed = steps.filter((_, rule) => !existsSync(markerOf(pool.folder, rule)));
  if (missed.length > 0) throw new Error(`nobody passed ${missed.join(', ')}`);
  await pMap(steps, (step) => stage.audit(pool, runOf(step), archive), together);
  const restarts = pool.logLines('worker crashed; starting another').length;
  return {
    done: `${before ? `${before.done}; ` : ''}${how} at each of ${steps.length} steps, one run each; ${restarts} workers restarted`,
    shown: `${steps.length} of ${steps.length} runs recovered: ${planned.length} by resume, ${worked.length} by the pool; each audited`,
  };
}

async function waitFor(isTrue: () => boolean, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!isTrue() && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 200));
}
