/** A process that owns a private Redis, says its pid, and waits to be killed. */
import { startPrivateRedis } from '../../src/redis-server.ts';

const { pid } = await startPrivateRedis();
process.send?.({ pid });
setInterval(() => undefined, 1_000);
