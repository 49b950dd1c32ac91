/** `lensmill enqueue`: the producer alone. Workers anywhere do the rest; the one that commits the last shard finishes the run. */
import type { Command } from 'commander';
import { enqueueRun } from '../producer/enqueue.ts';
import type { Run } from '../runs/run.ts';
import { required } from '../settings/resolve.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type Context, type ExitCode, exitCodes } from './command.ts';
import { ofNewRun } from './new-run.ts';

export function addEnqueueCommand(program: Command): void {
  addCommand(program, 'enqueue', {
    summary: 'plan a source and enqueue its shards for workers elsewhere; ends when all are enqueued',
    ...ofNewRun({
      settings: [],
      check: (settings) => required(settings, 'redis'),
      goOn: enqueueAndTell,
    }),
    examples: [
      'REDIS_URL=redis://queue:6379 lensmill enqueue s3://photos/ --output s3://indexes/photos',
      'lensmill status RUN --output s3://indexes/photos   # watch the workers',
    ],
  });
}

/** Enqueues what the store does not hold of a run, and says how workers get at it. */
export async function enqueueAndTell(context: Context, store: Store, run: Run): Promise<ExitCode> {
  const { queue, enqueued } = await enqueueRun(context, store, run).catch((error) => {
    if (context.wasInterrupted)
      process.stderr.write(
        `stopped; go on with: lensmill resume ${run.run} --enqueue --output ${store.uri}\n`,
      );
    throw error;
  });
  const { run: id, items, shards } = run;
  const what =
    enqueued === shards
      ? `${items} images in ${shards} shards are enqueued`
      : `${enqueued} of ${shards} shards are enqueued; the store has the others`;
  context.print(
    { run: id, items, shards, enqueued, output: store.uri, queue },
    `run ${id}: ${what}\nnext: lensmill work --output ${store.uri}   # on each worker`,
  );
  return exitCodes.done;
}
