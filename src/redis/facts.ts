/** What a Redis says of itself, for `lensmill doctor`. What an ACL forbids to ask is `undefined`. */
import { messageOf } from '../errors.ts';
import { askRedis, type RedisClient } from './connection.ts';

export interface RedisFacts {
  /** What of it was not to be seen: 'INFO', 'CONFIG GET save'. */
  unseen: string[];
  version?: string;
  role?: 'primary' | 'replica';
  /** Whether it is a node of a Cluster. */
  isCluster?: boolean;
  /** maxmemory-policy. */
  policy?: string;
  /** Bytes; 0: as much as the machine has. */
  maxMemory?: number;
  usedMemory?: number;
  appendsOnly?: boolean;
  /** Whether it writes snapshots. */
  snapshots?: boolean;
  /** Whether its last write to its disk failed. */
  isDiskFailing?: boolean;
  /** Of an empty command, there and back: the median of five. */
  roundTripMs: number;
  /** How far its clock is ahead of this machine's, give or take the round trip. */
  clockAheadMs: number;
}

/** Throws as `askRedis`. */
export async function readRedisFacts(url: string): Promise<RedisFacts> {
  return askRedis(url, async (redis) => {
    const unseen: string[] = [];
    const unlessForbidden = async <T>(what: string, asked: Promise<T>): Promise<T | undefined> =>
      asked.catch((error) => {
        if (!/\bNOPERM\b/.test(messageOf(error))) throw error;
        unseen.push(what);
        return undefined;
      });
    const info = await unlessForbidden('INFO', redis.info());
    const save = await unlessForbidden('CONFIG GET save', redis.config('GET', 'save'));
    return {
      unseen,
      ...(info !== undefined && readInfo(info)),
      ...(save !== undefined && { snapshots: Array.isArray(save) && save[1] !== '' }),
      ...(await compareClocks(redis)),
    };
  });
}

/** https://redis.io/docs/latest/commands/info/ */
function readInfo(info: string): Partial<RedisFacts> {
  const fields = new Map(info.split('\r\n').map((line) => line.split(':', 2) as [string, string]));
  const field = (name: string): string => fields.get(name) ?? '';
  const failed = ['aof_last_write_status', 'rdb_last_bgsave_status'].some((name) => field(name) === 'err');
  return {
    version: field('redis_version'),
    role: field('role') === 'slave' ? 'replica' : 'primary',
    isCluster: field('cluster_enabled') === '1',
    policy: field('maxmemory_policy'),
    maxMemory: Number(field('maxmemory')),
    usedMemory: Number(field('used_memory')),
    appendsOnly: field('aof_enabled') === '1',
    isDiskFailing: failed,
  };
}

async function compareClocks(redis: RedisClient): Promise<Pick<RedisFacts, 'roundTripMs' | 'clockAheadMs'>> {
  const looks: { tookMs: number; aheadMs: number }[] = [];
  for (let look = 0; look < 5; look++) {
    const [sentAt, startedAt] = [Date.now(), performance.now()];
    const [seconds, micros] = await redis.time();
    const tookMs = performance.now() - startedAt;
    looks.push({ tookMs, aheadMs: Number(seconds) * 1_000 + Number(micros) / 1_000 - (sentAt + tookMs / 2) });
  }
  looks.sort((a, b) => a.tookMs - b.tookMs);
  return { roundTripMs: looks[2]?.tookMs ?? 0, clockAheadMs: looks[0]?.aheadMs ?? 0 };
}
