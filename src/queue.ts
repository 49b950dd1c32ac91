/**
 * The queue of shards, from the producer's and the operator's side; a worker's side is consume.ts.
 *
 * Every run has a BullMQ queue of its own, and a register names the runs that are open: workers go round it, so a small
 * run does not wait behind a large one, a run can be paused or cancelled alone, and a worker leaves the runs that it
 * does not fit to others. Redis holds only what the store could tell again: which shards wait, which worker has which; and
 * counters that tell how far a run is and what limits it (telemetry/counters.ts). A job is `{ v: 1, run, shard }`. Jobs leave Redis
 * when they end; a shard that failed for good leaves a line in the run's `failures`, and `lensmill resume` enqueues it anew.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Queue } from 'bullmq';
import pRetry from 'p-retry';
import { z } from 'zod';
import { openRedis } from './redis/connection.ts';
import type { RunNeeds } from './runs/run.ts';
import { atStep } from './steps.ts';
import {
  forgetDone,
  forgetPace,
  markDone,
  type RunCounts,
  readCounts,
  type ShardCounts,
} from './telemetry/counters.ts';
import { workerRate } from './telemetry/throughput.ts';
import { queueTelemetry } from './telemetry/traces.ts';

/** The braces keep all keys in one slot of a Redis Cluster. */
export const prefix = '{lensmill}';

const enqueueChunk = 1_000;
const closeMs = 1_000;
/** What a finished run leaves in Redis, for whoever still shows its progress. */
const keepSeconds = 86_400;
const kept = ['done', 'counts', 'failures'];

/**
 * Jobs by state, all at one moment; KEYS are BullMQ's own. A `Queue` tells the same, but would have to be kept open for every run that is
 * looked at, and writes its settings, also of a run that has just ended.
 */
const countScript = `
return { redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2]), redis.call('ZCARD', KEYS[3]) }
`;

export const shardJob = z.object({ v: z.literal(1), run: z.string(), shard: z.number().int().nonnegative() });
export const finalizeJob = z.object({ v: z.literal(1), run: z.string() });

/** An output's own queue, so that its workers need no other name for it. */
export function queueNameOf(outputUri: string): string {
  return `shards-${createHash('sha256').update(outputUri).digest('hex').slice(0, 12)}`;
}

export interface QueueAddress {
  redisUrl: string;
  name: string;
}

/** A run's own queue below an address. */
export const runQueue = (name: string, run: string): string => `${name}.${run}`;

export interface RunProgress extends RunCounts {
  /** Shards that failed for good, and why. */
  failures: Record<string, string>;
}

/**
 * open: its shards are taken. paused: by its operator. blocked: by a worker that met what only an operator can mend.
 * cancelled: it has no shards in Redis any more. `lensmill resume` opens it again.
 */
export type RunState = 'open' | 'paused' | 'blocked' | 'cancelled';

/** What workers must know of a run before they take a shard of it. */
const runEntry = z.object({
  v: z.literal(1),
  state: z.enum(['open', 'paused', 'blocked', 'cancelled']),
  /** Of a blocked run. */
  reason: z.string().optional(),
  needs: z.object({ lensmill: z.string(), model: z.string() }),
  /** Of its plan, for whoever would tell how much is left and does not read the store. */
  size: z.object({ items: z.number(), shards: z.number() }).optional(),
  /** Tells a run from one that had its id before, and was deleted. */
  createdAt: z.string().optional(),
});
export type RunEntry = z.infer<typeof runEntry>;

