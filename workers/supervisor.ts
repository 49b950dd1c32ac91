/**
 * Keeps a worker process running.
 *
 *   1. It is started, and tells what it does (src/telemetry/worker-reports.ts); what it logs is passed on.
 *   2. It crashes, or its store is away: another one is started, after a pause that grows while no shard is done. Crashed too often in
 *      a row, it is given up, and so it is at once where the operator must change something.
 *   3. It has more memory than it may: it finishes the shards that it has, however long they take, and another one is started.
 *   4. It gives no sign of life for minutes: it is killed, and that is a crash.
 *   5. Told to stop, it drains; see `stop`.
 */
import type { ChildProcess } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConfigError, messageOf } from '../src/errors.ts';
import type { Logger } from '../src/telemetry/log.ts';
import { addMeasures, type Measures, noMeasures } from '../src/telemetry/measures.ts';
import type { RestartCause } from '../src/telemetry/metrics.ts';
import type { WorkerReport } from '../src/telemetry/worker-reports.ts';
import { errorOf, forkEntry } from './thread.ts';
import type { WorkerOptions, WorkerOrder } from './worker.ts';

export interface Supervisor {
  /** Resolves when the worker is ready for the first time. */
  ready: Promise<{ device: string }>;
  /** Resolves after `stop`; rejects when the worker cannot go on: ConfigError, 'worker-crashes' where it crashed too often. */
  ended: Promise<void>;
  /** What the worker has done, by its processes so far. */
  measures(): Measures;
  /** Drains. The second call hands the shards in flight back at once, the third ends the process. */
  stop(): void;
}

export interface SupervisorOptions {
  log: Logger;
  /** For what the worker logs. */
  writeLine(line: string): void;
  /** Of the process with its threads, when it is replaced. */
  maxMemoryBytes?: number | undefined;
  /** Without a sign of life, after which a process is killed; five minutes, where it is left out. */
  longestSilenceSeconds?: number | undefined;
  /** A process was started. */
  onStart?(pid: number | undefined): void;
  onReport?(report: WorkerReport): void;
  /** A process has ended, and another is started, now or after a pause. */
  onRestart?(cause: RestartCause): void;
}

/** A worker that crashes this often without a shard done in between gives up: something is wrong that no restart cures. */
const maxCrashes = 5;
const pauseMs = { first: 1_000, longest: 30_000 };
const noStore = 'store-unreachable';
/**
 * How long after a crash the next process decodes in sandboxes. A picture that kills a decoder seldom comes alone, and each
 * would cost a start and the shards in flight.
 */
const cautiousMs = 600_000;
/** Building a model's graph may hold the event loop for many seconds on a busy machine. */
const usualSilenceSeconds = 300;
/** So many shards are taken with the model: who has too much memory after them had it from the start. */
const firstShards = 3;

/**
 * glibc gives large blocks back to the kernel as soon as they are freed, and every picture's pixels are one: kept, they
 * save a fifth of decoding (5.4 → 3.9 ms a photograph). In mallopt(3)'s words; other C libraries ignore them.
 */
const mallocSettings = { MALLOC_MMAP_THRESHOLD_: '67108864', MALLOC_TRIM_THRESHOLD_: '268435456' };
const leastLibuvThreads = 4;

/** How a process ended that another one may follow. */
interface Ending {
  cause: RestartCause | undefined;
  /** For people: 'signal SIGSEGV', 'exit code 1'. */
  how: string;
}

