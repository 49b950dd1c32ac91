/** `lensmill serve`: the API and the page of an output, until it is stopped. */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { Command } from 'commander';
import { openHealth } from '../../workers/health.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError, messageOf } from '../errors.ts';
import { queueOf } from '../producer/drive.ts';
import type { QueueAddress } from '../queue.ts';
import { checkRedis } from '../redis/connection.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { isLoopback, newToken } from '../web/access.ts';
import { explainListening, shownHost } from '../web/listening.ts';
import type { ServeMetrics } from '../web/metrics.ts';
import { openServer } from '../web/server.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { placeSettings, readSettings } from './option-groups.ts';
import { openForReading } from './output.ts';

export function addServeCommand(program: Command): void {
  addCommand(program, 'serve', {
    summary: "serve an output's page and API: search, duplicates, runs, a map; until it is stopped",
    arguments: [['[output]', 'the output (default: --output)']],
    settings: [
      'output',
      'host',
      'port',
      'token',
      'maxUploadBytes',
      'redis',
      'queue',
      'queueDashboard',
      'metricsPort',
      'pricePerHour',
      'device',
      'threads',
      'decoder',
      'readTimeoutMs',
      ...readSettings,
      ...placeSettings,
    ],
    options: [
      ['--run <id>', 'the index that holds the rows of this run, where there are several'],
      ['--fingerprint <hex>', 'the index of this model, where there are several; its first digits will do'],
    ],
    examples: [
      'lensmill serve ./index',
      'LENSMILL_TOKEN=… lensmill serve s3://indexes/photos --host 0.0.0.0 --redis redis://queue:6379',
    ],
    async act(context, [output], { run, fingerprint }) {
      const { log, terminal, print } = context;
      const settings = { ...context.settings, output: output ?? context.settings.output };
      const { host, port, token = newToken() } = settings;
      const { device } = resolveDevice(settings.device);
      if (settings.queueDashboard && settings.redis === undefined) {
        throw new ConfigError(
          'missing-setting',
          '--queue-dashboard shows what is in Redis: name it by --redis (or set REDIS_URL)',
        );
      }
      const store = await openForReading(settings);
      const queue = await queueAddress({ ...context, settings }, queueOf(settings, store));
      let watched: Watched | undefined;
      let isServing = false;
      try {
        watched = await watch(context, queue, () => isServing);
        const server = await openServer({
          store,
          index: {
            s3: s3OptionsOf(settings),
            ...(typeof run === 'string' && { run }),
            ...(typeof fingerprint === 'string' && { fingerprint }),
          },
          device,
          settings,
          host,
          token,
          queue,
          queueBoard: settings.queueDashboard,
          onAnswered: watched?.noteAnswered,
          log,
        });
        try {
          await server.listen({ host, port }).catch((error) => {
            throw explainListening(error, { host, port, flag: '--port' });
          });
          isServing = true;
          if (!isLoopback(host)) {
            log.warn(
              { host },
              'others can connect, and all that they send can be read on the way: put TLS before it (docs/api.md)',
            );
          }
          const { port: bound } = server.server.address() as AddressInfo; // it listens at a port
          const place = `http://${shownHost(host)}:${bound}`;
          // What a container prints is kept, and read by others than those who may read its secrets.
          const isSecretFile = context.origins.token === 'env-file';
          const url = isSecretFile ? `${place}/` : `${place}/#token=${token}`;
          const where = isSecretFile ? `${url} (the token is in the file of LENSMILL_TOKEN_FILE)` : url;
          const queues = settings.queueDashboard
            ? `and, to a browser that was there, its queue at\n  ${place}/queues\n`
            : '';
          print(
            { url, output: store.uri },
            `${store.uri} is served at\n  ${where}\n${queues}Stop it with Ctrl-C.`,
          );
          if (!context.interrupted.aborted) await once(context.interrupted, 'abort');
          terminal.show(undefined);
          return exitCodes.done;
        } finally {
          isServing = false;
          await server.close();
        }
      } finally {
        await watched?.close();
        await store.close();
      }
    },
  });
}

interface Watched {
  noteAnswered: ServeMetrics['noteAnswered'];
  close(): Promise<void>;
}

/** /healthz, /readyz and /metrics, where they are asked for. What answers is well; a Redis that is away is no reason not to be ready. */
async function watch(
  { settings: { metricsPort, host }, log }: Context,
  queue: QueueAddress | undefined,
  isServing: () => boolean,
): Promise<Watched | undefined> {
  if (metricsPort === undefined) return undefined;
  const metrics = (await import('../web/metrics.ts')).openServeMetrics(queue, { log });
  try {
    const health = await openHealth(
      {
        ailments: () => [],
        obstacles: () => (isServing() ? [] : ['the page and the API are not served']),
        metrics: metrics.text,
      },
      { host, port: metricsPort, log },
    );
    return {
      noteAnswered: metrics.noteAnswered,
      async close() {
        await health.close();
        await metrics.close();
      },
    };
  } catch (error) {
    await metrics.close();
    throw error;
  }
}

/** Where runs under way are looked up. A Redis that is away now may come later: it is no reason not to serve. */
async function queueAddress({ settings, log }: Context, name: string) {
  if (settings.redis === undefined) return undefined;
  await checkRedis(settings.redis).catch((error) =>
    log.warn({ error: messageOf(error) }, 'runs are shown by the store until Redis answers'),
  );
  return { redisUrl: settings.redis, name };
}
