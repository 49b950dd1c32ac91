/** Search: by images of the index, by pictures that are sent, or by both. */
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { EmbeddedPicture } from '../../workers/embedder.ts';
import type { Failure } from '../errors.ts';
import type { SearchIndex } from '../search/search-index.ts';
import { type SearchAsked, type SearchResult, searchQuery, searchResult } from './api.ts';
import { Refusal, uploadStatus } from './problems.ts';
import { present } from './queries.ts';
import { hitReply, namedLabels, namesOf } from './replies.ts';
import { answers, type Serving } from './serving.ts';
import { mostPictures, type NamedPicture, openUploadReader } from './upload.ts';

/** Each may need the model. */
const searchesPerMinute = 240;

/** For the document: bytes are not to be held against a schema. */
const searchForm = z.any().meta({
  type: 'object',
  properties: {
    picture: {
      type: 'array',
      maxItems: mostPictures,
      items: { type: 'string', contentMediaType: 'image/*' },
      description: 'JPEG, PNG, WebP, GIF, TIFF or AVIF files',
    },
    query: { type: 'string', contentMediaType: 'application/json', description: 'as the body in JSON' },
  },
});

export const searchRoutes =
  ({ index, embedder, maxUploadBytes }: Serving): FastifyPluginAsyncZod =>
  async (app) => {
    const uploads = openUploadReader(maxUploadBytes);

    app.post(
      '/search',
      {
        config: { rateLimit: { max: searchesPerMinute, timeWindow: '1 minute' } },
        schema: {
          operationId: 'search',
          tags: ['search'],
          summary: 'images like those that are given: several are averaged',
          body: {
            content: {
              'application/json': { schema: searchQuery },
              // Read as it comes, by upload.ts.
              'multipart/form-data': { schema: searchForm },
            },
          },
          response: answers(searchResult),
        },
      },
      (request) =>
        // Where there is no index, no picture is read.
        index.use((opened) =>
          uploads.read(request, ({ query, pictures }) => {
            if (query.keys.length + pictures.length === 0)
              throw new Refusal(400, 'bad-request', 'nothing to search by: give keys, or pictures');
            return search(opened, query, pictures, request.signal);
          }),
        ),
    );

    async function search(
      opened: SearchIndex,
      { keys, k, minScore, filter }: SearchAsked,
      pictures: readonly NamedPicture[],
      signal: AbortSignal,
    ): Promise<SearchResult> {
      const known = await opened.vectorsOf(keys);
      const started = performance.now();
      const { embedded, refused } = await embed(opened, pictures, signal);
      const embeddedAt = performance.now();
      const hits = await opened.search({
        vectors: [...known, ...embedded.map(({ picture }) => picture.embedding)],
        k,
        without: keys,
        filter: present(filter),
        signal,
        ...present({ minScore }),
      });
      const names = namesOf(opened.record);
      return {
        hits: hits.map((hit) => hitReply(hit, names)),
        pictures: embedded.map(({ name, picture }) => ({ name, labels: namedLabels(picture, names) })),
        refused: refused.map(({ name, error, message }) => ({ name, code: error, message })),
        took: {
          embedMs: pictures.length === 0 ? 0 : embeddedAt - started,
          searchMs: performance.now() - embeddedAt,
        },
      };
    }

    /** A bad picture costs nobody else anything. Throws Refusal where all are bad. */
    async function embed(
      { record: { runs } }: SearchIndex,
      pictures: readonly NamedPicture[],
      signal: AbortSignal,
    ): Promise<Embedded> {
      const found: Embedded = { embedded: [], refused: [] };
      const [run] = runs;
      if (pictures.length === 0 || run === undefined) return found;
      const results = await embedder.embed(run, pictures, { signal });
      for (const [at, result] of results.entries()) {
        const name = pictures[at]?.name ?? '';
        if ('error' in result) found.refused.push({ name, ...result });
        else found.embedded.push({ name, picture: result });
      }
      const [first] = found.refused;
      if (first && found.embedded.length === 0) {
        const each = found.refused.map(({ name, message }) => `${name}: ${message}`).join('; ');
        throw new Refusal(uploadStatus(first.error), first.error, each);
      }
      return found;
    }
  };

interface Embedded {
  embedded: { name: string; picture: EmbeddedPicture }[];
  refused: ({ name: string } & Failure)[];
}
