/** Images that look alike, in groups. */
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { type Duplicates, findDuplicates } from '../search/duplicates.ts';
import { usualThreshold } from '../search/search-index.ts';
import { duplicateGroups } from './api.ts';
import { filterOf, filterQuery } from './queries.ts';
import { hitReply, namesOf } from './replies.ts';
import { answers, type Serving } from './serving.ts';
import { openSharedWork } from './shared-work.ts';

/** Groups that are found at most; the largest. */
const mostGroups = 1000;
/** Images of one group that are told: an archive may hold one picture ten thousand times. */
const mostImages = 200;
/** Answers that are remembered, of up to a few MB. */
const kept = 8;

export const duplicateRoutes =
  ({ index, closing }: Serving): FastifyPluginAsyncZod =>
  async (app) => {
    const work = openSharedWork<Duplicates>(kept);

    app.get(
      '/duplicates',
      {
        schema: {
          operationId: 'findDuplicates',
          tags: ['search'],
          summary:
            'groups of images that look alike, the largest first; minutes where there are millions of images',
          querystring: filterQuery.extend({
            threshold: z.coerce
              .number()
              .min(0.5)
              .max(1)
              .default(usualThreshold)
              .describe('cosine to its keeper that an image of a group has at least'),
            limit: z.coerce.number().pipe(z.int().min(1).max(mostGroups)).default(100).describe('groups'),
          }),
          response: answers(duplicateGroups),
        },
      },
      ({ query, signal }) =>
        index.use(async (opened) => {
          const { threshold, limit, ...asked } = query;
          const filter = filterOf(asked);
          const key = JSON.stringify([opened.record.generation, threshold, filter]);
          const { images, found, surplus, groups } = await work.get(
            key,
            AbortSignal.any([signal, closing]),
            (given) => findDuplicates(opened, { threshold, filter, limit: mostGroups, signal: given }),
          );
          const names = namesOf(opened.record);
          return {
            threshold,
            images,
            found,
            surplus,
            groups: groups.slice(0, limit).map((group) => ({
              keeper: group.images[0]?.key ?? '',
              size: group.images.length,
              images: group.images
                .slice(0, mostImages)
                .map((image) => ({ ...hitReply(image, names), isCopy: image.isCopy })),
            })),
          };
        }),
    );
  };
