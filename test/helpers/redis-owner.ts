/** A process that owns a private Redis, says where, and waits to be killed. */
import { startPrivateRedis } from '../../src/redis/server.ts';

const { pid, url } = await startPrivateRedis();
process.send?.({ pid, url });
setInterval(() => undefined, 1_000);
