/** Finished runs of real pictures by a real model, without queue and workers. */

import type { Context } from '../../src/cli/command.ts';
import { commitPart } from '../../src/commit.ts';
import { cpu } from '../../src/devices/cpu.ts';
import { finalizeRun } from '../../src/finalize.ts';
import { openPlanLines } from '../../src/page.ts';
import { encodePart } from '../../src/parts/part.ts';
import { planNewRun } from '../../src/producer/plan-run.ts';
import { type Run, sourceName } from '../../src/runs/run.ts';
import { readSheet } from '../../src/sheet.ts';
import type { Store } from '../../src/stores/store.ts';
import { openEngine } from '../../workers/engine.ts';

/** A run as a worker makes it; `context` as a command gets it (helpers/context.ts). */
export async function indexHere(
  context: Context,
  store: Store,
  { id, sources }: { id: string; sources: readonly string[] },
): Promise<Run> {
  const { settings, interrupted: signal } = context;
  const run = await planNewRun(context, store, sources, { run: id });
  const readLines = openPlanLines(store);
  const engine = await openEngine(store, run, { device: cpu, settings, cautiousMs: 0, onNotice: () => {} });
  try {
    await engine.announceRun({ ...run, reuse: false });
    for (let shard = 0; shard < run.shards; shard++) {
      const rows = await engine.batcher.embed(id, await readLines(run, shard), { signal, suspect: false });
      const { lensmill, model, topK, embedding, head, features } = run;
      const extras = { head, features };
      const kind = { lensmill, source: sourceName(run), model, topK, ...extras };
      const made = { ...kind, device: 'cpu', batch: 8, reused: 0 };
      const shape = { dimension: model.dimension, topK, embeddingType: embedding };
      await commitPart(
        store,
        id,
        shard,
        encodePart(
          readSheet({ sheet: rows.sheet.memory, failures: rows.failures }),
          { run: id, shard, ...made },
          shape,
        ),
      );
      rows.free();
    }
    await finalizeRun(store, run);
    return run;
  } finally {
    await engine.close();
  }
}
