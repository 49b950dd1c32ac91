/** `lensmill verify --deep N`: some images are done again on this machine and held against their rows. */

import { openEngine } from '../../workers/engine.ts';
import { compareRow, type Tolerance, toleranceOf } from '../checks/compare.ts';
import { chooseRows, readRows, type SampledRow } from '../checks/sample.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { encodeItems } from '../page.ts';
import { rowShape } from '../parts/row-extras.ts';
import { openView } from '../runs/view.ts';
import { readSheet } from '../sheet.ts';
import type { Store } from '../stores/store.ts';
import type { Context } from './command.ts';
import { reportProgress } from './progress.ts';

export interface DeepVerification {
  sampled: number;
  seed: number;
  device: string;
  /** Rows that their images give again. */
  same: number;
  /** Rows that their images do not give. */
  different: { id: string; why: string }[];
  /** Images that cannot be had as they were, so their rows are neither proven nor disproven. */
  unknown: { id: string; why: string }[];
  /** Of the rows that are the same, the farthest embedding. */
  distance: number;
  /** The widest that was needed. */
  tolerance: Tolerance;
}

/** Images under way at once. */
const chunk = 64;

/**
 * Does `count` images of a run again, chosen evenly from its view. Throws ConfigError of the device, the model and the source,
 * and RunBlocked where the source refuses.
 */
export async function verifyDeep(
  context: Context,
  store: Store,
  id: string,
  { count, seed }: { count: number; seed: number },
): Promise<DeepVerification> {
  const { settings, log, interrupted } = context;
  const { device, reason } = resolveDevice(settings.device);
  if (reason) log.info({ device: device.name, reason }, 'device chosen');
  const view = await openView(store, id);
  const { run } = view;
  const numbers = chooseRows(run.items, count, seed);
  const found: DeepVerification = {
    sampled: numbers.length,
    seed,
    device: device.name,
    same: 0,
    different: [],
    unknown: [],
    distance: 0,
    tolerance: toleranceOf(run, [device.kind]),
  };

  const progress = reportProgress('images', context);
  const onNotice = (notice: string): void => log.warn(notice);
  const engine = await openEngine(store, run, { device, settings, cautiousMs: 0, onNotice });
  try {
    // What is to be proven is not taken from where it stands.
    await engine.announceRun({ ...run, reuse: false });
    let rows: SampledRow[] = [];
    for await (const row of readRows(store, view, numbers)) {
      rows.push(row);
      if (rows.length < chunk) continue;
      await redo(rows);
      rows = [];
    }
    if (rows.length > 0) await redo(rows);
    return found;
  } finally {
    progress.close();
    await engine.close();
  }

  async function redo(rows: readonly SampledRow[]): Promise<void> {
    const lines = encodeItems(rows.map(({ item }) => item));
    // An image that ends the process that decodes it shall not end this one.
    const embedding = engine.batcher.embed(run.run, lines, { signal: interrupted, suspect: true });
    const embedded = await Promise.race([embedding, engine.lost]);
    const again = readSheet({ sheet: embedded.sheet.memory, failures: embedded.failures });
    for (const [at, row] of rows.entries()) {
      const outcome = again.outcomes[at];
      if (!outcome) throw new Error(`${row.item.id} has no outcome: this is a bug`);
      const { topK, dimension } = rowShape(run);
      const redone = {
        outcome,
        labels: again.labels.subarray(at * topK, (at + 1) * topK),
        scores: again.scores.subarray(at * topK, (at + 1) * topK),
        embedding: again.embeddings.subarray(at * dimension, (at + 1) * dimension),
      };
      const tolerance = toleranceOf(run, [device.kind, row.device]);
      if (tolerance.distance > found.tolerance.distance) found.tolerance = tolerance;
      const result = compareRow(row, redone, tolerance, run);
      if (result.verdict === 'same') {
        found.same += 1;
        found.distance = Math.max(found.distance, result.distance);
      } else {
        const list = result.verdict === 'differs' ? found.different : found.unknown;
        list.push({ id: row.item.id, why: result.why });
      }
    }
    const done = found.same + found.different.length + found.unknown.length;
    progress.update({ done, total: found.sampled });
  }
}
