/** The page: files that the build has made. Whoever has no token may read them; they are empty without the API. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fastifyStatic from '@fastify/static';
import type { FastifyPluginAsync } from 'fastify';

/** Beside this file, from source and when built. */
const pageFolder = fileURLToPath(new URL('./public/', import.meta.url));

const notBuilt = `The API of lensmill is here, at /api (described in /api/openapi.json); its page is not built.
Build it with: npm run build:page
`;

export const pageRoutes =
  (folder = pageFolder): FastifyPluginAsync =>
  async (app) => {
    if (!existsSync(`${folder}/index.html`)) {
      app.get('/', { schema: { hide: true } }, async (_request, reply) =>
        reply.type('text/plain').send(notBuilt),
      );
      return;
    }
    await app.register(fastifyStatic, {
      root: folder,
      cacheControl: false,
      schemaHide: true,
      setHeaders(reply, path) {
        // Their names change with their content.
        const isHashed = path.includes('/assets/');
        reply.header('cache-control', isHashed ? 'public, max-age=31536000, immutable' : 'no-cache');
      },
    });
  };
