/** The thread that lays out a map of embeddings: it takes seconds, in which a server must answer. */
import { workerData } from 'node:worker_threads';
import { projectEmbeddings } from '../src/search/projection.ts';
import { serveThread } from './thread.ts';

export interface ProjectionOptions {
  /** [count × dimension] float32, which the thread only reads. */
  vectors: SharedArrayBuffer;
  count: number;
  dimension: number;
}

/** How far it is, from 0 to 1; in the end [count × 2] points. */
export type ProjectionReply = { progress: number } | { points: Float32Array };

const { vectors, count, dimension } = workerData as ProjectionOptions; // as src/web/map-maker.ts gives it
const steps = projectEmbeddings({ vectors: new Float32Array(vectors), count, dimension });

serveThread<'advance', ProjectionReply>(
  async () => {
    const next = steps.next();
    return next.done ? { points: next.value } : { progress: next.value };
  },
  async () => undefined,
);
