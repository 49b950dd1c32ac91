/**
 * The API and the page of one output. A request passes, in this order: its Host, the token or the cookie, the rate, its schema;
 * then its route does it (session, images, search, runs, map). What fails is a `problem`, whatever it was.
 */
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import helmet from '@fastify/helmet';
import multipart from '@fastify/multipart';
import rateLimit from '@fastify/rate-limit';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod';
import type { EmbedderSettings } from '../../workers/embedder.ts';
import { openSharedEmbedder } from '../../workers/shared-embedder.ts';
import { openThumbnails, type ThumbnailSettings } from '../../workers/thumbnails.ts';
import type { Device } from '../devices/device.ts';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import type { QueueAddress } from '../queue.ts';
import type { OpenIndexOptions } from '../search/open-index.ts';
import type { Settings } from '../settings/table.ts';
import type { Store } from '../stores/store.ts';
import type { Logger } from '../telemetry/log.ts';
import { isLoopback, namesThisMachine, openAccess } from './access.ts';
import { openCurrentIndex } from './current-index.ts';
import { duplicateRoutes } from './duplicates.ts';
import { imageRoutes } from './images.ts';
import { mapRoutes } from './map.ts';
import { openMapMaker } from './map-maker.ts';
import { registerOpenApi } from './openapi.ts';
import { pageRoutes } from './page.ts';
import { connectionProblem, type FailedReply, problemOf, Refusal } from './problems.ts';
import { parseQueryString } from './queries.ts';
import { openProgress } from './run-progress.ts';
import { openRunWatch } from './run-watch.ts';
import { runRoutes } from './runs.ts';
import { searchRoutes } from './search.ts';
import type { Serving } from './serving.ts';
import { sessionRoutes } from './session.ts';
import { openThumbnailCache } from './thumbnails.ts';

export interface ServerOptions {
  store: Store;
  /** Which of its indexes, and how it is read. */
  index: OpenIndexOptions;
  /** What pictures that are searched by are embedded on. */
  device: Device;
  settings: EmbedderSettings & ThumbnailSettings & Pick<Settings, 'maxUploadBytes' | 'pricePerHour'>;
  /** Where it will listen: what reaches only this machine wants to be called by a name of this machine. */
  host: string;
  token: string;
  /** Where runs under way are looked up; else only the store tells of them. */
  queue?: QueueAddress | undefined;
  /** bull-board over that queue, at /queues. */
  queueBoard?: boolean;
  log: Logger;
  /** Told of each request when it is over. */
  onAnswered?: ((answered: Answered) => void) | undefined;
  /** Of the built page; else the one beside this module. */
  pageFolder?: string;
}

export interface Answered {
  method: string;
  /** As it was registered, `/api/images/:id`; undefined where there is none. */
  route: string | undefined;
  status: number;
  ms: number;
  /** It was a stream of events: it took as long as somebody listened. */
  isStream: boolean;
}

/** A page that shows 500 thumbnails asks as many times at once. */
const requestsPerMinute = 6_000;
/** Who tries tokens is told to stop. Who has the right one never is, so it is the token's length that protects. */
const wrongTokensPerMinute = 20;
const maxBodyBytes = 256 * 1024;
/** Of a whole request, with its pictures, over a slow line. */
const requestMs = 300_000;

/**
 * Listens nowhere yet. `close` ends what goes on, and leaves the store open. Throws ConfigError 'which-index' where an output has
 * indexes of several models and none is chosen; one that has none may get it later.
 */
