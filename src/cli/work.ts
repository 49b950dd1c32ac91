/** `lensmill work`: one worker on this machine, until it is stopped. */
import type { Command } from 'commander';
import { superviseWorker } from '../../workers/supervisor.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { openRedis, queueOf } from '../producer/drive.ts';
import { required } from '../settings.ts';
import { reportThroughput } from '../throughput.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings, readSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { throughputLines } from './speed.ts';

export function addWorkCommand(program: Command): void {
  addCommand(program, 'work', {
    summary: "run a worker: takes an output's shards from Redis until it is stopped with SIGTERM or Ctrl-C",
    settings: ['output', 'redis', 'queue', ...workSettings, ...readSettings, ...placeSettings],
    examples: [
      'REDIS_URL=redis://queue:6379 lensmill work --output s3://indexes/photos --device cuda',
      'lensmill work --output s3://indexes/photos --redis redis://queue:6379 --device cuda:1',
    ],
    async act({ settings, log, terminal, print, interrupted, hurried }) {
      required(settings, 'redis');
      resolveDevice(settings.device);
      const redis = await openRedis({ settings, log });
      const store = await openOutput(settings);
      const output = store.uri;
      const queue = queueOf(settings, store);
      await store.close();

      const worker = superviseWorker(
        { output, redisUrl: redis.url, queue, settings },
        { log, writeLine: terminal.writeLine },
      );
      interrupted.addEventListener('abort', () => worker.stop());
      hurried.addEventListener('abort', () => worker.stop());
      const { device } = await worker.ready;
      log.info({ device, output, queue }, 'worker ready');
      await worker.ended;
      const throughput = reportThroughput(worker.measures(), settings);
      if (throughput) {
        const images = throughput.images.toLocaleString('en-US');
        print({ device, ...throughput }, [`images  ${images}`, ...throughputLines(throughput)].join('\n'));
      }
      return exitCodes.done;
    },
  });
}
