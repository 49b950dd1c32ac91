/** What a Redis says of itself, for `lensmill doctor`. */
import { askRedis } from './redis-connection.ts';

export interface RedisFacts {
  version: string;
  policy: string;
  persistent: boolean;
}

/** Throws ConfigError with the codes of `explainRedisError`. */
export async function readRedisFacts(url: string): Promise<RedisFacts> {
  const info = await askRedis(url, (redis) => redis.info());
  const field = (name: string): string => new RegExp(`^${name}:(.*)\r?$`, 'm').exec(info)?.[1]?.trim() ?? '';
  return {
    version: field('redis_version'),
    policy: field('maxmemory_policy'),
    persistent: field('aof_enabled') === '1',
  };
}
