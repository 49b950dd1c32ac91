/** An inference thread: owns one session, and is blocked by it while the model runs. */
import { workerData } from 'node:worker_threads';
import type { RowRange } from '../src/batch.ts';
import { type ElasticSession, openElasticSession } from '../src/elastic.ts';
import { openSession, type Session, type SessionOptions } from '../src/infer.ts';
import { putRows } from '../src/sheet.ts';
import type { Slot } from './slot.ts';
import { serveThread } from './thread.ts';

export interface InferenceOptions extends SessionOptions {
  slots: readonly Slot[];
}

/**
 * 'open' loads the model and warms it up; it comes first. What 'infer' makes goes to the rows of `ranges`, one after the
 * other; without them, to the slot's own result.
 */
export type InferenceRequest =
  | { kind: 'open' }
  | { kind: 'infer'; slot: number; ranges?: readonly Pick<RowRange, 'sheet' | 'first' | 'count'>[] };
export type InferenceReply =
  | {
      inferMs: number;
      /** Images per run of the model: fewer than a slot has, once memory was short. */
      batch: number;
      /** What the operator should know, said once. */
      notice?: string;
    }
  | undefined;

// Only engine.ts, side-by-side.ts and arrangement.ts start this thread.
const { slots, ...options } = workerData as InferenceOptions;
let session: ElasticSession | undefined;
let notice: string | undefined;
let last: Promise<unknown> = Promise.resolve();

serveThread<InferenceRequest, InferenceReply>(
  (request) => {
    // `run` returns before it blocks; without a line of its own, two batches would be timed as one.
    const answer = last.then(() => (request.kind === 'open' ? open() : infer(request.slot, request.ranges)));
    last = answer.catch(() => undefined);
    return answer;
  },
  async () => session?.release(),
);

async function open(): Promise<undefined> {
  session = await openElasticSession({
    open: openWarmSession,
    batch: options.batch,
    deviceName: options.device.name,
    onSmaller: (text) => {
      notice = text;
    },
  });
}

async function openWarmSession(batch: number): Promise<Session> {
  const opened = await openSession({ ...options, batch });
  try {
    await opened.run(new Uint8Array(batch * options.crop ** 2 * 3));
    return opened;
  } catch (error) {
    await opened.release();
    throw error;
  }
}

async function infer(
  slot: number,
  ranges?: Extract<InferenceRequest, { kind: 'infer' }>['ranges'],
): Promise<InferenceReply> {
  const { pixels, result } = slots[slot] ?? {};
  if (!session || !pixels || !result) throw new Error(`no session, or no slot ${slot}: this is a bug`);
  const started = performance.now();
  const made = await session.run(new Uint8Array(pixels));
  if (ranges) putRows(made, ranges);
  else {
    result.embeddings.set(made.embeddings);
    result.scores.set(made.scores);
    result.labels.set(made.labels);
  }
  const inferMs = performance.now() - started;
  const said = notice;
  notice = undefined;
  return {
    inferMs,
    batch: session.batch,
    ...(said !== undefined && { notice: said }),
  };
}