export interface ShardQueue {
  /** Opens a run to workers, new or again, with all that earlier failures and pauses left of it forgotten. */
  openRun(
    run: string,
    needs: RunNeeds,
    facts?: RunEntry['size'] & Pick<RunEntry, 'createdAt'>,
  ): Promise<void>;
  /**
   * Enqueues shards while keeping at most `highWater` of the run waiting; resolves when all are in. A shard that is
   * in the queue already stays as it is, but no longer waits for its next attempt.
   */
  enqueue(run: string, shards: Iterable<number>, options: EnqueueOptions): Promise<void>;
  enqueueFinalize(run: string): Promise<void>;
  /** Counts a shard, once however often it is reported; returns the number of the run's shards that are done. */
  markDone(run: string, shard: number, counts: ShardCounts): Promise<number>;
  /** No shard of the run counts as done any more; what workers measured stays. */
  forgetDone(run: string): Promise<void>;
  progress(run: string): Promise<RunProgress>;
  recordFailure(run: string, shard: string, message: string): Promise<void>;
  /** The runs that the register names. */
  runs(): Promise<Map<string, RunEntry>>;
  /** Changes the state of a run that the register names; false where it does not. */
  setState(run: string, state: RunState, reason?: string): Promise<boolean>;
  /** Images a second of one worker, by model (`RunNeeds`), as the last run of each that was finished had it. */
  rates(): Promise<Map<string, number>>;
  /** Jobs of a run by state. */
  counts(run: string): Promise<{ waiting: number; active: number; delayed: number }>;
  /** Takes a run's jobs out of Redis; who has one of them loses its lease. */
  dropJobs(run: string): Promise<void>;
  /** A finished run: its jobs and its line in the register go. */
  closeRun(run: string): Promise<void>;
  /** What a closed run leaves for a day goes. */
  forgetRun(run: string): Promise<void>;
  /** A run's queue as BullMQ has it, for a dashboard that knows BullMQ; opened without a write, and closed with this at the latest. */
  viewOf(run: string): Queue;
  close(): Promise<void>;
}

export interface EnqueueOptions {
  highWater: number;
  attempts: number;
  signal?: AbortSignal;
}

