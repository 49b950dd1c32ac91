/**
 * A run's counters in Redis: which shards are done, what workers measured while they did them, and how fast that goes now.
 * All in one bitmap and one hash, whose size does not grow with the workers; a shard costs one command.
 */

import type { RedisClient } from '../redis/connection.ts';
import { type Measures, mapMeasures } from './measures.ts';

export interface CounterKeys {
  /** A bit a shard. */
  done: string;
  counts: string;
}

export interface ShardCounts {
  items: number;
  failed: number;
  /** What the worker that did it has done since it last told; absent where somebody only found its part. */
  measures?: Measures;
}

/** Redis's own account of a run; the store has the last word. */
export interface RunCounts {
  shards: number;
  items: number;
  failed: number;
  measures: Measures;
  /** Absent until a shard was done since the run was opened. */
  pace?: Pace;
}

export interface Pace {
  /** Of all workers, over some five minutes, or since the run was opened. */
  imagesPerSecond: number;
  sinceLastShardMs: number;
}

/** A shard weighs e times less in the pace each time that this passes. */
const paceMs = 300_000;

/**
 * Counts a shard once, however often it is reported; returns how many shards of the run are done. The clock is Redis's own.
 * KEYS: bitmap of done shards, counters. ARGV: shard, items, failed, its images, for how many ms its worker worked, then names
 * and amounts to be added.
 */
const markDoneScript = `
if redis.call('SETBIT', KEYS[1], ARGV[1], 1) == 1 then
  return tonumber(redis.call('HGET', KEYS[2], 'shards') or '0')
end
redis.call('HINCRBY', KEYS[2], 'items', ARGV[2])
redis.call('HINCRBY', KEYS[2], 'failed', ARGV[3])
local images = tonumber(ARGV[4])
if images > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local pace = redis.call('HMGET', KEYS[2], 'paceSince', 'paceAt', 'paceImages')
  local since = pace[1] or now - ARGV[5]
  local earlier = pace[2] and pace[3] * math.exp((pace[2] - now) / ${paceMs}) or 0
  redis.call('HSET', KEYS[2], 'paceSince', since, 'paceAt', now, 'paceImages', earlier + images)
end
for at = 6, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[at], ARGV[at + 1]) end
return redis.call('HINCRBY', KEYS[2], 'shards', 1)
`;

export async function markDone(
  redis: RedisClient,
  { done, counts }: CounterKeys,
  shard: number,
  { items, failed, measures }: ShardCounts,
): Promise<number> {
  const { images = 0, holdMs = 0, embedMs = 0 } = measures ?? {};
  const amounts = Object.entries(measures ?? {}).filter(([, amount]) => amount > 0);
  const args = [shard, items, failed, images, holdMs + embedMs, ...amounts.flat()];
  return Number(await redis.eval(markDoneScript, 2, done, counts, ...args));
}

export async function readCounts(
  redis: RedisClient,
  { counts }: Pick<CounterKeys, 'counts'>,
): Promise<RunCounts> {
  const [fields, [seconds = 0, micros = 0]] = await Promise.all([redis.hgetall(counts), redis.time()]);
  const field = (name: string): number => Number(fields[name] ?? 0);
  const now = Number(seconds) * 1_000 + Number(micros) / 1_000;
  return {
    shards: field('shards'),
    items: field('items'),
    failed: field('failed'),
    measures: mapMeasures(field),
    ...(fields.paceAt !== undefined && {
      pace: paceOf(now, field('paceSince'), field('paceAt'), field('paceImages')),
    }),
  };
}

/** Before those that are done are counted anew. */
export async function forgetDone(redis: RedisClient, { done, counts }: CounterKeys): Promise<void> {
  await redis.del(done);
  await redis.hdel(counts, 'shards', 'items', 'failed');
}

/** Of what was done before, no pace follows: the run may have been paused for a day. */
export async function forgetPace(redis: RedisClient, { counts }: Pick<CounterKeys, 'counts'>): Promise<void> {
  await redis.hdel(counts, 'paceSince', 'paceAt', 'paceImages');
}

/** An average whose weights fall off exponentially; over the time since the beginning where that is less. */
function paceOf(now: number, since: number, at: number, images: number): Pace {
  const decayed = images * Math.exp((at - now) / paceMs);
  const weightMs = paceMs * (1 - Math.exp(Math.min(-1, since - now) / paceMs));
  return { imagesPerSecond: decayed / (weightMs / 1_000), sinceLastShardMs: Math.max(0, now - at) };
}
