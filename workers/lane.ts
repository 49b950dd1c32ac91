/**
 * A lane: the thread that turns items into pixels. Fetches and decodes `reads` items at once, straight into a slot. A
 * suspect item is decoded in a process of its own (sandbox.ts), one at a time.
 */
import { workerData } from 'node:worker_threads';
import pLimit from 'p-limit';
import type { FilledSlot, Refusal, Repeat, SlotEntry } from '../src/batch.ts';
import { type DecoderChoice, decodeImage } from '../src/decode.ts';
import { ConfigError } from '../src/errors.ts';
import { fetchItem } from '../src/fetch.ts';
import type { Run } from '../src/run.ts';
import { openSeenTable, type SeenTable } from '../src/seen.ts';
import { openSource } from '../src/sources/open-source.ts';
import type { Source, SourceOptions } from '../src/sources/source.ts';
import type { Outcome } from '../src/types.ts';
import { longestDecodeMs, openSandbox } from './sandbox.ts';
import { serveThread } from './thread.ts';

export interface LaneOptions {
  /** The pixels of one batch each. */
  slots: readonly SharedArrayBuffer[];
  reads: number;
  readTimeoutMs: number;
  decoder: DecoderChoice;
  sources: SourceOptions;
}

/** What a lane must know of a run. */
export type LaneRun = Pick<Run, 'run' | 'source' | 'model' | 'maxPixels' | 'maxBytes'>;

/** A run is announced before its first items. 'abandon' lets go of a fill that nobody waits for any more. */
export type LaneRequest =
  | { kind: 'run'; run: LaneRun; seen: SharedArrayBuffer | undefined }
  | { kind: 'fill'; slot: number; entries: readonly SlotEntry[] }
  | { kind: 'abandon'; slot: number };
export type LaneReply = FilledSlot | undefined;

// Only lanes.ts starts this thread.
const { slots, reads, readTimeoutMs, decoder, sources } = workerData as LaneOptions;
const limit = pLimit(reads);
const runs = new Map<string, { run: LaneRun; source: Source; seen: SeenTable | undefined }>();
const filling = new Map<number, AbortController>();
const sandbox = openSandbox(longestDecodeMs);

serveThread<LaneRequest, LaneReply>(
  async (request) => {
    if (request.kind === 'fill') return fillSlot(request.slot, request.entries);
    if (request.kind === 'run') openRun(request.run, request.seen);
    else filling.get(request.slot)?.abort();
    return undefined;
  },
  async () => {
    sandbox.close();
    await Promise.all([...runs.values()].map(({ source }) => source.close()));
  },
);

function openRun(run: LaneRun, seen: SharedArrayBuffer | undefined): void {
  const source = openSource(run.source, sources);
  runs.set(run.run, { run, source, seen: seen && openSeenTable(seen) });
}

async function fillSlot(slot: number, entries: readonly SlotEntry[]): Promise<FilledSlot> {
  const pixels = slots[slot];
  if (!pixels) throw new Error(`there is no slot ${slot}: this is a bug`);
  const abandoned = new AbortController();
  filling.set(slot, abandoned);
  const times = { fetchMs: 0, decodeMs: 0 };
  const places = new Int32Array(entries.length).fill(-1);
  try {
    const rows = entries.map((entry, row) =>
      limit(() => fillRow(entry, row, { pixels, places }, abandoned.signal, times)),
    );
    // Who gets the slot next must not have a decoder of ours write into it: all end before one's error is told.
    await Promise.allSettled(rows);
    const outcomes = await Promise.all(rows);
    return { outcomes, places, ...times };
  } finally {
    filling.delete(slot);
  }
}

async function fillRow(
  { run: id, item, suspect, anew }: SlotEntry,
  row: number,
  { pixels, places }: { pixels: SharedArrayBuffer; places: Int32Array },
  signal: AbortSignal,
  times: { fetchMs: number; decodeMs: number },
): Promise<Outcome | Refusal | Repeat> {
  signal.throwIfAborted();
  const opened = runs.get(id);
  if (!opened) throw new Error(`run ${id} was not announced to its lane: this is a bug`);
  const { run, source, seen } = opened;

  const started = performance.now();
  let fetched: Awaited<ReturnType<typeof fetchItem>>;
  try {
    fetched = await fetchItem(source, item, { maxBytes: run.maxBytes, timeoutMs: readTimeoutMs, signal });
  } catch (error) {
    if (error instanceof ConfigError) return { status: 'refused', message: error.message };
    throw error;
  }
  const read = performance.now();
  times.fetchMs += read - started;
  if ('error' in fetched) return { status: 'failed', ...fetched };

  const { content, ...facts } = fetched;
  const claim = seen?.claim(facts.sha256);
  places[row] = claim?.place ?? -1;
  if (claim && !claim.isNew && !anew) return { status: 'repeat', sha256: facts.sha256 };

  const imageBytes = run.model.preprocessing.crop ** 2 * 3;
  const target = new Uint8Array(pixels, row * imageBytes, imageBytes);
  const options = {
    preprocessing: run.model.preprocessing,
    resizeMode: run.model.resizeMode,
    maxPixels: run.maxPixels,
    decoder,
  };
  const decoded = suspect
    ? await sandbox.decode(content, target, options)
    : await orDie(decodeImage(content, target, options), item.uri);
  times.decodeMs += performance.now() - read;
  return 'error' in decoded
    ? { status: 'failed', ...facts, ...decoded }
    : { status: 'ok', ...facts, ...decoded };
}

/** A decoder that hangs holds a thread that nothing can free. The worker ends, and its shards come back as suspects. */
function orDie<T>(decoding: Promise<T>, uri: string): Promise<T> {
  const timer = setTimeout(() => {
    throw new Error(`decoding ${uri} did not end in ${longestDecodeMs / 1000} s`);
  }, longestDecodeMs);
  return decoding.finally(() => clearTimeout(timer));
}
