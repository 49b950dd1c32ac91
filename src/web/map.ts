/** The map: a sample of the index as points of a plane. */
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { mapPoints } from './api.ts';
import { answers, type Serving } from './serving.ts';

export const mapRoutes =
  ({ maps }: Serving): FastifyPluginAsyncZod =>
  async (app) => {
    app.get(
      '/map',
      {
        schema: {
          operationId: 'getMap',
          tags: ['images'],
          summary:
            'images as points of a plane, what is alike near each other; to be asked again while it is computed',
          querystring: z.strictObject({
            images: z.coerce
              .number()
              .pipe(z.int().min(10).max(5000))
              .default(2000)
              .describe('how many, chosen at random, and the same ones each time'),
          }),
          response: answers(mapPoints),
        },
      },
      ({ query }) => maps.get(query.images),
    );
  };
