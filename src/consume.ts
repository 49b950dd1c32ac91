/**
 * The queue of shards, from a worker's side. The life of a shard here:
 *
 *   1. The open runs that this worker fits are asked in turn, one shard each, so that they share the pool evenly.
 *   2. A shard is taken with a lock of 10 s in Redis, and a lease of our own that ends no later (lease.ts). The lock is
 *      renewed every 3 s while the shard is worked on.
 *   3. Done, it leaves Redis. Failed, it is tried again after a pause, `attempts` times in all. Blocked, out of reach or
 *      handed back, it waits again at once and has lost no attempt.
 *   4. Of a worker that died or froze, the lock expires; another worker finds that within 5 s, and takes the shard as
 *      `suspect`. Who lost a lease drops the shard: what becomes of it is no longer ours to say.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, Worker } from 'bullmq';
import { messageOf, OutOfReach, RunBlocked } from './errors.ts';
import { type HeldLease, type Lease, LeaseLost, openLease } from './lease.ts';
import {
  finalizeJob,
  prefix,
  type QueueAddress,
  type RunEntry,
  runQueue,
  type ShardQueue,
  shardJob,
} from './queue.ts';
import { openRedis } from './redis/connection.ts';
import { explainRedisReply } from './redis/errors.ts';
import type { Logger } from './telemetry/log.ts';
import { inSpan } from './telemetry/traces.ts';

const lockMs = 10_000;
const renewMs = 3_000;
const stalledIntervalMs = 5_000;
const closeMs = 2_000;
/** An outage is told when it begins, and every so often while it lasts. */
const reportMs = 30_000;
/** How long an idle worker waits before it asks again: the longer, the longer it was idle. */
const idleMs = { least: 50, most: 250 };
/** How long a worker that the store does not answer leaves shards to others. */
const restMs = { least: 1_000, most: 30_000 };

/** Thrown by a handler whose worker cannot do this shard: it goes back for one that can. */
export class NotForThisWorker extends Error {
  override name = 'NotForThisWorker';
}

/** Why a shard of a worker that stops was dropped. */
class HandedBack extends Error {
  override name = 'HandedBack';
}

export interface TakenShard {
  run: string;
  shard: number;
  /** It came back from a worker that died with it, and may hold what killed that worker. */
  suspect: boolean;
  lease: Lease;
}

export interface ConsumerHandlers {
  /** Whether this worker can do a run's shards. */
  fits(run: string, entry: RunEntry): boolean;
  onShard(taken: TakenShard): Promise<void>;
  /** May go on to index what is finished: it ends early where the lease does. */
  onFinalize(run: string, lease: Lease): Promise<void>;
  /** There was no shard to take; `isOpen`: of a run that is open and fits. */
  onNoShard?(isOpen: boolean): void;
  /** A shard that was taken was not done here. */
  onLeft?(how: ShardLeft): void;
}

/** failed: an attempt of it is lost. handed back: it waits again as it was. lost: it was another worker's by then. */
export type ShardLeft = 'failed' | 'handed back' | 'lost';

export interface ConsumerVitals {
  /** Since Redis last answered anything, ms; null before it first did. */
  redisSeenMs: number | null;
  /** A finalize job is none. */
  shardsInFlight: number;
}

export interface Consumer {
  /**
   * Stops taking shards; resolves when those in flight have ended, or were handed back after `graceMs`: to how many
   * were. May be called again with less grace.
   */
  close(graceMs: number): Promise<number>;
  /** While shards are taken, or in flight, Redis is asked every few seconds at least. */
  vitals(): ConsumerVitals;
}

interface Taken {
  job: Job;
  token: string;
  lease: HeldLease;
}

