/** `lensmill resume`: finishes a run from what its store holds, whatever became of Redis and of its workers. */
import type { Command } from 'commander';
import { completePlan } from '../producer/plan-run.ts';
import { findSuccess, readRequest } from '../runs/run.ts';
import { required } from '../settings/resolve.ts';
import { addCommand } from './command.ts';
import { enqueueAndTell } from './enqueue.ts';
import { keepHeapSmall } from './heap.ts';
import { finishRun, indexIfAsked } from './index.ts';
import { placeSettings, queueSettings, readSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { codeOf, summarize } from './summary.ts';

export function addResumeCommand(program: Command): void {
  addCommand(program, 'resume', {
    summary:
      'finish a run that was stopped: plans on, and does exactly the shards that the store does not hold',
    arguments: [['<run>', 'id of the run']],
    settings: ['output', ...workSettings, ...readSettings, ...queueSettings, ...placeSettings],
    options: [['--enqueue', 'only enqueue what is left: workers elsewhere do it']],
    examples: [
      'lensmill resume 20261124-091233-3fa2 --output ./index',
      'lensmill resume 20261124-091233-3fa2 --enqueue --output s3://indexes/photos --redis redis://queue:6379',
    ],
    async act(context, [id = ''], { enqueue }) {
      if (enqueue) required(context.settings, 'redis');
      const store = await openOutput(context.settings);
      try {
        keepHeapSmall();
        const run = await completePlan(context, store, await readRequest(store, id));
        const success = await findSuccess(store, id);
        if (!success) return await (enqueue ? enqueueAndTell : finishRun)(context, store, run);
        const { json, text } = summarize(store, run, success);
        context.print(json, `${text}\nnothing is left to do`);
        await indexIfAsked(context, store, run);
        return codeOf(success);
      } finally {
        await store.close();
      }
    },
  });
}
