/** What the routes share: opened by server.ts, which also closes it. */
import type { z } from 'zod';
import type { SharedEmbedder } from '../../workers/shared-embedder.ts';
import type { Store } from '../stores/store.ts';
import type { Logger } from '../telemetry/log.ts';
import { problem } from './api.ts';
import type { CurrentIndex } from './current-index.ts';
import type { MapMaker } from './map-maker.ts';
import type { RunWatch } from './run-watch.ts';
import type { ThumbnailCache } from './thumbnails.ts';

export interface Serving {
  store: Store;
  index: CurrentIndex;
  embedder: SharedEmbedder;
  maxUploadBytes: number;
  thumbnails: ThumbnailCache;
  maps: MapMaker;
  runs: RunWatch;
  log: Logger;
  /** Aborts when the server begins to close: what would go on for ever ends then. */
  closing: AbortSignal;
}

/** The answers of a route: what is checked before it leaves, and what the OpenAPI document says. */
export const answers = <Success extends z.ZodType>(success: Success) => ({
  200: { description: 'done', content: asJson(success) },
  ...failures,
});

export const failures = {
  '4xx': { description: 'the request is not done, for a reason of its own', content: asJson(problem) },
  '5xx': { description: 'the request is not done, for a reason here', content: asJson(problem) },
};

function asJson<T extends z.ZodType>(schema: T): { 'application/json': { schema: T } } {
  return { 'application/json': { schema } };
}
