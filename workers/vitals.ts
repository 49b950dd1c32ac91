/** Whether a pool is alive and ready, as its workers' pulses tell: what /healthz and /readyz answer (health.ts). */
import type { Health } from './health.ts';
import type { Pool, PoolWorker } from './pool.ts';

/** How long what may be silent, ms. */
export interface Patience {
  /** An event loop. A worker's pulse comes every second; after 10 s of silence its leases are lost. */
  loopMs: number;
  /** The event loop of a process that starts: on a busy machine that takes a while. */
  startMs: number;
  /** Redis. A worker that is well hears of it every three seconds. */
  redisMs: number;
}

const usual: Patience = { loopMs: 20_000, startMs: 120_000, redisMs: 15_000 };

type Vitals = Pick<Health, 'ailments' | 'obstacles' | 'describe'>;

export function vitalsOf(pool: Pool, patience = usual): Vitals {
  return {
    /** A worker whose process is gone is its supervisor's business; one that hangs may take us along. */
    ailments: () => pool.workers.flatMap((worker) => whySilent(worker, patience) ?? []),
    obstacles() {
      if (pool.isStopping) return ['draining: no shards are taken any more'];
      return pool.workers.flatMap((worker) => whyNotReady(worker, patience) ?? []);
    },
    describe: () => ({ workers: pool.workers.map(describeWorker) }),
  };
}

function whySilent({ name, phase, heardAt }: PoolWorker, { loopMs, startMs }: Patience): string | undefined {
  const silentMs = performance.now() - heardAt;
  if (phase === 'ended' || silentMs <= (phase === 'ready' ? loopMs : startMs)) return undefined;
  return `${name}: no sign of life for ${seconds(silentMs)} s`;
}

function whyNotReady(worker: PoolWorker, patience: Patience): string | undefined {
  const { name, phase, failure, process: { model, pulse } = {} } = worker;
  if (failure) return `${name}: given up (${failure.message})`;
  if (phase === 'ended') return `${name}: ended`;
  if (phase !== 'ready') return `${name}: ${phase}`;
  const silent = whySilent(worker, patience);
  if (silent !== undefined) return silent;
  const redisMs = redisSilentMs(worker);
  if (redisMs === null) return `${name}: Redis has not answered yet`;
  if (redisMs > patience.redisMs) return `${name}: Redis was last seen ${seconds(redisMs)} s ago`;
  if (!model && pulse && pulse.shardsInFlight > 0) return `${name}: loading its model`;
  return undefined;
}

function redisSilentMs({ process: { pulse } = {}, heardAt }: PoolWorker): number | null {
  if (!pulse || pulse.redisSeenMs === null) return null;
  return pulse.redisSeenMs + performance.now() - heardAt;
}

function describeWorker(worker: PoolWorker): Record<string, unknown> {
  const {
    name,
    device,
    phase,
    process: { pid, model, pulse } = {},
    failure,
    shards,
    images,
    restarts,
  } = worker;
  const redisMs = redisSilentMs(worker);
  return {
    worker: name,
    device,
    phase,
    ...(pid !== undefined && { pid }),
    ...(failure && { failure: failure.message }),
    ...(model && { model: model.ref, precision: model.precision }),
    ...(pulse && { memoryBytes: pulse.memoryBytes, shardsInFlight: pulse.shardsInFlight }),
    ...(redisMs !== null && { redisSeenSeconds: seconds(redisMs) }),
    shards,
    images,
    restarts,
  };
}

const seconds = (ms: number): number => Math.round(ms / 1_000);
