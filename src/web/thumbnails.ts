/** Thumbnails that were made lately, in memory: each is made once, however many ask for it at the same time. And how they are sent. */
import { hash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyReply } from 'fastify';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import type { Thumbnails } from '../../workers/thumbnails.ts';
import type { Failure } from '../errors.ts';
import type { Thumbnail } from '../thumbnail.ts';
import { sourceRefusal } from './problems.ts';
import { failures } from './serving.ts';

export interface ThumbnailCache {
  /** Throws Refusal with the failure's code where there is none, and what `Thumbnails.make` throws. */
  get(image: { run: string; id: string }, size: number): Promise<Thumbnail>;
}

/** 10 kB each at 256 pixels: of some thousands. */
const maxBytes = 64e6;
/** A picture that could not be made is not tried again at once: that may take all the attempts of a read. */
const failureMs = 60_000;

export function openThumbnailCache(thumbnails: Pick<Thumbnails, 'make'>): ThumbnailCache {
  const cache = new LRUCache<string, Thumbnail | Failure, { run: string; id: string; size: number }>({
    maxSize: maxBytes,
    sizeCalculation: (made) => ('error' in made ? 200 : made.content.length),
    ignoreFetchAbort: true,
    async fetchMethod(_key, _stale, { context: { size, ...image }, options }) {
      const made = await thumbnails.make(image, size);
      if ('error' in made) options.ttl = failureMs;
      return made;
    },
  });
  return {
    async get(image, size) {
      const key = JSON.stringify([image.run, image.id, size]);
      const made = await cache.fetch(key, { context: { ...image, size } });
      if (!made) throw new Error(`no thumbnail of ${key}: this is a bug`);
      if ('error' in made) throw sourceRefusal(made);
      return made;
    },
  };
}

export const thumbnailAnswers = {
  200: {
    description: 'the picture',
    content: { 'image/webp': { schema: z.any().meta({ type: 'string', format: 'binary' }) } },
  },
  304: z.undefined().describe('as it was'),
  ...failures,
};

export interface ThumbnailReply {
  /** Changes when the picture does; of what is not known before it is made, undefined. */
  version?: string;
  /** The address says which version it is of. */
  isFixed: boolean;
  make(): Promise<Thumbnail>;
}

export async function sendThumbnail(
  reply: FastifyReply,
  headers: IncomingHttpHeaders,
  { version, isFixed, make }: ThumbnailReply,
): Promise<FastifyReply> {
  const made = version === undefined ? await make() : undefined;
  const etag = `"${version ?? hash('sha256', made?.content ?? '').slice(0, 32)}"`;
  reply.header('etag', etag);
  reply.header('cache-control', isFixed ? 'private, max-age=31536000, immutable' : 'private, no-cache');
  if (headers['if-none-match'] === etag) return reply.code(304).send();
  const { content } = made ?? (await make());
  return reply.type('image/webp').send(Buffer.from(content.buffer, content.byteOffset, content.byteLength));
}
