/** Runs: how far they are, as it changes, and which images failed. */
import { fastifySSE } from '@fastify/sse';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { isAnyRunId } from '../layout.ts';
import { readFailedImages } from '../runs/failed-images.ts';
import { openView } from '../runs/view.ts';
import { failedImages, runs as runsSchema } from './api.ts';
import { pageQuery, sizeQuery } from './queries.ts';
import { answers, failures, type Serving } from './serving.ts';
import { sendThumbnail, thumbnailAnswers } from './thumbnails.ts';

/** What stands between us and a browser may end a connection that is silent for a minute. */
const heartbeatMs = 15_000;

export const runRoutes =
  ({ store, runs, thumbnails, closing }: Serving): FastifyPluginAsyncZod =>
  async (app) => {
    // Called and not registered: by the name that its types know, it would be for routes of its own scope only.
    await fastifySSE(app, { heartbeatInterval: heartbeatMs });

    app.get(
      '/runs',
      {
        schema: {
          operationId: 'listRuns',
          tags: ['runs'],
          summary: 'every run of the output, the newest first, and how far it is',
          response: answers(runsSchema),
        },
      },
      () => runs.read(),
    );

    app.get(
      '/runs/events',
      {
        // Without a word about `Accept`: its refusal would be no problem document.
        sse: 'manual',
        // It would never end.
        exposeHeadRoute: false,
        schema: {
          operationId: 'followRuns',
          tags: ['runs'],
          summary: 'that as server-sent events: `runs` at once, and whenever something has changed',
          response: {
            200: {
              description: 'events, each with `event: runs` and, as its data, what GET /api/runs answers',
              content: { 'text/event-stream': { schema: z.string() } },
            },
            ...failures,
          },
        },
      },
      async (_request, reply) => {
        const gone = new AbortController();
        reply.sse.onClose(() => gone.abort());
        for await (const facts of runs.changes(AbortSignal.any([gone.signal, closing]))) {
          if (!reply.sse.isConnected) break;
          await reply.sse.send({ event: 'runs', data: facts });
        }
      },
    );

    const byRun = z.object({ run: z.string().refine(isAnyRunId, 'expected the id of a run') });

    app.get(
      '/runs/:run/failures',
      {
        schema: {
          operationId: 'listFailures',
          tags: ['runs'],
          summary: 'the images of a finished run that have failed and that no retry has mended, by id',
          params: byRun,
          querystring: z.strictObject({
            ...pageQuery,
            code: z
              .string()
              .max(40)
              .optional()
              .describe("only those that failed with it, such as 'truncated'"),
          }),
          response: answers(failedImages),
        },
      },
      async ({ params, query }) => readFailedImages(store, await openView(store, params.run), query),
    );

    app.get(
      '/runs/:run/thumbnail',
      {
        schema: {
          operationId: 'getRunThumbnail',
          tags: ['runs'],
          summary:
            'a small WebP of any image of a run, also of one that has failed, where it can be read now',
          params: byRun,
          querystring: z.strictObject({ ...sizeQuery, id: z.string().min(1).max(4096) }),
          response: thumbnailAnswers,
        },
      },
      ({ params: { run }, query: { id, size }, headers }, reply) =>
        sendThumbnail(reply, headers, { isFixed: false, make: () => thumbnails.get({ run, id }, size) }),
    );
  };
