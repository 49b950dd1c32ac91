/** `lensmill enqueue`: the producer alone. Workers anywhere do the rest; the one that commits the last shard finishes the run. */
import type { Command } from 'commander';
import { openQueue } from '../queue.ts';
import { addCommand, exitCodes, required } from './command.ts';
import { enqueueMissing, openRedis, queueOf } from './drive.ts';
import { placeSettings, planSettings, queueSettings } from './index.ts';
import { openOutput, planNewRun } from './prepare.ts';

export function addEnqueueCommand(program: Command): void {
  addCommand(program, 'enqueue', {
    summary: 'plan a source and enqueue its shards for workers elsewhere; ends when all are enqueued',
    arguments: [['<source>', 'a folder or s3://bucket/prefix, as the workers see it']],
    settings: [...planSettings, ...queueSettings, ...placeSettings],
    options: [['--run <id>', 'name of the run (default: the time)']],
    examples: [
      'REDIS_URL=redis://queue:6379 lensmill enqueue s3://photos/ --output s3://indexes/photos',
      'lensmill status RUN --output s3://indexes/photos   # watch the workers',
    ],
    async act(context, [source = ''], { run: id }) {
      const { settings, log, interrupted, print } = context;
      required(settings, 'redis');
      const redis = await openRedis({ settings, log });
      const store = await openOutput(settings);
      const queue = openQueue({ redisUrl: redis.url, name: queueOf(settings, store) });
      try {
        const run = await planNewRun(context, store, source, id as string | undefined); // commander's own type
        await enqueueMissing(queue, store, run, { ...settings, signal: interrupted });
        const { run: name, items, shards } = run;
        print(
          { run: name, items, shards, output: store.uri, queue: queueOf(settings, store) },
          `run ${name}: ${items} images in ${shards} shards are enqueued\nnext: lensmill work --output ${store.uri}   # on each worker`,
        );
        return exitCodes.done;
      } finally {
        await queue.close();
        await store.close();
      }
    },
  });
}
