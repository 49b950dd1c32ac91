/**
 * A lane: the thread that turns items into pixels. Fetches and decodes `reads` items at once, straight into a slot. A
 * suspect item is decoded in a process of its own (sandbox.ts), one at a time.
 */
import { workerData } from 'node:worker_threads';
import pLimit from 'p-limit';
import type { FilledSlot, RowRange } from '../src/batch.ts';
import { type DecoderChoice, decodeImage } from '../src/decode.ts';
import { ConfigError } from '../src/errors.ts';
import { fetchItem } from '../src/fetch.ts';
import type { Run } from '../src/runs/run.ts';
import { openSeenTable, type SeenTable } from '../src/seen.ts';
import { openSheet, type Sheet } from '../src/sheet.ts';
import { openSource } from '../src/sources/open-source.ts';
import type { Source, SourceOptions } from '../src/sources/source.ts';
import type { Item } from '../src/types.ts';
import type { InferenceReply, InferenceRequest } from './inference.ts';
import { longestDecodeMs, openSandbox } from './sandbox.ts';
import { callOver, serveThread } from './thread.ts';

export interface LaneOptions {
  /** The pixels of one batch each. */
  slots: readonly SharedArrayBuffer[];
  reads: number;
  readTimeoutMs: number;
  decoder: DecoderChoice;
  sources: SourceOptions;
  /** By session, the calls under way of all lanes together; in int32. */
  sessionCalls: SharedArrayBuffer;
}

/** What a lane must know of a run. */
export type LaneRun = Pick<Run, 'run' | 'source' | 'model' | 'maxPixels' | 'maxBytes'>;

/**
 * A run is announced before its first rows. 'embed' is 'fill', and then a session does what is in the slot. 'abandon' lets go
 * of a slot that nobody waits for any more.
 */
export type LaneRequest =
  | { kind: 'run'; run: LaneRun; seen: SharedArrayBuffer | undefined }
  | { kind: 'fill' | 'embed'; slot: number; ranges: readonly RowRange[] }
  | { kind: 'abandon'; slot: number };
/** Of 'fill' and 'embed'; `inferred` where there was anything to infer. */
export type LaneReply = (FilledSlot & { inferred?: NonNullable<InferenceReply> }) | undefined;

// Only lanes.ts starts this thread.
const { slots, reads, readTimeoutMs, decoder, sources, ...options } = workerData as LaneOptions;
const sessionCalls = new Int32Array(options.sessionCalls);
const limit = pLimit(reads);
const runs = new Map<string, { run: LaneRun; source: Source; seen: SeenTable | undefined }>();
const filling = new Map<number, AbortController>();
const sandbox = openSandbox(longestDecodeMs);
const sessions: ((request: InferenceRequest) => Promise<InferenceReply>)[] = [];

serveThread<LaneRequest, LaneReply>(
  async (request) => {
    if (request.kind === 'run') openRun(request.run, request.seen);
    else if (request.kind === 'abandon') filling.get(request.slot)?.abort();
    else return doSlot(request.slot, request.ranges, request.kind === 'embed');
    return undefined;
  },
  async () => {
    sandbox.close();
    await Promise.all([...runs.values()].map(({ source }) => source.close()));
  },
  (port) => sessions.push(callOver<InferenceRequest, InferenceReply>(port)),
);

function openRun(run: LaneRun, seen: SharedArrayBuffer | undefined): void {
  const source = openSource(run.source, sources);
  runs.set(run.run, { run, source, seen: seen && openSeenTable(seen) });
}

async function doSlot(slot: number, ranges: readonly RowRange[], isForModel: boolean): Promise<LaneReply> {
  const abandoned = new AbortController();
  filling.set(slot, abandoned);
  try {
    const filled = await fillSlot(slot, ranges, abandoned.signal);
    const entries = ranges.reduce((sum, { count }) => sum + count, 0);
    if (!isForModel || filled.exceptions.length === entries) return filled;
    abandoned.signal.throwIfAborted();
    return { ...filled, inferred: await infer(slot, ranges) };
  } finally {
    filling.delete(slot);
  }
}

