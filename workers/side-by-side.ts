/**
 * The same pixels through several models: images are fetched and decoded once, by lanes as a worker's, and the models take
 * turns on the device.
 */
import { availableParallelism } from 'node:os';
import { pMapIterable } from 'p-map';
import type { FilledSlot } from '../src/batch.ts';
import { describeDecoder } from '../src/decode.ts';
import type { Device } from '../src/devices/device.ts';
import { RunBlocked } from '../src/errors.ts';
import { encodeItems } from '../src/page.ts';
import { type FailedOutcome, openSheets, readSheet } from '../src/sheet.ts';
import type { BatchResult, Item, Outcome } from '../src/types.ts';
import type { EngineSettings } from './engine.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import type { LaneReply, LaneRun } from './lane.ts';
import { countLanes, openLanes } from './lanes.ts';
import { makeSlot, type Slot } from './slot.ts';
import { openThreads } from './thread.ts';

export interface SideBySideOptions {
  /** Says where the images are, and which pixels the models see. */
  run: LaneRun;
  /** ONNX files. */
  modelPaths: readonly string[];
  /** Of the graphs in them. */
  topK: number;
  device: Device;
  settings: EngineSettings;
  /** Something that the operator should know, once. */
  onNotice(notice: string): void;
  signal: AbortSignal;
}

export interface SideBySideBatch {
  items: readonly Item[];
  outcomes: readonly Outcome[];
  /** Of each model; row r belongs to item r, and the rest of a last batch to none. */
  results: (BatchResult & { inferMs: number })[];
}

/**
 * All items, a batch at a time, in order. Throws ConfigError 'device-failed' and 'no-native-decoder', RunBlocked where the source refuses, and what
 * `signal` aborts with. Its threads end with it.
 */
export async function* embedSideBySide(
  items: readonly Item[],
  { run, modelPaths, topK, device, settings, onNotice, signal }: SideBySideOptions,
): AsyncGenerator<SideBySideBatch> {
  const { crop } = run.model.preprocessing;
  const { dimension } = run.model;
  const batch = settings.batch || device.batch;
  const threads = settings.threads || availableParallelism();
  const laneCount = countLanes(device, settings);
  const shape = { batch, crop, dimension, topK };
  // One that the models are at, and one for each lane.
  const slots = Array.from({ length: laneCount + 1 }, () => makeSlot(shape));

  const decoding = await describeDecoder(settings.decoder, run.model.resizeMode);
  decoding.notices.forEach(onNotice);
  const lanes = openLanes(laneCount, slots, settings);
  const sheets = openSheets({ dimension, topK });
  const sessions = modelPaths.map((modelPath) => {
    const options: InferenceOptions = { slots, modelPath, device, batch, crop, threads };
    return openThreads<InferenceRequest, InferenceReply>('inference', 1, options);
  });
  const lost = Promise.race([lanes, ...sessions].map((group) => group.lost));
  lost.catch(() => undefined); // whoever waits for it hears of it

  try {
    await lanes.callAll({ kind: 'run', run, seen: undefined });
    // One after the other: where both are read at once, so is their memory.
    for (const session of sessions) await session.callAll({ kind: 'open' });
    const batches = Array.from({ length: Math.ceil(items.length / batch) }, (_, n) => ({
      turn: n,
      slot: n % slots.length,
      items: items.slice(n * batch, (n + 1) * batch),
    }));
    for await (const { turn, slot, items, outcomes } of pMapIterable(batches, fill, {
      concurrency: laneCount,
    })) {
      const results = new Array<SideBySideBatch['results'][number]>(sessions.length);
      // While the first one runs, the lanes fill what has just become free: each is the first in its turn.
      for (const [at, session] of inTurn(sessions, turn)) {
        signal.throwIfAborted();
        const reply = await Promise.race([session.callOne({ kind: 'infer', slot }), lost]);
        if (!reply) throw new Error('a model gave nothing: this is a bug');
        if (reply.notice !== undefined) onNotice(reply.notice);
        results[at] = { ...copyOf(slots[slot] as Slot), inferMs: reply.inferMs }; // there are no others
      }
      yield { items, outcomes, results };
    }
  } finally {
    await Promise.all([lanes, ...sessions].map((group) => group.close()));
  }

  async function fill(wanted: { turn: number; slot: number; items: readonly Item[] }) {
    const { slot } = wanted;
    // An image that ends the process that decodes it shall not end this one.
    const sheet = sheets.take(encodeItems(wanted.items));
    const range = {
      run: run.run,
      sheet: sheet.memory,
      first: 0,
      count: sheet.rows,
      suspect: true,
      anew: false,
    };
    const abort = { signal, abandon: { kind: 'abandon', slot } as const };
    const filling = lanes.callOne({ kind: 'fill', slot, ranges: [range] }, abort);
    // Only 'run' and 'abandon' are answered with nothing.
    const { exceptions } = (await Promise.race([filling, lost])) as NonNullable<LaneReply>;
    const failures = new Map(exceptions.map(({ at, outcome }) => [at, orRefusal(outcome)]));
    const { outcomes } = readSheet({ sheet: sheet.memory, failures });
    sheets.giveBack(sheet);
    return { ...wanted, outcomes };
  }
}

/** With their places; which comes first changes from turn to turn. */
function inTurn<T>(members: readonly T[], turn: number): [number, T][] {
  const first = turn % members.length;
  const all = [...members.entries()];
  return [...all.slice(first), ...all.slice(0, first)];
}

/** In memory of its own: the next model's results go to the same place. (`structuredClone` would share it again.) */
function copyOf({ result: { embeddings, scores, labels } }: Slot): BatchResult {
  return { embeddings: embeddings.slice(), scores: scores.slice(), labels: labels.slice() };
}

function orRefusal(outcome: FilledSlot['exceptions'][number]['outcome']): FailedOutcome {
  if (outcome.status === 'refused') throw new RunBlocked(outcome.message);
  if (outcome.status === 'failed') return outcome;
  throw new Error(`an image is '${outcome.status}' here: this is a bug`);
}