export function openQueue({ redisUrl, name }: QueueAddress): ShardQueue {
  const redis = openRedis(redisUrl);
  const queues = new Map<string, Queue>();
  const register = `${prefix}:${name}:runs`;
  const ratesKey = `${prefix}:${name}:rates`;
  const key = (run: string, what: string): string => `${prefix}:${name}:${run}:${what}`;
  const countersOf = (run: string) => ({ done: key(run, 'done'), counts: key(run, 'counts') });

  function queueOf(run: string): Queue {
    let queue = queues.get(run);
    if (!queue) {
      const streams = { events: { maxLen: 1_000 } };
      queue = new Queue(runQueue(name, run), { connection: redis, prefix, streams, ...queueTelemetry() });
      // Reconnection is ioredis's; what still fails then rejects the call that needed it.
      queue.on('error', () => undefined);
      queues.set(run, queue);
    }
    return queue;
  }

  /** A new run of the same model has nothing of its own to go by. */
  async function keepRate(run: string): Promise<void> {
    const [entry, { measures }] = await Promise.all([
      redis.hget(register, run),
      readCounts(redis, countersOf(run)),
    ]);
    const rate = workerRate(measures);
    if (entry !== null && rate !== undefined)
      await redis.hset(ratesKey, runEntry.parse(JSON.parse(entry)).needs.model, rate);
  }

  const jobOptions = (id: string, attempts: number) => ({
    jobId: id,
    attempts,
    backoff: { type: 'exponential', delay: 1_000, jitter: 0.5 },
    removeOnComplete: true,
    removeOnFail: true,
    stackTraceLimit: 3,
  });

  const queue: ShardQueue = {
    async openRun(run, needs, facts) {
      await redis.del(key(run, 'failures'));
      await forgetPace(redis, countersOf(run));
      // A cancel that was broken off may have left it paused.
      await queueOf(run).resume();
      const entry: RunEntry = {
        v: 1,
        state: 'open',
        needs,
        ...(facts && { size: { items: facts.items, shards: facts.shards }, createdAt: facts.createdAt }),
      };
      await redis.hset(register, run, JSON.stringify(entry));
    },

    async enqueue(run, shards, { highWater, attempts, signal }) {
      const jobs = queueOf(run);
      // From half the mark, one chunk must not go over it.
      const chunkSize = Math.min(enqueueChunk, Math.ceil(highWater / 2));
      let chunk: number[] = [];
      const flush = async (): Promise<void> => {
        if ((await jobs.getWaitingCount()) + chunk.length > highWater) {
          while ((await jobs.getWaitingCount()) > highWater / 2)
            await sleep(250, undefined, signal && { signal });
        }
        signal?.throwIfAborted();
        await jobs.addBulk(
          chunk.map((shard) => ({
            name: 'shard',
            data: { v: 1, run, shard } satisfies z.infer<typeof shardJob>,
            opts: jobOptions(`${run}-${shard}`, attempts),
          })),
        );
        atStep('shards enqueued', run, chunk.at(-1));
        chunk = [];
      };
      await jobs.promoteJobs();
      for (const shard of shards) {
        chunk.push(shard);
        if (chunk.length >= chunkSize) await flush();
      }
      if (chunk.length > 0) await flush();
    },

    async enqueueFinalize(run) {
      const data = { v: 1, run } satisfies z.infer<typeof finalizeJob>;
      await queueOf(run).add('finalize', data, jobOptions(`${run}-finalize`, 5));
    },

    markDone: (run, shard, counts) => markDone(redis, countersOf(run), shard, counts),

    forgetDone: (run) => forgetDone(redis, countersOf(run)),

    async progress(run) {
      const [counts, failures] = await Promise.all([
        readCounts(redis, countersOf(run)),
        redis.hgetall(key(run, 'failures')),
      ]);
      return { ...counts, failures };
    },

    async recordFailure(run, shard, message) {
      await redis.hset(key(run, 'failures'), shard, message);
    },

    async runs() {
      const entries = Object.entries(await redis.hgetall(register));
      return new Map(entries.map(([run, entry]) => [run, runEntry.parse(JSON.parse(entry))]));
    },

    async setState(run, state, reason) {
      const entry = await redis.hget(register, run);
      if (entry === null) return false;
      const { reason: _before, ...kept } = runEntry.parse(JSON.parse(entry));
      const changed: RunEntry = { ...kept, state, ...(reason !== undefined && { reason }) };
      await redis.hset(register, run, JSON.stringify(changed));
      return true;
    },

    async rates() {
      const rates = Object.entries(await redis.hgetall(ratesKey));
      return new Map(rates.map(([model, rate]) => [model, Number(rate)]));
    },

    async counts(run) {
      const keys = ['wait', 'active', 'delayed'].map((state) => `${prefix}:${runQueue(name, run)}:${state}`);
      const counts = await redis.eval(countScript, keys.length, ...keys);
      const [waiting = 0, active = 0, delayed = 0] = counts as number[]; // what the script returns
      return { waiting, active, delayed };
    },

    async dropJobs(run) {
      // BullMQ pauses the queue, and then takes it apart. Another who has done so in between has taken the pause with it.
      await pRetry(() => queueOf(run).obliterate({ force: true }), {
        retries: 10,
        minTimeout: 10,
        maxTimeout: 100,
        shouldRetry: ({ error }) => error.message.includes('non-paused'),
      });
    },

    async closeRun(run) {
      await keepRate(run);
      await redis.hdel(register, run);
      await queue.dropJobs(run);
      await Promise.all(kept.map((what) => redis.expire(key(run, what), keepSeconds)));
      await queues.get(run)?.close();
      queues.delete(run);
      atStep('run closed', run);
    },

    async forgetRun(run) {
      await redis.del(...kept.map((what) => key(run, what)));
    },

    viewOf(run) {
      // A queue that writes its own settings would leave a key behind of a run that has just ended.
      const view = new Queue(runQueue(name, run), { connection: redis, prefix, skipMetasUpdate: true });
      view.on('error', () => undefined);
      return view;
    },

    async close() {
      const closed = Promise.allSettled([...queues.values()].map((opened) => opened.close()));
      // A Redis that is gone is no reason to stay.
      await Promise.race([closed, sleep(closeMs, undefined, { ref: false })]);
      redis.disconnect();
    },
  };
  return queue;
}
