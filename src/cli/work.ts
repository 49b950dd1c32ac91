/** `lensmill work`: the workers of this machine, one process for each device, until they are stopped. */
import { availableParallelism } from 'node:os';
import type { Command } from 'commander';
import { type HealthServer, openHealth } from '../../workers/health.ts';
import { openPool } from '../../workers/pool.ts';
import { vitalsOf } from '../../workers/vitals.ts';
import { listDevices, type WorkerDevice } from '../devices/list-devices.ts';
import { ConfigError } from '../errors.ts';
import { queueOf } from '../producer/drive.ts';
import { openRedis } from '../producer/redis.ts';
import { origins, required } from '../settings/resolve.ts';
import type { Logger } from '../telemetry/log.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { placeSettings, readSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { poolResult, showPool } from './pool-report.ts';

export function addWorkCommand(program: Command): void {
  addCommand(program, 'work', {
    summary:
      "run workers: each takes an output's shards from Redis until it is stopped with SIGTERM or Ctrl-C",
    settings: [
      'output',
      'redis',
      'queue',
      'devices',
      ...workSettings,
      'maxMemoryBytes',
      'metricsPort',
      'host',
      ...readSettings,
      ...placeSettings,
    ],
    examples: [
      'REDIS_URL=redis://queue:6379 lensmill work --output s3://indexes/photos --device cuda',
      'lensmill work --output s3://indexes/photos --redis redis://queue:6379 --devices cuda:0,cuda:2',
      'lensmill work --output s3://indexes/photos --devices cpu:4 --max-memory 6GB --metrics-port 9464',
    ],
    async act(context) {
      const { settings, log, terminal, print, interrupted, hurried } = context;
      required(settings, 'redis');
      const devices = listDevices(wantedDevices(context));
      warnOfFewCores(devices, log);
      const redis = await openRedis({ settings, log });
      const store = await openOutput(settings);
      const output = store.uri;
      const queue = queueOf(settings, store);
      await store.close();

      const { maxMemoryBytes, metricsPort, host } = settings;
      const metrics =
        metricsPort === undefined ? undefined : (await import('../telemetry/metrics.ts')).openWorkerMetrics();
      const pool = openPool(
        { devices, output, redisUrl: redis.url, queue, settings, maxMemoryBytes },
        { log, writeLine: terminal.writeLine, observer: metrics },
      );
      let health: HealthServer | undefined;
      if (metricsPort !== undefined) {
        const vitals = { ...vitalsOf(pool), metrics: metrics?.text };
        health = await openHealth(vitals, { host, port: metricsPort, log });
      }
      const stop = (): void => pool.stop();
      interrupted.addEventListener('abort', stop);
      hurried.addEventListener('abort', stop);
      // After the third signal: what has not ended by then is ended.
      process.once('exit', stop);
      const shown = showPool(pool, terminal);
      try {
        pool.start();
        if (interrupted.aborted) pool.stop();
        await pool.ended;
      } finally {
        shown.close();
        await health?.close();
      }
      const { result, text } = poolResult(pool, { output, queue, settings });
      print(result, text);
      return pool.workers.some(({ failure }) => failure) ? exitCodes.failed : exitCodes.done;
    },
  });
}

/** The one of `device` and `devices` that was said more strongly. Throws ConfigError 'two-devices' where both were said alike. */
function wantedDevices({
  settings,
  origins: saidIn,
}: Pick<Context, 'settings' | 'origins'>): readonly string[] {
  const { device, devices } = settings;
  if (devices === undefined) return [device];
  const strength = origins.indexOf(saidIn.device) - origins.indexOf(saidIn.devices);
  if (strength === 0)
    throw new ConfigError(
      'two-devices',
      `--device ${device} and --devices ${devices.join()}: give one of them; --devices takes a list`,
    );
  return strength > 0 ? devices : [device];
}

function warnOfFewCores(devices: readonly WorkerDevice[], log: Logger): void {
  const workers = devices.filter(({ device }) => device === 'cpu').length;
  const cores = availableParallelism();
  if (workers > cores)
    log.warn({ workers, cores }, 'more workers on the CPU than it has cores: none gains by that');
}
