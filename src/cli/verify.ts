/** `lensmill verify`: proves that a run is whole. */
import type { Command } from 'commander';
import { readRun, readSuccess } from '../run.ts';
import { verifyRun } from '../verify.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings } from './index.ts';
import { openOutput } from './prepare.ts';
import { reportProgress } from './progress.ts';

export function addVerifyCommand(program: Command): void {
  addCommand(program, 'verify', {
    summary: 'prove that every planned image is exactly one row of an undamaged part; reads every part',
    arguments: [['<run>', 'id of the run']],
    settings: ['output', ...placeSettings],
    examples: ['lensmill verify 20261124-091233-3fa2 --output ./index'],
    async act(context, [id = '']) {
      const store = await openOutput(context.settings);
      const progress = reportProgress('parts', context);
      try {
        const run = await readRun(store, id);
        const success = await readSuccess(store, id);
        const result = await verifyRun(store, run, success, {
          onProgress: (done) => progress.update({ done, total: run.shards }),
        });
        progress.close();
        const { items, ok, failed, parts, problems } = result;
        const isSound = problems.length === 0;
        context.print(
          { ...result, sound: isSound },
          isSound
            ? `run ${id} is sound: ${items} images = ${ok} embedded + ${failed} failed, in ${parts} parts`
            : `run ${id} is NOT sound:\n${problems.map((problem) => `  ${problem}`).join('\n')}`,
        );
        return isSound ? exitCodes.done : exitCodes.failed;
      } finally {
        progress.close();
        await store.close();
      }
    },
  });
}