/** Takes shards, `concurrency` at a time, until closed. */
export function consumeShards(
  { redisUrl, name }: QueueAddress,
  options: { concurrency: number; queue: ShardQueue; log: Logger; handlers: ConsumerHandlers },
): Consumer {
  const { concurrency, queue, log, handlers } = options;
  const redis = openRedis(redisUrl);
  const members = new Map<string, Worker>();
  const inFlight = new Map<HeldLease, Promise<void>>();
  let shardsInFlight = 0;
  let redisSeenAt: number | undefined;
  const stopped = new AbortController();
  let lastRun = '';
  let isAnyOpen = false;
  let restUntil = 0;
  let restsInARow = 0;
  let reported = { message: '', at: 0 };
  let handedBack = 0;
  let ended = Promise.withResolvers<void>();

  const loop = takeShards();

  async function takeShards(): Promise<void> {
    for (let waitMs = idleMs.least; !stopped.signal.aborted; ) {
      if (inFlight.size >= concurrency) {
        await Promise.race(inFlight.values());
        continue;
      }
      const taken = await takeNext().catch(report);
      if (taken) {
        waitMs = idleMs.least;
        inFlight.set(
          taken.lease,
          work(taken).finally(() => {
            inFlight.delete(taken.lease);
            ended.resolve();
          }),
        );
      } else {
        handlers.onNoShard?.(isAnyOpen);
        // A shard of ours that ends may have put the run's finalize job into the queue.
        ended = Promise.withResolvers();
        const idle = sleep(waitMs, undefined, { signal: stopped.signal }).catch(() => undefined);
        await Promise.race([idle, ended.promise]);
        waitMs = Math.min(2 * waitMs, idleMs.most);
      }
    }
  }

  /** One shard of the next run in turn that has one. */
  async function takeNext(): Promise<Taken | undefined> {
    const runs = await seen(queue.runs());
    for (const [run, member] of members) {
      if (runs.has(run)) continue;
      members.delete(run);
      void member.close();
    }
    const open = [...runs]
      .filter(([run, entry]) => entry.state === 'open' && handlers.fits(run, entry))
      .map(([run]) => run)
      .sort();
    isAnyOpen = open.length > 0;
    if (performance.now() < restUntil) return undefined;
    const next = Math.max(
      0,
      open.findIndex((run) => run > lastRun),
    );
    for (const run of [...open.slice(next), ...open.slice(0, next)]) {
      if (stopped.signal.aborted) return undefined;
      const token = randomUUID();
      let askedAt = performance.now();
      const job = await seen(memberOf(run).getNextJob(token, { block: false }));
      if (!job) continue;
      if (performance.now() - askedAt > renewMs) {
        // Redis was away meanwhile: the lock is younger than a lease from back then, which may be over already.
        askedAt = performance.now();
        if (!(await seen(job.extendLock(token, lockMs)))) continue;
      }
      lastRun = run;
      return { job, token, lease: openLease(lockMs, askedAt) };
    }
    return undefined;
  }

  function memberOf(run: string): Worker {
    let member = members.get(run);
    if (!member) {
      member = new Worker(runQueue(name, run), null, {
        connection: redis,
        prefix,
        autorun: false,
        lockDuration: lockMs,
        stalledInterval: stalledIntervalMs,
        // A shard may meet many dying workers; only its own failures end it.
        maxStalledCount: 1_000_000,
        // No telemetry: every look at an empty queue would be a span. A shard's own span is made where it is handled.
      });
      member.on('error', report);
      member.on('stalled', (id) => {
        const shard = Number(id.slice(run.length + 1));
        log.warn({ run, ...(Number.isInteger(shard) && { shard }) }, 'shard came back from a lost worker');
      });
      member.startStalledCheckTimer().catch(report);
      members.set(run, member);
    }
    return member;
  }

  /** An answer of Redis; that it came is noted. */
  async function seen<T>(answer: Promise<T>): Promise<T> {
    const value = await answer;
    redisSeenAt = performance.now();
    return value;
  }

  async function work({ job, token, lease }: Taken): Promise<void> {
    const renewal = setInterval(() => {
      const sentAt = performance.now();
      seen(job.extendLock(token, lockMs)).then(
        (held) => (held ? lease.renewed(sentAt) : lease.end(new LeaseLost('the lock is gone'))),
        report, // it is asked again, and the lease's own clock goes on
      );
    }, renewMs);
    try {
      await handle(job, lease).then(
        () => complete(job, token),
        (error: unknown) => giveUp(job, token, lease.signal.aborted ? lease.signal.reason : error),
      );
    } catch (error) {
      // Redis has not heard what became of it: the lock is over, or will be, or the job is gone.
      const { reason } = lease.signal;
      if (reason instanceof LeaseLost) await giveUp(job, token, reason);
      else report(error);
    } finally {
      clearInterval(renewal);
      lease.close();
    }
  }

  /** Not checked for the lease: what is done is done, and Redis refuses who has lost the lock. */
  async function complete(job: Job, token: string): Promise<void> {
    restsInARow = 0;
    // The job goes with its run, not before: else nobody would close it where we died in between.
    if (job.name === 'finalize') await queue.closeRun(finalizeJob.parse(job.data).run);
    else await job.moveToCompleted(undefined, token, false);
  }

  async function handle(job: Job, lease: Lease): Promise<void> {
    const parent = job.opts.telemetry?.metadata;
    if (job.name === 'finalize') {
      const { run } = finalizeJob.parse(job.data);
      return inSpan('finalize', { parent, attributes: { run } }, () => handlers.onFinalize(run, lease));
    }
    const { run, shard } = shardJob.parse(job.data);
    const suspect = job.stalledCounter > 0;
    const attributes = { run, shard, suspect, attempt: job.attemptsMade + 1 };
    shardsInFlight += 1;
    try {
      return await inSpan('shard', { parent, attributes }, () =>
        handlers.onShard({ run, shard, lease, suspect }),
      );
    } finally {
      shardsInFlight -= 1;
    }
  }

  async function giveUp(job: Job, token: string, error: unknown): Promise<void> {
    const { run, shard } = shardJob.partial({ shard: true }).parse(job.data);
    const facts = { run, shard, error: messageOf(error) };
    if (error instanceof LeaseLost) {
      log.warn(facts, 'lease lost');
    } else if (error instanceof HandedBack || error instanceof NotForThisWorker) {
      await job.moveToWait(token);
      log.info(facts, 'shard handed back');
    } else if (error instanceof OutOfReach) {
      const longest = Math.min(restMs.least * 2 ** restsInARow++, restMs.most);
      restUntil = performance.now() + longest * (0.5 + Math.random() / 2);
      await job.moveToWait(token);
      log.warn(facts, 'shard put off');
    } else if (error instanceof RunBlocked) {
      await queue.setState(run, 'blocked', facts.error);
      await job.moveToWait(token);
      log.error(facts, 'run blocked');
    } else {
      const attempt = job.attemptsMade + 1;
      const isLast = attempt >= (job.opts.attempts ?? 1);
      // Recorded first: the job leaves Redis with its last attempt.
      if (isLast) await queue.recordFailure(run, String(shard ?? 'finalize'), facts.error);
      await job.moveToFailed(error instanceof Error ? error : new Error(facts.error), token, false);
      log[isLast ? 'error' : 'warn']({ ...facts, attempt }, 'shard failed');
    }
    // Once, as it ended: Redis has taken it.
    if (shard !== undefined) handlers.onLeft?.(howLeft(error));
  }

  function report(error: unknown): undefined {
    const message = messageOf(explainRedisReply(error, redisUrl));
    if (message === reported.message && performance.now() - reported.at < reportMs) return;
    reported = { message, at: performance.now() };
    log.warn({ error: message }, 'queue error');
  }

  return {
    vitals: () => ({
      redisSeenMs: redisSeenAt === undefined ? null : performance.now() - redisSeenAt,
      shardsInFlight,
    }),
    async close(graceMs) {
      stopped.abort();
      const late = setTimeout(() => {
        handedBack = inFlight.size;
        for (const lease of inFlight.keys()) lease.end(new HandedBack('the worker stops'));
      }, graceMs);
      // A Redis that is gone is no reason to stay, neither in the loop nor in BullMQ.
      const patience = (): Promise<void> => sleep(closeMs, undefined, { ref: false });
      // First the loop, which may be about to take a shard: that one has the grace period too.
      await Promise.race([loop, patience()]);
      await Promise.all(inFlight.values());
      clearTimeout(late);
      const closed = Promise.allSettled([...members.values()].map((member) => member.close()));
      await Promise.race([closed, patience()]);
      redis.disconnect();
      return handedBack;
    },
  };
}

function howLeft(error: unknown): ShardLeft {
  if (error instanceof LeaseLost) return 'lost';
  const isReturned = [HandedBack, NotForThisWorker, OutOfReach, RunBlocked].some(
    (Kind) => error instanceof Kind,
  );
  return isReturned ? 'handed back' : 'failed';
}
