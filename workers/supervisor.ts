/** Keeps a worker process running: starts it, starts it again when it crashes, passes on what it logs, ends it. */
import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../src/log.ts';
import { addMeasures, type Measures, noMeasures } from '../src/measures.ts';
import type { WorkerReport } from '../src/worker-reports.ts';
import { entryOf, errorOf } from './thread.ts';
import type { WorkerOptions } from './worker.ts';

export interface Supervisor {
  /** Resolves when the worker is ready for the first time. */
  ready: Promise<{ device: string }>;
  /** Resolves after `stop`; rejects when the worker cannot go on: ConfigError, or it crashed too often. */
  ended: Promise<void>;
  /** What the worker has done, by its processes so far. */
  measures(): Measures;
  /** Drains. The second call hands the shards in flight back at once, the third ends the process. */
  stop(): void;
}

/** A worker that crashes this often without a shard done in between gives up: something is wrong that no restart cures. */
const maxCrashes = 5;
const noStore = 'store-unreachable';
/**
 * How long after a crash the next process decodes in sandboxes. A picture that kills a decoder seldom comes alone, and each
 * would cost a start and the shards in flight.
 */
const cautiousMs = 600_000;

/**
 * glibc gives large blocks back to the kernel as soon as they are freed, and every picture's pixels are one: kept, they
 * save a fifth of decoding (5.4 → 3.9 ms a photograph). In mallopt(3)'s words; other C libraries ignore them.
 */
const mallocSettings = { MALLOC_MMAP_THRESHOLD_: '67108864', MALLOC_TRIM_THRESHOLD_: '268435456' };
/** sharp decodes, and files are read, in libuv's threads: four of them would be all that a machine of 64 cores uses. */
const libuvSettings = { UV_THREADPOOL_SIZE: String(Math.max(4, availableParallelism())) };

export function superviseWorker(
  options: Omit<WorkerOptions, 'cautiousMs'>,
  { log, writeLine }: { log: Logger; writeLine(line: string): void },
): Supervisor {
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
    for (let crashes = 0; stops === 0; ) {
      shardsDone = 0;
      const how = await runOnce(crashes > 0);
      if (stops > 0 || how === 'ended') return;
      crashes = shardsDone > 0 || how === noStore ? 1 : crashes + 1;
      if (crashes >= maxCrashes)
        throw new Error(
          `the worker crashed ${crashes} times without finishing a shard (${how}); see the log above`,
        );
      log.error({ how, crashes }, 'worker crashed; starting another');
      const pauseMs = Math.min(1_000 * 2 ** (crashes - 1), 30_000);
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }

  /** Resolves with how the process ended; rejects when it said that it cannot go on. */
  function runOnce(isCautious: boolean): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const worker = fork(entryOf('worker'), {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
      env: { ...mallocSettings, ...libuvSettings, ...process.env },
    });
    child = worker;
    if (worker.stderr) createInterface({ input: worker.stderr }).on('line', (line) => writeLine(`${line}\n`));
    worker.on('message', (message: WorkerReport) => {
      if (message.kind === 'ready') {
        wasReady = true;
        ready.resolve({ device: message.device });
      } else if (message.kind === 'shard done') {
        shardsDone += 1;
        measures = addMeasures(measures, message.shard.measures);
      } else if (message.kind !== 'fatal') return;
      // A store that was there will be there again.
      else if (message.error.code === noStore && wasReady) resolve(noStore);
      else if (message.error.code !== undefined) reject(errorOf(message.error));
      else log.error({ error: message.error.message }, 'worker failed');
    });
    worker.on('error', reject);
    worker.on('exit', (code, signal) =>
      resolve(code === 0 ? 'ended' : signal ? `signal ${signal}` : `exit code ${code}`),
    );
    worker.send({ ...options, cautiousMs: isCautious ? cautiousMs : 0 } satisfies WorkerOptions);
    return promise;
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
