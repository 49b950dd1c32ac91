/** A lane: the thread that turns items into pixels. Fetches and decodes `reads` items at once, straight into a slot. */
import { workerData } from 'node:worker_threads';
import pLimit from 'p-limit';
import type { FilledSlot, SlotEntry } from '../src/batch.ts';
import { decodeImage } from '../src/decode.ts';
import { fetchItem } from '../src/fetch.ts';
import type { Run } from '../src/run.ts';
import type { S3Options } from '../src/s3.ts';
import { openSource } from '../src/sources/open-source.ts';
import type { Source } from '../src/sources/source.ts';
import type { Outcome } from '../src/types.ts';
import { serveThread } from './thread.ts';

export interface LaneOptions {
  /** The pixels of one batch each. */
  slots: readonly SharedArrayBuffer[];
  reads: number;
  readTimeoutMs: number;
  s3: S3Options;
}

/** A run is announced before its first items. */
export type LaneRequest =
  | { kind: 'run'; run: Run }
  | { kind: 'fill'; slot: number; entries: readonly SlotEntry[] };
export type LaneReply = FilledSlot | undefined;

// Only workers/engine.ts starts this thread.
const { slots, reads, readTimeoutMs, s3 } = workerData as LaneOptions;
const limit = pLimit(reads);
const runs = new Map<string, { run: Run; source: Source }>();

serveThread<LaneRequest, LaneReply>(
  async (request) => {
    if (request.kind === 'fill') return fillSlot(request.slot, request.entries);
    const { run } = request;
    runs.set(run.run, { run, source: openSource(run.source.uri, run.source, s3) });
    return undefined;
  },
  async () => {
    await Promise.all([...runs.values()].map(({ source }) => source.close()));
  },
);

async function fillSlot(slot: number, entries: readonly SlotEntry[]): Promise<FilledSlot> {
  const pixels = slots[slot];
  if (!pixels) throw new Error(`there is no slot ${slot}: this is a bug`);
  const times = { fetchMs: 0, decodeMs: 0 };

  const outcomes = await Promise.all(entries.map((entry, row) => limit(() => fillRow(entry, row))));
  return { outcomes, ...times };

  async function fillRow({ run: id, item }: SlotEntry, row: number): Promise<Outcome> {
    const opened = runs.get(id);
    if (!opened) throw new Error(`run ${id} was not announced to its lane: this is a bug`);
    const { run, source } = opened;

    const started = performance.now();
    const fetched = await fetchItem(source, item, { maxBytes: run.maxBytes, timeoutMs: readTimeoutMs });
    const read = performance.now();
    times.fetchMs += read - started;
    if ('error' in fetched) return { status: 'failed', ...fetched };

    const { content, ...facts } = fetched;
    const imageBytes = run.model.preprocessing.crop ** 2 * 3;
    const decoded = await decodeImage(
      content,
      new Uint8Array(pixels as SharedArrayBuffer, row * imageBytes, imageBytes),
      {
        preprocessing: run.model.preprocessing,
        resizeMode: run.model.resizeMode,
        maxPixels: run.maxPixels,
      },
    );
    times.decodeMs += performance.now() - read;
    return 'error' in decoded
      ? { status: 'failed', ...facts, ...decoded }
      : { status: 'ok', ...facts, ...decoded };
  }
}
