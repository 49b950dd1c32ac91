/** A shard's whole way: plan → fetch → decode → batch → infer → write → commit. */
import type { Batcher, EmbeddedShard } from './batch.ts';
import type { CommitResult } from './commit.ts';
import { ConfigError, OutOfReach, RunBlocked } from './errors.ts';
import { partKey } from './layout.ts';
import type { Lease } from './lease.ts';
import { openPlanLines } from './page.ts';
import { countErrors, readPartFooter } from './parts/footer.ts';
import type { encodePart } from './parts/part.ts';
import { type CommittedPart, findPart } from './runs/committed.ts';
import { type Run, sourceName } from './runs/run.ts';
import type { EndedRows, FailedOutcome, Sheet } from './sheet.ts';
import { atStep } from './steps.ts';
import type { Store } from './stores/store.ts';
import type { Provenance } from './types.ts';
import { isWebUri } from './uri.ts';

/**
 * Above this many rows, and half of the shard, unreadable items are the source's fault and not the items'. On the web each
 * item has a host of its own, and lists are full of dead ones: there, all of the shard.
 */
const systemicRows = 10;

export interface ShardReport {
  items: number;
  /** Of those, the ones that were read here: none where the part stood already. */
  images: number;
  failed: number;
  gone: number;
  reused: number;
  /** Failed rows by their error, where they were made here. */
  failures: Record<string, number>;
  /** Of images, as they were fetched. */
  bytesRead: number;
  /** Of the part, where it is ours that stands. */
  bytesWritten: number;
  commit: CommitResult | 'present';
  fetchMs: number;
  decodeMs: number;
  inferMs: number;
  writeMs: number;
}

export interface PipelineParts {
  store: Store;
  batcher: Batcher;
  /** The step "write". What it makes stays where it was made, such as a thread of its own, until it is committed or dropped. */
  encode(rows: EndedRows, ...made: Made): Promise<EncodedPart>;
  /** As it is when a part is encoded: a device that ran out of memory has a smaller batch since. */
  provenance: () => Pick<Provenance, 'lensmill' | 'device' | 'batch' | 'decoder'>;
  /** A shard's part stands; `places` says where its bytes are in the table of bytes met. */
  onPart?: (run: string, key: string, places: Int32Array) => void;
}

/** How rows were made, and what a part of them looks like. */
export type Made = Parameters<typeof encodePart> extends [unknown, ...infer Rest] ? Rest : never;

export interface EncodedPart {
  bytes: number;
  /** As `commitPart`. */
  commit(): Promise<CommitResult>;
  drop(): void;
}

export interface Pipeline {
  /**
   * Resolves when the shard's part stands in the store, whoever made it. A `suspect` shard's images are decoded where a
   * crash costs one row. Throws RunBlocked, OutOfReach, or the reason of a lease that ended; else the shard may be tried again.
   */
  processShard(run: Run, shard: number, options: { lease: Lease; suspect: boolean }): Promise<ShardReport>;
}

export function openPipeline({ store, batcher, encode, provenance, onPart }: PipelineParts): Pipeline {
  const readLines = openPlanLines(store);

  return {
    async processShard(run, shard, { lease, suspect }) {
      const standing = await ofStore(findPart(store, run.run, shard));
      if (standing) return ofStore(reportStanding(store, standing));

      const lines = await ofStore(readLines(run, shard));
      const rows = await batcher.embed(run.run, lines, { signal: lease.signal, suspect });
      const { sheet, failures } = rows;
      // A retry is made of what failed: that much of it fails again says nothing of the source.
      if (run.retryOf === null) throwIfSystemic([...failures.values()], sheet);
      atStep('shard embedded', run.run, shard);

      const started = performance.now();
      const made = provenanceOf(run, shard, rows);
      const part = await encode({ sheet: sheet.memory, failures }, made, {
        dimension: run.model.dimension,
        topK: run.topK,
        embeddingType: run.embedding,
      });
      const places = sheet.places.slice();
      rows.free();
      atStep('part encoded', run.run, shard);
      // The last moment to notice that the shard is another worker's by now. Who is stopped between here and the request
      // is late, and a late request creates nothing: the other worker's part has the key.
      try {
        lease.check();
      } catch (error) {
        part.drop();
        throw error;
      }
      atStep('lease checked', run.run, shard);
      const commit = await ofStore(part.commit());
      atStep('part created', run.run, shard);
      if (store.conditional) onPart?.(run.run, partKey(run.run, shard), places);
      const { fetchMs, decodeMs, inferMs, reused, gone, bytesRead } = rows;
      const writeMs = performance.now() - started;
      return {
        items: sheet.rows,
        images: sheet.rows - gone,
        failed: failures.size,
        gone,
        reused,
        failures: countErrors(failures.values().map(({ error }) => error)),
        bytesRead,
        bytesWritten: commit === 'theirs' ? 0 : part.bytes,
        commit,
        fetchMs,
        decodeMs,
        inferMs,
        writeMs,
      };
    },
  };

  function provenanceOf(run: Run, shard: number, { reused, devices }: EmbeddedShard): Provenance {
    const made = provenance();
    const device = [...devices.add(made.device)].sort().join('+');
    return {
      ...made,
      device,
      reused,
      run: run.run,
      shard,
      source: sourceName(run),
      model: run.model,
      topK: run.topK,
      head: run.head,
      features: run.features,
    };
  }
}

/** What a store throws concerns every shard alike: it does not answer, or its operator must mend something. */
export async function ofStore<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const Kind = error.code === 'store-unreachable' ? OutOfReach : RunBlocked;
    throw new Kind(error.message, { cause: error });
  }
}

/** A wrong key or a lost server must not burn an archive into failed rows. */
function throwIfSystemic(failed: readonly FailedOutcome[], sheet: Sheet): void {
  const unreadable = failed.filter(({ error }) =>
    ['access-denied', 'read-failed', 'timeout'].includes(error),
  );
  const [first] = unreadable;
  const { rows } = sheet;
  if (!first || unreadable.length < Math.max(systemicRows, rows / 2)) return;
  if (unreadable.length < rows && sheet.items(0, rows).some(({ uri }) => isWebUri(uri))) return;
  const message = `${unreadable.length} of ${rows} images cannot be read (${first.error}: ${first.message})`;
  throw first.error === 'access-denied' ? new RunBlocked(message) : new Error(message);
}

async function reportStanding(store: Store, { key, size }: CommittedPart): Promise<ShardReport> {
  const { rows, failed, gone } = await readPartFooter(store, key, size);
  return {
    items: rows,
    images: 0,
    failed,
    gone,
    reused: 0,
    failures: {},
    bytesRead: 0,
    bytesWritten: 0,
    commit: 'present',
    fetchMs: 0,
    decodeMs: 0,
    inferMs: 0,
    writeMs: 0,
  };
}
