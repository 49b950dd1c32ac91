/** A shard's whole way: plan → fetch → decode → batch → infer → write → commit. */
import type { Batcher } from './batch.ts';
import { type CommitResult, commitPart } from './commit.ts';
import { type CommittedPart, findPart } from './committed.ts';
import { openPlan } from './page.ts';
import { encodePart, readPartFooter } from './part.ts';
import type { Run } from './run.ts';
import type { Store } from './stores/store.ts';
import type { Outcome, Provenance } from './types.ts';

/** Above this many rows, and half of the shard, unreadable items are the source's fault and not the items'. */
const systemicRows = 10;

export interface ShardReport {
  items: number;
  failed: number;
  commit: CommitResult | 'present';
  fetchMs: number;
  decodeMs: number;
  inferMs: number;
  writeMs: number;
}

export interface PipelineParts {
  store: Store;
  batcher: Batcher;
  provenance: Pick<Provenance, 'lensmill' | 'device' | 'batch'>;
}

export interface Pipeline {
  /** Resolves when the shard's part stands in the store, whoever made it. */
  processShard(run: Run, shard: number, signal: AbortSignal): Promise<ShardReport>;
}

export function openPipeline({ store, batcher, provenance }: PipelineParts): Pipeline {
  const readItems = openPlan(store);

  return {
    async processShard(run, shard, signal) {
      const standing = await findPart(store, run.run, shard);
      if (standing) return reportStanding(store, standing);

      const items = await readItems(run, shard);
      const rows = await batcher.embed(run.run, items, signal);
      const failed = rows.outcomes.filter((outcome) => outcome.status === 'failed');
      throwIfSystemic(failed, items.length);

      const started = performance.now();
      const part = encodePart(
        rows,
        { ...provenance, run: run.run, shard, source: run.source.uri, model: run.model, topK: run.topK },
        { dimension: run.model.dimension, topK: run.topK, embeddingType: run.embedding },
      );
      // The last moment to notice that the shard is another worker's by now.
      signal.throwIfAborted();
      const commit = await commitPart(store, run.run, shard, part);
      const { fetchMs, decodeMs, inferMs } = rows;
      const writeMs = performance.now() - started;
      return { items: items.length, failed: failed.length, commit, fetchMs, decodeMs, inferMs, writeMs };
    },
  };
}

/** A wrong key or a lost bucket must not burn an archive into failed rows. */
function throwIfSystemic(failed: readonly Outcome[], items: number): void {
  const unreadable = failed.filter(
    (outcome) =>
      outcome.status === 'failed' && ['access-denied', 'read-failed', 'timeout'].includes(outcome.error),
  );
  const [first] = unreadable;
  if (unreadable.length < systemicRows || unreadable.length * 2 < items || first?.status !== 'failed') return;
  throw new Error(
    `${unreadable.length} of ${items} images cannot be read (${first.error}: ${first.message})`,
  );
}

async function reportStanding(store: Store, { key, size }: CommittedPart): Promise<ShardReport> {
  const { rows, failed } = await readPartFooter(store, key, size);
  return { items: rows, failed, commit: 'present', fetchMs: 0, decodeMs: 0, inferMs: 0, writeMs: 0 };
}
