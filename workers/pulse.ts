/** A worker's sign of life, with which it also tells how it is: as long as its event loop turns, and no longer. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { ConsumerVitals } from '../src/consume.ts';
import { type Pulse, pulseMs } from '../src/telemetry/worker-reports.ts';

export interface PulseTimer {
  /** From now on pulses tell of its Redis and its shards. */
  watch(consumer: { vitals(): ConsumerVitals }): void;
  close(): void;
}

/** What is seen of the loop is sampled so often; a wait is known to the ms. */
const sampleMs = 20;

/** Does not keep the process alive. */
export function startPulse(tell: (pulse: Pulse) => void): PulseTimer {
  const delays = monitorEventLoopDelay({ resolution: sampleMs });
  delays.enable();
  let consumer: { vitals(): ConsumerVitals } | undefined;
  const timer = setInterval(() => {
    // It measures from sample to sample.
    const loopLagMs = Math.max(0, delays.max / 1e6 - sampleMs);
    delays.reset();
    const { redisSeenMs, shardsInFlight } = consumer?.vitals() ?? { redisSeenMs: null, shardsInFlight: 0 };
    tell({ loopLagMs, redisSeenMs, memoryBytes: process.memoryUsage.rss(), shardsInFlight });
  }, pulseMs);
  timer.unref();
  return {
    watch(opened) {
      consumer = opened;
    },
    close() {
      clearInterval(timer);
      delays.disable();
    },
  };
}