/** `cores`: those that the worker may count on; all, where it is left out. */
export function superviseWorker(
  options: Omit<WorkerOptions, 'cautiousMs' | 'cores'> & { cores?: number },
  {
    log,
    writeLine,
    maxMemoryBytes,
    longestSilenceSeconds = usualSilenceSeconds,
    onStart,
    onReport,
    onRestart,
  }: SupervisorOptions,
): Supervisor {
  const { cores = availableParallelism(), settings } = options;
  const ready = Promise.withResolvers<{ device: string }>();
  // Whoever does not wait for `ready` waits for `ended`, which rejects for the same reason.
  ready.promise.catch(() => undefined);
  let child: ChildProcess | undefined;
  const stopping = new AbortController();
  let stops = 0;
  let wasReady = false;
  let shardsDone = 0;
  let measures: Measures = noMeasures;

  async function supervise(): Promise<void> {
    let failures = 0;
    let crashes = 0;
    for (let isCautious = false; stops === 0; ) {
      shardsDone = 0;
      const { cause, how } = await runOnce(isCautious);
      if (stops > 0 || cause === undefined) return;
      if (shardsDone > 0) [failures, crashes] = [0, 0];
      if (cause !== 'memory') failures += 1;
      if (cause === 'crash') crashes += 1;
      if (crashes >= maxCrashes) throw crashedTooOften(settings.device, how);
      onRestart?.(cause);
      isCautious = cause === 'crash';
      if (cause === 'memory') continue;
      const longest = Math.min(pauseMs.first * 2 ** (failures - 1), pauseMs.longest);
      // Several that lost the same thing do not come back to it all at once.
      const ms = Math.round(longest * (0.5 + Math.random() / 2));
      if (cause === 'crash') log.error({ how, crashes, pauseMs: ms }, 'worker crashed; starting another');
      else log.warn({ pauseMs: ms }, 'the store is away; starting another worker');
      await sleep(ms, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }

  /** Resolves when the process is gone; rejects then, if it said that it cannot go on. */
  function runOnce(isCautious: boolean): Promise<Ending> {
    const { promise, resolve, reject } = Promise.withResolvers<Ending>();
    // sharp decodes, and files are read, in libuv's threads: four of them would be all that a machine of 64 cores uses.
    const libuvSettings = { UV_THREADPOOL_SIZE: String(Math.max(leastLibuvThreads, cores)) };
    const worker = forkEntry('worker', {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
      env: { ...mallocSettings, ...libuvSettings, ...process.env },
    });
    child = worker;
    onStart?.(worker.pid);
    let fatal: Error | undefined;
    let isStoreAway = false;
    let isFinishing = false;
    let silentSeconds = 0;
    // Seconds of ours, not of a clock: after a Ctrl-Z both have been silent.
    const watch = setInterval(() => {
      silentSeconds += 1;
      if (silentSeconds !== longestSilenceSeconds) return;
      log.error({ silentSeconds }, 'the worker hangs; it is ended');
      worker.kill('SIGKILL');
    }, 1_000);
    watch.unref();

    if (worker.stderr) createInterface({ input: worker.stderr }).on('line', (line) => writeLine(`${line}\n`));
    worker.on('message', (report: WorkerReport) => {
      silentSeconds = 0;
      if (report.kind === 'ready') {
        wasReady = true;
        ready.resolve({ device: report.device });
      } else if (report.kind === 'shard done') {
        shardsDone += 1;
        measures = addMeasures(measures, report.shard.measures);
      } else if (report.kind === 'pulse') {
        if (!isFinishing && isTooLarge(report.pulse.memoryBytes)) {
          isFinishing = true;
          order({ kind: 'finish' });
        }
      } else if (report.kind === 'fatal') {
        // A store that was there will be there again.
        if (report.error.code === noStore && wasReady) isStoreAway = true;
        else if (report.error.code !== undefined) fatal = errorOf(report.error);
        else log.error({ error: report.error.message }, 'worker failed');
      }
      onReport?.(report);
    });
    worker.on('error', (error) => {
      // It could not be started; else 'exit' follows.
      if (worker.pid === undefined) resolve({ how: messageOf(error), cause: 'crash' });
    });
    worker.on('exit', (code, signal) => {
      clearInterval(watch);
      const how = signal ? `signal ${signal}` : `exit code ${code}`;
      const end = (): void => {
        if (fatal) reject(fatal);
        else if (isStoreAway) resolve({ how, cause: 'store' });
        else if (code !== 0) resolve({ how, cause: 'crash' });
        else resolve({ how, cause: isFinishing ? 'memory' : undefined });
      };
      // Its last words may still be on the way.
      if (worker.connected) worker.once('disconnect', end);
      else end();
    });
    order({ kind: 'work', options: { ...options, cores, cautiousMs: isCautious ? cautiousMs : 0 } });
    return promise;

    function order(words: WorkerOrder): void {
      // That it did not arrive, 'exit' tells.
      if (worker.connected) worker.send(words, () => undefined);
    }
  }

  /** A process that has not done a shard yet is left alone: else each would end as it has its model. */
  function isTooLarge(memoryBytes: number): boolean {
    if (maxMemoryBytes === undefined || memoryBytes <= maxMemoryBytes) return false;
    if (shardsDone === 0 || stops > 0) return false;
    const facts = { memoryBytes, maxMemoryBytes, shardsDone };
    if (shardsDone > firstShards)
      log.info(facts, 'worker above --max-memory; it finishes, and another follows');
    else
      log.warn(
        facts,
        'worker above --max-memory as soon as it has its model: raise it, or every few shards pay a start',
      );
    return true;
  }

  const ended = supervise();
  ended.then(() => ready.reject(new Error('the worker was stopped')), ready.reject);
  return {
    ready: ready.promise,
    ended,
    measures: () => measures,
    stop() {
      child?.kill(stops < 2 ? 'SIGTERM' : 'SIGKILL');
      stops += 1;
      stopping.abort();
    },
  };
}

function crashedTooOften(device: string, how: string): ConfigError {
  return new ConfigError(
    'worker-crashes',
    `the worker on ${device} crashed ${maxCrashes} times in a row without finishing a shard (${how}): the log above has its last words, and \`lensmill doctor --device ${device}\` tries that device`,
  );
}