export async function openServer({
  store,
  index,
  device,
  settings,
  host,
  token,
  queue,
  queueBoard = false,
  log,
  onAnswered,
  pageFolder,
}: ServerOptions): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: maxBodyBytes,
    requestTimeout: requestMs,
    routerOptions: { querystringParser: parseQueryString },
    frameworkErrors: (error, _request, reply) => answerProblem(error, reply),
    clientErrorHandler: refuseConnection,
  });
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.removeContentTypeParser('text/plain');

  const closing = new AbortController();
  const progress = queue && openProgress(queue, { log, pricePerHour: settings.pricePerHour });
  const thumbnails = openThumbnails(store, settings);
  const current = openCurrentIndex(store, index, log);
  const serving: Serving = {
    store,
    index: current,
    maps: openMapMaker({ output: store.uri, index: current, log }, settings.cacheDir),
    embedder: openSharedEmbedder(store, { device, settings }, log),
    maxUploadBytes: settings.maxUploadBytes,
    thumbnails: openThumbnailCache(thumbnails),
    runs: openRunWatch(store, progress, log),
    log,
    closing: closing.signal,
  };
  app.addHook('preClose', async () => closing.abort());
  app.addHook('onClose', async () => {
    await Promise.all([
      serving.maps.close(),
      serving.index.close(),
      serving.embedder.close(),
      thumbnails.close(),
      progress?.close(),
    ]);
  });

  const tellProblem = (error: unknown, isGone: boolean): FailedReply => {
    const failed = problemOf(error);
    const { problem } = failed;
    if (problem.code === 'internal' && !isGone) log.error({ err: error }, 'request failed');
    else if (error instanceof ConfigError && problem.status === 503)
      log.warn({ code: problem.code, error: problem.message }, 'request not done');
    return failed;
  };
  const answerProblem = (error: unknown, reply: FastifyReply): FastifyReply => {
    const { problem, headers } = tellProblem(error, reply.raw.destroyed);
    // Serialised here: the schema of a route need not know it.
    return reply.code(problem.status).headers(headers).type('application/json').send(JSON.stringify(problem));
  };
  app.setErrorHandler((error, _request, reply) => answerProblem(error, reply));
  app.addHook(
    'onResponse',
    async ({ method, routeOptions: { url: route } }, { statusCode, elapsedTime, raw }) => {
      log.debug({ method, route, status: statusCode, ms: Math.round(elapsedTime) }, 'request done');
      const isStream = String(raw.getHeader('content-type')).startsWith('text/event-stream');
      onAnswered?.({ method, route, status: statusCode, ms: elapsedTime, isStream });
    },
  );

  await app.register(helmet, headersPolicy);
  await app.register(multipart);
  await app.register(rateLimit, {
    max: requestsPerMinute,
    timeWindow: '1 minute',
    errorResponseBuilder: (_request, { ttl }) => tooMany(ttl),
  });
  await registerOpenApi(app);

  if (isLoopback(host)) {
    app.addHook('onRequest', async ({ headers }) => {
      if (!namesThisMachine(headers.host))
        throw new Refusal(421, 'wrong-host', 'this server is called localhost, 127.0.0.1 or [::1]');
    });
  }
  const access = openAccess(token);
  const countWrong = app.createRateLimit({ max: wrongTokensPerMinute, timeWindow: '1 minute' });
  const checkAccess = async (request: FastifyRequest): Promise<void> => {
    try {
      access.check(request);
    } catch (error) {
      const count = await countWrong(request);
      if (!count.isAllowed && count.isExceeded) throw tooMany(count.ttl);
      throw error;
    }
  };

  await app.register(
    async (api) => {
      api.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger());
      await api.register(async (guarded) => {
        guarded.addHook('onRequest', checkAccess);
        guarded.setNotFoundHandler(unknownRoute);
        await guarded.register(sessionRoutes(access));
        await guarded.register(imageRoutes(serving));
        await guarded.register(searchRoutes(serving));
        await guarded.register(duplicateRoutes(serving));
        await guarded.register(mapRoutes(serving));
        await guarded.register(runRoutes(serving));
      });
    },
    { prefix: '/api' },
  );
  if (queue && queueBoard) {
    const board = await import('./queue-board.ts');
    await app.register(
      async (guarded) => {
        guarded.addHook('onRequest', async (_request, reply) => reply.helmet(boardHeaders));
        // Answered here: bull-board has an error handler of its own, which knows no headers.
        guarded.addHook('onRequest', (request, reply) =>
          checkAccess(request).catch((error) => answerProblem(error, reply)),
        );
        guarded.setNotFoundHandler(unknownRoute);
        await guarded.register(board.queueBoard(queue, (error) => tellProblem(error, false).problem));
      },
      { prefix: board.boardPath },
    );
  }
  app.setNotFoundHandler(unknownRoute);
  await app.register(pageRoutes(pageFolder));
  try {
    await openFirst(serving);
  } catch (error) {
    await app.close();
    throw error;
  }
  return app;
}

/** A choice that must be made is asked for now, of who starts the server; an index may also be built later. */
async function openFirst({ index, log }: Serving): Promise<void> {
  try {
    await index.use(async () => undefined);
  } catch (error) {
    if (!(error instanceof ConfigError) || error.code !== 'no-index') throw error;
    log.warn({ error: error.message }, 'no index to search yet');
  }
}

/** What Node could not read as a request reaches no route: it is told here, and the connection is over. */
function refuseConnection(error: Error, socket: Socket): void {
  if (socket.writable && errnoOf(error) !== 'ECONNRESET') {
    const problem = connectionProblem(error);
    const body = JSON.stringify(problem);
    socket.write(
      `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}\r\ncontent-type: application/json\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
    );
  }
  socket.destroy(error);
}

function unknownRoute({ method, url }: FastifyRequest): never {
  const path = url.split('?', 1)[0];
  throw new Refusal(404, 'no-route', `there is no ${method} ${path}; /api/openapi.json lists what there is`);
}

function tooMany(ttlMs: number): Refusal {
  const seconds = Math.ceil(ttlMs / 1_000);
  return new Refusal(429, 'too-many-requests', `too many requests; the next is taken in ${seconds} s`, {
    'retry-after': String(seconds),
  });
}

/** Nothing runs or is shown but what this server sent, and nobody frames it. */
const directives = {
  'default-src': ["'self'"],
  'img-src': ["'self'", 'data:', 'blob:'],
  'object-src': ["'none'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ["'none'"],
};
const headersPolicy = {
  contentSecurityPolicy: { useDefaults: false, directives },
  // For https they are the business of what ends TLS.
  strictTransportSecurity: false,
  referrerPolicy: { policy: 'no-referrer' as const },
};

/** bull-board's page finds its files by a `<base>`. */
const boardHeaders = {
  contentSecurityPolicy: { useDefaults: false, directives: { ...directives, 'base-uri': ["'self'"] } },
};
