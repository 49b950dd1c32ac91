/** Runs: how far they are, as it changes, and which images failed. */
import { fastifySSE } from '@fastify/sse';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { runs as runsSchema } from './api.ts';
import { answers, type Serving } from './serving.ts';

/** What stands between us and a browser may end a connection that is silent for a minute. */
const heartbeatMs = 15_000;

export const runRoutes =
  ({ runs, closing }: Serving): FastifyPluginAsyncZod =>
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
        schema: {
          operationId: 'followRuns',
          tags: ['runs'],
          summary: 'that as server-sent events: `runs` at once, and whenever something has changed',
          response: answers(runsSchema),
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
  };
