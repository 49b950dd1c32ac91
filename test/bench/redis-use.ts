/** What a Redis did, by its own account (https://redis.io/docs/latest/commands/info/). */
import type { RedisClient } from '../../src/redis/connection.ts';

export interface RedisUse {
  /** All that it executed, those inside scripts too. */
  commands: number;
  /** Scripts alone: a shard's way is mostly scripts, and each is one round trip. */
  scripts: number;
  /** In and out, of all connections. */
  bytes: number;
  cpuSeconds: number;
}

/** Since the server started; asking is not counted, but for its request. */
export async function readUse(redis: RedisClient): Promise<RedisUse> {
  const said = await redis.info('stats', 'cpu', 'commandstats');
  const field = (name: string): number => Number(new RegExp(`^${name}:(.*)\r$`, 'm').exec(said)?.[1]);
  let [commands, scripts] = [0, 0];
  for (const [, name = '', calls] of said.matchAll(/^cmdstat_(\S+?):calls=(\d+)/gm)) {
    if (name !== 'info') commands += Number(calls);
    if (name.startsWith('eval')) scripts += Number(calls);
  }
  const asked = asking.get(redis) ?? 0;
  asking.set(redis, asked + said.length);
  return {
    commands,
    scripts,
    bytes: field('total_net_input_bytes') + field('total_net_output_bytes') - asked,
    cpuSeconds: field('used_cpu_user') + field('used_cpu_sys'),
  };
}

/** Bytes of the answers that `readUse` had so far. */
const asking = new WeakMap<RedisClient, number>();

export function usedSince(before: RedisUse, after: RedisUse): RedisUse {
  return {
    commands: after.commands - before.commands,
    scripts: after.scripts - before.scripts,
    bytes: after.bytes - before.bytes,
    cpuSeconds: after.cpuSeconds - before.cpuSeconds,
  };
}

/** Bytes that all its keys take, with what the allocator keeps for them. */
export async function memoryOf(redis: RedisClient): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await redis.info('memory'))?.[1]);
}
