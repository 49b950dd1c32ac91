/**
 * The queue of shards: BullMQ's one door.
 *
 * Redis holds only what the store could tell again: which shards wait, which worker has which, and counters for the
 * progress line. A job is `{ v: 1, run, shard }`. Jobs leave Redis when they end; a shard that failed for good leaves
 * a line in the run's `failures`, and `lensmill resume` enqueues it anew.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { DelayedError, type Job, Queue, WaitingError, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { z } from 'zod';
import { ConfigError, messageOf } from './errors.ts';
import type { Logger } from './log.ts';

/** The braces keep all of a queue's keys in one slot of a Redis Cluster. */
const prefix = '{lensmill}';

/** A worker that dies is noticed after at most this and one `stalledIntervalMs`. */
const lockMs = 10_000;
const stalledIntervalMs = 5_000;
const enqueueChunk = 1_000;
const handedBack = 'handed back';
const neverAborted = new AbortController().signal;

const shardJob = z.object({ v: z.literal(1), run: z.string(), shard: z.number().int().nonnegative() });
const finalizeJob = z.object({ v: z.literal(1), run: z.string() });

/** An output's own queue, so that its workers need no other name for it. */
export function queueNameOf(outputUri: string): string {
  return `shards-${createHash('sha256').update(outputUri).digest('hex').slice(0, 12)}`;
}

export interface QueueAddress {
  redisUrl: string;
  name: string;
}

/** Redis's own account of a run; the store has the last word. */
export interface RunProgress {
  shards: number;
  items: number;
  failed: number;
  /** Shards that failed for good, and why. */
  failures: Record<string, string>;
}

/** Throws ConfigError 'redis-unreachable' or 'redis-refused' (a password, an ACL). */
export async function checkRedis(
  redisUrl: string,
): Promise<{ version: string; policy: string; persistent: boolean }> {
  const redis = new Redis(redisUrl, { lazyConnect: true, retryStrategy: () => null, connectTimeout: 5_000 });
  // Errors also arrive as the rejected promise below.
  redis.on('error', () => undefined);
  try {
    await redis.connect();
    const info = await redis.info();
    const field = (name: string): string =>
      new RegExp(`^${name}:(.*)\r?$`, 'm').exec(info)?.[1]?.trim() ?? '';
    return {
      version: field('redis_version'),
      policy: field('maxmemory_policy'),
      persistent: field('aof_enabled') === '1',
    };
  } catch (error) {
    const place = redisUrl.replace(/\/\/[^@/]*@/, '//');
    if (/NOAUTH|WRONGPASS|NOPERM/.test(messageOf(error))) {
      throw new ConfigError(
        'redis-refused',
        `Redis at ${place} refused us: ${messageOf(error)}; check the user and password in REDIS_URL`,
      );
    }
    throw new ConfigError(
      'redis-unreachable',
      `no Redis at ${place} (${messageOf(error)}): start one, correct REDIS_URL, or unset it to use a private one`,
    );
  } finally {
    redis.disconnect();
  }
}

/**
 * Counts a shard once, however often it is reported; returns how many shards of the run are done.
 * KEYS: bitmap of done shards, counters. ARGV: shard, items, failed.
 */
const markDoneScript = `
if redis.call('SETBIT', KEYS[1], ARGV[1], 1) == 0 then
  redis.call('HINCRBY', KEYS[2], 'items', ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'failed', ARGV[3])
  return redis.call('HINCRBY', KEYS[2], 'shards', 1)
end
return tonumber(redis.call('HGET', KEYS[2], 'shards') or '0')
`;

export interface ShardQueue {
  /**
   * Enqueues shards while keeping at most `highWater` of the queue waiting; resolves when all are in. A shard that is
   * in the queue already stays as it is.
   */
  enqueue(run: string, shards: Iterable<number>, options: EnqueueOptions): Promise<void>;
  enqueueFinalize(run: string): Promise<void>;
  /** Returns the number of the run's shards that are done. */
  markDone(run: string, shard: number, counts: { items: number; failed: number }): Promise<number>;
  progress(run: string): Promise<RunProgress>;
  recordFailure(run: string, shard: string, message: string): Promise<void>;
  /** Forgets failures that a resume is about to try again. */
  clearFailures(run: string): Promise<void>;
  /** Jobs by state, over all runs of this queue. */
  counts(): Promise<{ waiting: number; active: number; delayed: number }>;
  close(): Promise<void>;
}

export interface EnqueueOptions {
  highWater: number;
  attempts: number;
  signal?: AbortSignal;
}

