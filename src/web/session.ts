/** A browser's way in: the token, once, for a cookie that it then sends with images and events too. */
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { Access } from './access.ts';
import { failures } from './serving.ts';

export const sessionRoutes =
  (access: Access): FastifyPluginAsyncZod =>
  async (app) => {
    app.post(
      '/session',
      {
        schema: {
          operationId: 'openSession',
          tags: ['session'],
          summary: 'the cookie for a browser that has the token',
          response: { 204: z.undefined().describe('the cookie is set'), ...failures },
        },
      },
      async (request, reply) =>
        reply.status(204).header('set-cookie', access.cookieFor(request)).send(undefined),
    );
  };
