/**
 * The end of a run: when every shard has its part, `_SUCCESS.json` names the parts that count.
 * Trusts only the store; may run twice, or in two places at once, to the same end.
 */
import pMap from 'p-map';
import { successKey } from './layout.ts';
import { shardSizes } from './page.ts';
import { addFailures, type PartFooter, readPartFooter } from './parts/footer.ts';
import { type CommittedPart, listParts } from './runs/committed.ts';
import { encodeJson, findSuccess, type Run, readSuccess, type Success } from './runs/run.ts';
import { atStep } from './steps.ts';
import type { Store } from './stores/store.ts';

const concurrency = 16;

export interface PartFacts {
  footer: PartFooter;
  sha256: string;
}

/** What `finalizeRun` asks of each part. A store of files has to read all of it. */
export async function readPartFacts(store: Store, { key, size }: CommittedPart): Promise<PartFacts> {
  const [footer, facts] = await Promise.all([readPartFooter(store, key, size), store.head(key)]);
  if (!facts) throw new Error(`${key} disappeared`);
  return { footer, sha256: facts.sha256 };
}

/**
 * The run's success: the one that stands, be it another finalizer's, else one made here. Throws where a shard has no part
 * yet, or a part does not hold what the plan asks for. `readFacts`: `readPartFacts`, wherever that may take its time.
 */
export async function finalizeRun(
  store: Store,
  run: Run,
  readFacts = (part: CommittedPart): Promise<PartFacts> => readPartFacts(store, part),
): Promise<Success> {
  const done = await findSuccess(store, run.run);
  if (done) return done;

  const parts = await listParts(store, run.run);
  if (parts.size < run.shards) {
    throw new Error(
      `run ${run.run} is not complete: ${run.shards - parts.size} of ${run.shards} shards have no part`,
    );
  }
  const entries = await pMap(
    shardSizes(store, run),
    async (rows, shard): Promise<Success['parts'][number] & Pick<PartFooter, 'failures' | 'reused'>> => {
      const part = parts.get(shard);
      if (!part) throw new Error(`run ${run.run} is not complete: shard ${shard} has no part`);
      const { footer, sha256 } = await readFacts(part);
      const isOfRun = footer.run === run.run && footer.fingerprint === run.model.fingerprint;
      if (footer.rows !== rows || footer.shard !== shard || !isOfRun) {
        throw new Error(
          `${part.key} is not shard ${shard} of this run: ${footer.rows} rows of ${rows}, shard ${footer.shard}, run ${footer.run}, model ${footer.fingerprint}`,
        );
      }
      const { ok, failed, gone, reused, failures } = footer;
      return {
        key: part.key,
        shard,
        rows,
        ok,
        failed,
        gone,
        bytes: part.size,
        sha256,
        failures,
        reused,
      };
    },
    { concurrency },
  );

  const success: Success = {
    v: 1,
    run: run.run,
    fingerprint: run.model.fingerprint,
    items: 0,
    ok: 0,
    failed: 0,
    gone: 0,
    reused: 0,
    failures: {},
    parts: [],
  };
  for (const { failures, reused, ...part } of entries) {
    success.parts.push(part);
    success.items += part.rows;
    success.ok += part.ok;
    success.failed += part.failed;
    success.gone += part.gone;
    success.reused += reused;
    addFailures(success.failures, failures);
  }
  atStep('parts read', run.run);
  const isOurs = await store.create(successKey(run.run), encodeJson(success));
  atStep('success created', run.run);
  return isOurs ? success : readSuccess(store, run.run);
}
