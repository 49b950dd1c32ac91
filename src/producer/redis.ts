/** The Redis that a run goes through: the one of the settings, or a private one for as long. */
import { checkRedis } from '../redis/connection.ts';
import { startPrivateRedis } from '../redis/server.ts';
import type { Caller } from './caller.ts';

export interface Redis {
  url: string;
  /** Rejects with ConfigError 'no-redis' when a private one cannot be kept alive. */
  lost: Promise<never>;
  close(): Promise<void>;
}

/** The Redis of the settings, or a private one. Throws ConfigError. */
export async function openRedis({ settings, log }: Pick<Caller, 'settings' | 'log'>): Promise<Redis> {
  const { promise: lost, reject } = Promise.withResolvers<never>();
  lost.catch(() => undefined); // whoever drives a run waits for it
  if (settings.redis === undefined) {
    const server = await startPrivateRedis({
      onRestart: () => log.warn('the private Redis died and was started again from its files'),
      onLost: reject,
    });
    return { url: server.url, lost, close: server.close };
  }
  await checkRedis(settings.redis);
  return { url: settings.redis, lost, close: async () => undefined };
}

/** Throws what `openRedis` would, for whoever is about to list a source, which may take hours. */
export async function requireRedis(caller: Pick<Caller, 'settings' | 'log'>): Promise<void> {
  const redis = await openRedis(caller);
  await redis.close();
}
