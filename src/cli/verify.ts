/** `lensmill verify`: proves that a run is whole, and with --deep that its numbers are those of its images. */
import { randomInt } from 'node:crypto';
import type { Command } from 'commander';
import { readRun, readSuccess } from '../runs/run.ts';
import { readOption, whole } from '../settings/values.ts';
import { isSound, type Verification, verifyRun } from '../verify.ts';
import { addCommand, type ExitCode, exitCodes } from './command.ts';
import type { DeepVerification } from './deep.ts';
import { placeSettings, readSettings, workSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { reportProgress } from './progress.ts';

const seeds = 2 ** 31;

export function addVerifyCommand(program: Command): void {
  addCommand(program, 'verify', {
    summary: 'prove that every planned image is exactly one row of an undamaged part; reads every part',
    arguments: [['<run>', 'id of the run; its retries are proven too']],
    settings: ['output', ...workSettings, ...readSettings, ...placeSettings],
    options: [
      ['--deep <n>', 'also do n images again, chosen at random, and compare: needs the source and the model'],
      ['--seed <n>', 'chooses the same images as the verify that printed it (default: others each time)'],
    ],
    examples: [
      'lensmill verify 20261124-091233-3fa2 --output ./index',
      'lensmill verify 20261124-091233-3fa2 --output s3://indexes/photos --deep 200 --device cuda',
    ],
    async act(context, [id = ''], options) {
      const count = readOption('--deep', options.deep, whole(1)) ?? 0;
      const seed = readOption('--seed', options.seed, whole(0, seeds - 1)) ?? randomInt(seeds);
      const store = await openForReading(context.settings);
      const progress = reportProgress('parts', context);
      try {
        const run = await readRun(store, id);
        const success = await readSuccess(store, id);
        const result = await verifyRun(store, run, success, {
          onProgress: (done) => progress.update({ done, total: Math.max(done, run.shards) }),
        });
        progress.close();
        const sound = isSound(result);
        // Where the run is not what it says, its numbers are no more to be trusted.
        const deep =
          sound && count > 0
            ? await (await import('./deep.ts')).verifyDeep(context, store, id, { count, seed })
            : undefined;
        context.print(
          { ...result, sound, ...(deep && { deep }) },
          [...linesOf(result), ...(deep ? deepLines(deep) : [])].join('\n'),
        );
        return codeOf(sound, deep);
      } finally {
        progress.close();
        await store.close();
      }
    },
  });
}

function codeOf(sound: boolean, deep: DeepVerification | undefined): ExitCode {
  if (!sound || (deep && deep.different.length > 0)) return exitCodes.failed;
  return deep && deep.unknown.length > 0 ? exitCodes.someFailed : exitCodes.done;
}

function linesOf(found: Verification): string[] {
  const { run, items, ok, failed, gone, parts, leftovers, devices, batches, problems, retries, unfinished } =
    found;
  const lines =
    problems.length > 0
      ? [`run ${run} is NOT sound:`, ...problems.map((problem) => `  ${problem}`)]
      : [
          `run ${run} is sound: ${items} images = ${ok} embedded + ${failed} failed${gone ? ` + ${gone} gone` : ''}, in ${parts} parts, made on ${devices.join(', ')} in batches of ${batches.join(', ')}`,
        ];
  return [
    ...lines,
    ...(leftovers > 0
      ? [`  ${leftovers} objects are left over from planners or attempts that did not win`]
      : []),
    ...retries.flatMap(linesOf),
    ...unfinished.map((retry) => `run ${retry} is not finished, and does not count yet`),
  ];
}

function deepLines({
  sampled,
  seed,
  device,
  same,
  different,
  unknown,
  distance,
  tolerance,
}: DeepVerification): string[] {
  const within = `${tolerance.distance.toExponential(0)} (${tolerance.reason})`;
  return [
    `of ${sampled} images done again on ${device}, ${same} are the same, ${different.length} differ, ${unknown.length} cannot be compared (--seed ${seed})`,
    ...(same > 0 ? [`  farthest embedding ${distance.toExponential(1)}, tolerance ${within}`] : []),
    ...different.map(({ id, why }) => `  differs: ${id}: ${why}`),
    ...unknown.map(({ id, why }) => `  cannot be compared: ${id}: ${why}`),
  ];
}