/** By the session that has the least to do. */
async function infer(slot: number, ranges: readonly RowRange[]): Promise<NonNullable<InferenceReply>> {
  const session = sessionCalls.indexOf(Math.min(...sessionCalls));
  Atomics.add(sessionCalls, session, 1);
  try {
    const rows = ranges.map(({ sheet, first, count }) => ({ sheet, first, count }));
    const inferred = await sessions[session]?.({ kind: 'infer', slot, ranges: rows });
    if (!inferred) throw new Error('a model gave nothing: this is a bug');
    return inferred;
  } finally {
    Atomics.sub(sessionCalls, session, 1);
  }
}

async function fillSlot(slot: number, ranges: readonly RowRange[], signal: AbortSignal): Promise<FilledSlot> {
  const pixels = slots[slot];
  if (!pixels) throw new Error(`there is no slot ${slot}: this is a bug`);
  const told = { fetchMs: 0, decodeMs: 0, bytesRead: ranges.map(() => 0) };
  const entries = ranges.flatMap((range, at) => {
    const sheet = openSheet(range.sheet);
    return sheet
      .items(range.first, range.count)
      .map((item, n) => ({ ...range, sheet, item, row: range.first + n, range: at }));
  });
  const ends = entries.map((entry, at) => limit(() => fillRow(entry, at, pixels, signal, told)));
  // Who gets the slot next must not have a decoder of ours write into it: all end before one's error is told.
  await Promise.allSettled(ends);
  const outcomes = await Promise.all(ends);
  const exceptions = outcomes.flatMap((outcome, at) => (outcome ? { at, outcome } : []));
  return { exceptions, ...told };
}

interface SlotEntry extends Omit<RowRange, 'sheet'> {
  /** Which of the slot's it is of. */
  range: number;
  sheet: Sheet;
  /** Of the sheet. */
  row: number;
  item: Item;
}

/** Into the slot's row `at`. `undefined` where its pixels are there, and its facts in the sheet. */
async function fillRow(
  { run: id, range, sheet, row, item, suspect, anew }: SlotEntry,
  at: number,
  pixels: SharedArrayBuffer,
  signal: AbortSignal,
  told: { fetchMs: number; decodeMs: number; bytesRead: number[] },
): Promise<FilledSlot['exceptions'][number]['outcome'] | undefined> {
  signal.throwIfAborted();
  const opened = runs.get(id);
  if (!opened) throw new Error(`run ${id} was not announced to its lane: this is a bug`);
  const { run, source, seen } = opened;
  sheet.places[row] = -1;
  if (item.gone) {
    sheet.putGone(row);
    return { status: 'gone' };
  }

  const started = performance.now();
  let fetched: Awaited<ReturnType<typeof fetchItem>>;
  try {
    fetched = await fetchItem(source, item, { maxBytes: run.maxBytes, timeoutMs: readTimeoutMs, signal });
  } catch (error) {
    if (error instanceof ConfigError) return { status: 'refused', message: error.message };
    throw error;
  }
  const read = performance.now();
  told.fetchMs += read - started;
  if ('error' in fetched) return { status: 'failed', ...fetched };

  const { content, ...facts } = fetched;
  told.bytesRead[range] = (told.bytesRead[range] ?? 0) + facts.bytes;
  const claim = seen?.claim(facts.sha256);
  sheet.places[row] = claim?.place ?? -1;
  if (claim && !claim.isNew && !anew) return { status: 'repeat', sha256: facts.sha256 };

  const imageBytes = run.model.preprocessing.crop ** 2 * 3;
  const target = new Uint8Array(pixels, at * imageBytes, imageBytes);
  const options = {
    preprocessing: run.model.preprocessing,
    resizeMode: run.model.resizeMode,
    maxPixels: run.maxPixels,
    decoder,
  };
  const decoded = suspect
    ? await sandbox.decode(content, target, options)
    : await orDie(decodeImage(content, target, options), item.uri);
  told.decodeMs += performance.now() - read;
  if ('error' in decoded) return { status: 'failed', ...facts, ...decoded };
  sheet.putOk(row, { ...facts, ...decoded });
  return undefined;
}

/** A decoder that hangs holds a thread that nothing can free. The worker ends, and its shards come back as suspects. */
function orDie<T>(decoding: Promise<T>, uri: string): Promise<T> {
  const timer = setTimeout(() => {
    throw new Error(`decoding ${uri} did not end in ${longestDecodeMs / 1000} s`);
  }, longestDecodeMs);
  return decoding.finally(() => clearTimeout(timer));
}
