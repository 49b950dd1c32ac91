/** What `lensmill serve` tells Prometheus: of its output's queue, which is looked at when somebody asks, and of its requests. */
import { messageOf } from '../errors.ts';
import { openQueue, type QueueAddress } from '../queue.ts';
import { type Backlog, readBacklog } from '../telemetry/backlog.ts';
import type { Logger } from '../telemetry/log.ts';
import { serveTable } from '../telemetry/metric-table.ts';
import { forget, type MetricsText, openMeters } from '../telemetry/metrics.ts';
import { inTime } from './in-time.ts';
import type { Answered } from './server.ts';

export interface ServeMetrics {
  noteAnswered(answered: Answered): void;
  /** As GET /metrics answers. Where Redis does not answer in two seconds, there is nothing of the queue in it. */
  text(): Promise<MetricsText>;
  close(): Promise<void>;
}

/** However many ask, Redis is looked at no more often. */
const freshMs = 1_000;
const patienceMs = 2_000;

/** `address`: where runs under way are looked up, if anywhere. */
export function openServeMetrics(address: QueueAddress | undefined, { log }: { log: Logger }): ServeMetrics {
  const { meters, text } = openMeters(serveTable);
  const queue = address && openQueue(address);
  let look: Promise<Backlog> | undefined;
  let isLooking = false;
  let lookedAt = Number.NEGATIVE_INFINITY;
  let isAway = false;

  /** One that Redis has not answered yet is waited for by all, and no other one is sent after it. */
  function latest(from: NonNullable<typeof queue>): Promise<Backlog> {
    if (!look || (!isLooking && performance.now() - lookedAt >= freshMs)) {
      isLooking = true;
      look = readBacklog(from).finally(() => {
        isLooking = false;
        lookedAt = performance.now();
      });
      look.catch(() => {
        look = undefined;
      });
    }
    return look;
  }

  async function backlogInTime(from: NonNullable<typeof queue>): Promise<Backlog | undefined> {
    try {
      const told = await inTime(latest(from), patienceMs);
      if (!told) throw new Error(`no answer in ${patienceMs / 1_000} s`);
      isAway = false;
      return told;
    } catch (error) {
      meters.errors.inc();
      if (!isAway)
        log.warn({ error: messageOf(error) }, 'Redis does not answer; nothing is told of the queue');
      isAway = true;
      return undefined;
    }
  }

  /** What was true a while ago is not shown as if it still were. */
  function show(backlog: Backlog | undefined): void {
    const { jobs, runs, shards, images, pool, drain } = meters;
    for (const gauge of [jobs, runs, shards, images, pool, meters.backlog, drain]) forget(gauge);
    if (!backlog) return;
    for (const [state, count] of Object.entries(backlog.jobs)) jobs.set({ state }, count);
    for (const [state, count] of Object.entries(backlog.runs)) runs.set({ state }, count);
    for (const [run, counts] of backlog.shards)
      for (const [state, count] of Object.entries(counts)) shards.set({ run, state }, count);
    images.set(backlog.images);
    pool.set(backlog.imagesPerSecond);
    meters.backlog.set(backlog.workerSeconds);
    if (backlog.drainSeconds !== undefined) drain.set(backlog.drainSeconds);
  }

  return {
    noteAnswered({ method, route = 'none', status, ms, isStream }) {
      if (!isStream) meters.requests.observe({ method, route, status }, ms / 1_000);
    },
    async text() {
      if (queue) show(await backlogInTime(queue));
      return text();
    },
    close: async () => queue?.close(),
  };
}
