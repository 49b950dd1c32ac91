/** `lensmill pause` and `lensmill cancel`: an operator's word about a run, for every worker of its queue. */
import type { Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { queueOf } from '../producer/drive.ts';
import { openRedis } from '../producer/redis.ts';
import { openQueue, type RunState, type ShardQueue } from '../queue.ts';
import { findSuccess, readRequest } from '../runs/run.ts';
import { required } from '../settings/resolve.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type CommandOptions, exitCodes } from './command.ts';
import { placeSettings } from './option-groups.ts';
import { openForReading } from './output.ts';

export function addPauseCommand(program: Command): void {
  addCommand(program, 'pause', {
    summary: 'let no worker take another shard of a run; those in flight are finished',
    ...sayTo('paused', async () => 'no more shards of it are taken'),
    examples: ['lensmill pause 20261124-091233-3fa2 --output s3://indexes/photos --redis redis://queue:6379'],
  });
}

export function addCancelCommand(program: Command): void {
  addCommand(program, 'cancel', {
    summary: 'take a run off the workers; its parts stay, and those in flight are dropped',
    ...sayTo('cancelled', async (queue, run) => {
      await queue.dropJobs(run);
      return 'its shards are out of Redis, its parts stay in the output';
    }),
    examples: [
      'lensmill cancel 20261124-091233-3fa2 --output s3://indexes/photos --redis redis://queue:6379',
    ],
  });
}

/** What both commands are but for their name: `act` does what is to be done beside the new state, and says so. */
function sayTo(
  state: RunState,
  act: (queue: ShardQueue, run: string) => Promise<string>,
): Pick<CommandOptions, 'arguments' | 'settings' | 'act'> {
  return {
    arguments: [['<run>', 'id of the run']],
    settings: ['output', 'redis', 'queue', ...placeSettings],
    async act({ settings, log, print }, [run = '']) {
      required(settings, 'redis');
      const redis = await openRedis({ settings, log });
      const store = await openForReading(settings);
      const queue = openQueue({ redisUrl: redis.url, name: queueOf(settings, store) });
      try {
        await mustBeOpen(store, run);
        if (!(await queue.setState(run, state)))
          throw new ConfigError('not-queued', `run ${run} is not in this Redis, so no worker is on it`);
        const effect = await act(queue, run);
        const next = `lensmill resume ${run} --output ${store.uri}`;
        print({ run, state }, `run ${run} is ${state}: ${effect}\nnext: ${next}   # when it shall go on`);
        return exitCodes.done;
      } finally {
        await queue.close();
        await store.close();
      }
    },
  };
}

async function mustBeOpen(store: Store, run: string): Promise<void> {
  await readRequest(store, run);
  if (await findSuccess(store, run))
    throw new ConfigError('finished', `run ${run} is finished: nothing is left to stop`);
}
