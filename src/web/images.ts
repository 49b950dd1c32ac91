/** The index as it is: its facts, its images one by one and by page, their labels, and what they look like. */
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import { unindexedRuns } from '../search/record.ts';
import type { IndexedImage, SearchIndex } from '../search/search-index.ts';
import { version } from '../version.ts';
import { image, imagePage, indexFacts, key, labelCounts, searchResult } from './api.ts';
import { filterOf, filterQuery, neighboursQuery, pageQuery, present, sizeQuery } from './queries.ts';
import { hitReply, imageReply, nameOf, namesOf } from './replies.ts';
import { answers, type Serving } from './serving.ts';
import { sendThumbnail, thumbnailAnswers } from './thumbnails.ts';

/** Which runs an index lacks takes two reads a run. */
const unindexedMs = 10_000;

export const imageRoutes =
  ({ store, index, thumbnails }: Serving): FastifyPluginAsyncZod =>
  async (app) => {
    let unindexed: { generation: number; at: number; runs: Promise<string[]> } | undefined;
    const unindexedOf = ({ record }: SearchIndex): Promise<string[]> => {
      const { generation } = record;
      if (unindexed?.generation !== generation || performance.now() - unindexed.at > unindexedMs) {
        unindexed = { generation, at: performance.now(), runs: unindexedRuns(store, record) };
        unindexed.runs.catch(() => {
          unindexed = undefined;
        });
      }
      return unindexed.runs;
    };

    app.get(
      '/index',
      {
        schema: {
          operationId: 'getIndex',
          tags: ['images'],
          summary: 'what the index holds, and whose numbers',
          response: answers(indexFacts),
        },
      },
      () =>
        index.use(async (opened) => {
          const { images, kind, builtAt, runs, model } = opened.record;
          const { ref, architecture, untrained, precision, fingerprint, dimension } = model;
          return {
            output: store.uri,
            images,
            kind,
            builtAt,
            runs,
            unindexed: await unindexedOf(opened),
            model: { ref, architecture, untrained, precision, fingerprint, dimension },
            lensmill: version,
          };
        }),
    );

    app.get(
      '/labels',
      {
        schema: {
          operationId: 'countLabels',
          tags: ['images'],
          summary: 'how many images have each label as their first, the most first',
          querystring: filterQuery,
          response: answers(labelCounts),
        },
      },
      ({ query }) =>
        index.use(async (opened) => {
          const names = namesOf(opened.record);
          const counts = await opened.countLabels(filterOf(query));
          return counts.map(({ label, count }) => ({ label, name: nameOf(label, names), count }));
        }),
    );

    app.get(
      '/images',
      {
        schema: {
          operationId: 'listImages',
          tags: ['images'],
          summary: 'images page by page, in an order that is random and stays',
          querystring: filterQuery.extend(pageQuery),
          response: answers(imagePage),
        },
      },
      ({ query }) =>
        index.use(async (opened) => {
          const { after, limit } = query;
          const names = namesOf(opened.record);
          const images = await opened.list({ filter: filterOf(query), limit, ...present({ after }) });
          const last = images.length === limit ? images.at(-1)?.key : undefined;
          return { images: images.map((found) => imageReply(found, names)), next: last ?? null };
        }),
    );

    const byKey = z.object({ key });

    app.get(
      '/images/:key',
      {
        schema: {
          operationId: 'getImage',
          tags: ['images'],
          summary: 'an image by its key',
          params: byKey,
          response: answers(image),
        },
      },
      ({ params }) =>
        index.use(async (opened) =>
          imageReply(await requireImage(opened, params.key), namesOf(opened.record)),
        ),
    );

    app.get(
      '/images/:key/neighbours',
      {
        schema: {
          operationId: 'listNeighbours',
          tags: ['search'],
          summary: 'what looks like an image, itself left out',
          params: byKey,
          querystring: neighboursQuery,
          response: answers(searchResult),
        },
      },
      ({ params, query, signal }) =>
        index.use(async (opened) => {
          const started = performance.now();
          const { k, minScore } = query;
          const vectors = await opened.vectorsOf([params.key]);
          const hits = await opened.search({
            vectors,
            k,
            without: [params.key],
            filter: filterOf(query),
            signal,
            ...present({ minScore }),
          });
          const names = namesOf(opened.record);
          const searchMs = performance.now() - started;
          return {
            hits: hits.map((hit) => hitReply(hit, names)),
            pictures: [],
            refused: [],
            took: { embedMs: 0, searchMs },
          };
        }),
    );

    app.get(
      '/images/:key/thumbnail',
      {
        schema: {
          operationId: 'getThumbnail',
          tags: ['images'],
          summary: 'a small WebP of an image, made from its source',
          params: byKey,
          querystring: z.strictObject({
            ...sizeQuery,
            v: z
              .string()
              .max(64)
              .optional()
              .describe(
                'any name of its content, such as its sha256: what is asked for by it may be kept for good',
              ),
          }),
          response: thumbnailAnswers,
        },
      },
      async ({ params, query: { size, v }, headers }, reply) => {
        const { run, id, sha256 } = await index.use((opened) => requireImage(opened, params.key));
        return sendThumbnail(reply, headers, {
          version: `${sha256.slice(0, 32)}-${size}`,
          isFixed: v !== undefined,
          make: () => thumbnails.get({ run, id }, size),
        });
      },
    );
  };

/** Throws ConfigError 'no-image'. */
async function requireImage(index: SearchIndex, wanted: string): Promise<IndexedImage> {
  const found = await index.get(wanted);
  if (found) return found;
  throw new ConfigError('no-image', `the index has no image '${wanted}'`);
}