export function openQueue({ redisUrl, name }: QueueAddress): ShardQueue {
  const redis = openRedis(redisUrl);
  const queue = new Queue(name, { connection: redis, prefix, streams: { events: { maxLen: 1_000 } } });
  // Reconnection is ioredis's; what still fails then rejects the call that needed it.
  queue.on('error', () => undefined);
  const key = (run: string, what: string): string => `${prefix}:${name}:${run}:${what}`;

  const jobOptions = (id: string, attempts: number) => ({
    jobId: id,
    attempts,
    backoff: { type: 'exponential', delay: 1_000, jitter: 0.5 },
    removeOnComplete: true,
    removeOnFail: true,
    stackTraceLimit: 3,
  });

  return {
    async enqueue(run, shards, { highWater, attempts, signal }) {
      // From half the mark, one chunk must not go over it.
      const chunkSize = Math.min(enqueueChunk, Math.ceil(highWater / 2));
      let chunk: number[] = [];
      const flush = async (): Promise<void> => {
        if ((await waiting()) + chunk.length > highWater) {
          while ((await waiting()) > highWater / 2) await sleep(250, undefined, signal && { signal });
        }
        signal?.throwIfAborted();
        await queue.addBulk(
          chunk.map((shard) => ({
            name: 'shard',
            data: { v: 1, run, shard } satisfies z.infer<typeof shardJob>,
            opts: jobOptions(`${run}-${shard}`, attempts),
          })),
        );
        chunk = [];
      };
      for (const shard of shards) {
        chunk.push(shard);
        if (chunk.length >= chunkSize) await flush();
      }
      if (chunk.length > 0) await flush();
    },

    async enqueueFinalize(run) {
      const data = { v: 1, run } satisfies z.infer<typeof finalizeJob>;
      await queue.add('finalize', data, jobOptions(`${run}-finalize`, 5));
    },

    async markDone(run, shard, { items, failed }) {
      return Number(
        await redis.eval(markDoneScript, 2, key(run, 'done'), key(run, 'counts'), shard, items, failed),
      );
    },

    async progress(run) {
      const [counts, failures] = await Promise.all([
        redis.hgetall(key(run, 'counts')),
        redis.hgetall(key(run, 'failures')),
      ]);
      return {
        shards: Number(counts.shards ?? 0),
        items: Number(counts.items ?? 0),
        failed: Number(counts.failed ?? 0),
        failures,
      };
    },

    async recordFailure(run, shard, message) {
      await redis.hset(key(run, 'failures'), shard, message);
    },

    async clearFailures(run) {
      await redis.del(key(run, 'failures'));
    },

    async counts() {
      const counts = await queue.getJobCounts('waiting', 'active', 'delayed');
      return {
        waiting: counts.waiting ?? 0,
        active: counts.active ?? 0,
        delayed: counts.delayed ?? 0,
      };
    },

    async close() {
      await queue.close();
      redis.disconnect();
    },
  };

  async function waiting(): Promise<number> {
    return queue.getWaitingCount();
  }
}

/** Thrown by a handler whose worker cannot do this shard (another model): it goes back for one that can. */
export class NotForThisWorker extends Error {
  override name = 'NotForThisWorker';
}

export interface ConsumerHandlers {
  /** `signal` aborts when the lock is lost or the consumer is closed by force: stop before committing. */
  onShard(run: string, shard: number, signal: AbortSignal): Promise<void>;
  onFinalize(run: string): Promise<void>;
}

export interface Consumer {
  /** Stops taking shards; resolves when those in flight have ended, or were handed back after `graceMs`. */
  close(graceMs: number): Promise<void>;
}

/** Takes shards, `concurrency` at a time, until closed. */
export function consumeShards(
  { redisUrl, name }: QueueAddress,
  options: { concurrency: number; queue: ShardQueue; log: Logger; handlers: ConsumerHandlers },
): Consumer {
  const { concurrency, queue, log, handlers } = options;
  const redis = openRedis(redisUrl);
  const worker = new Worker(
    name,
    // BullMQ makes a signal only for a processor that declares three parameters.
    async (job: Job, token: string | undefined, signal: AbortSignal | undefined) => {
      try {
        if (job.name === 'finalize') return await handlers.onFinalize(finalizeJob.parse(job.data).run);
        const { run, shard } = shardJob.parse(job.data);
        return await handlers.onShard(run, shard, signal ?? neverAborted);
      } catch (error) {
        if (error instanceof NotForThisWorker) {
          await job.moveToDelayed(Date.now() + 5_000, token);
          throw new DelayedError();
        }
        if (signal?.aborted && signal.reason === handedBack) {
          await job.moveToWait(token);
          throw new WaitingError();
        }
        throw error;
      }
    },
    {
      connection: redis,
      prefix,
      concurrency,
      lockDuration: lockMs,
      stalledInterval: stalledIntervalMs,
      // A shard may meet many dying workers; only its own failures end it.
      maxStalledCount: 1_000_000,
      drainDelay: 2,
    },
  );
  worker.on('lockRenewalFailed', (ids: string[]) => {
    for (const id of ids) worker.cancelJob(id, 'the lock was lost');
  });
  worker.on('error', (error) => log.warn({ error: messageOf(error) }, 'queue error'));
  worker.on('failed', (job, error) => {
    if (!job) return;
    const { run, shard } = z.looseObject({ run: z.string(), shard: z.number().optional() }).parse(job.data);
    const last = job.attemptsMade >= (job.opts.attempts ?? 1);
    log[last ? 'error' : 'warn'](
      { run, shard, attempt: job.attemptsMade, error: messageOf(error) },
      'shard failed',
    );
    // Without Redis the failure cannot be recorded, and the queue cannot end the job either: it will be tried again.
    if (last) queue.recordFailure(run, String(shard ?? 'finalize'), messageOf(error)).catch(() => undefined);
  });

  return {
    async close(graceMs) {
      const drained = worker.close();
      const late = setTimeout(() => worker.cancelAllJobs(handedBack), graceMs);
      await drained;
      clearTimeout(late);
      redis.disconnect();
    },
  };
}

function openRedis(url: string): Redis {
  const redis = new Redis(url, {
    maxRetriesPerRequest: null,
    retryStrategy: (times) => Math.min(100 * 2 ** times, 2_000),
  });
  // ioredis retries by itself; a listener keeps a lost connection from ending the process.
  redis.on('error', () => undefined);
  return redis;
}
