/** A real pool: a Redis, a store, workers started by the command line, and everything that can be done to them. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Run } from '../../src/runs/run.ts';
import { findRun, findSuccess } from '../../src/runs/run.ts';
import type { Store } from '../../src/stores/store.ts';
import { lensmill, smallModel } from '../helpers/cli.ts';
import type { Place } from './place.ts';
import { type RedisServer, startRedis } from './redis.ts';
import type { HookRule, TraceLine } from './step-hook.ts';
import { openTrace } from './trace.ts';
import { type LogLine, lastLines, startWorker, type WorkerProcess } from './worker-process.ts';

export interface PoolOptions {
  /** All that is the pool's own lies below it. */
  folder: string;
  place: Place;
  /** One that is there; else the pool starts its own. */
  redis?: RedisServer;
  /** For all processes of the pool. */
  rules?: readonly HookRule[];
  /** More modules for `--import`, as paths. */
  imports?: readonly string[];
  env?: Record<string, string>;
  /** Of its runs; a small ResNet by default. */
  model?: string;
  batch?: number;
  readTimeout?: string;
}

export interface Command {
  code: number | undefined;
  stdout: string;
  stderr: string;
}

export interface Pool {
  /** Of the trace and the markers. */
  folder: string;
  redis: RedisServer;
  /** As the auditor sees it: past every proxy. */
  store: Store;
  place: Place;
  /** Every one that was ever started. */
  workers: WorkerProcess[];
  work(options?: WorkOptions): WorkerProcess;
  /** Keeps `count` workers running, as systemd would: one that ends is followed by another. */
  keepWorking(count: number, options?: WorkOptions): Crew;
  /** Any command of lensmill on this output. Rejects only when it takes longer than `timeoutMs`; SIGKILL when `killed` aborts. */
  cli(
    args: readonly string[],
    options?: CliOptions & { env?: Record<string, string>; timeoutMs?: number },
  ): Promise<Command>;
  /** `flags` are further ones of the command's. */
  enqueue(
    source: string,
    run: string,
    options?: CliOptions & { shardSize?: number; flags?: readonly string[] },
  ): Promise<Command>;
  resume(run: string): Promise<Command>;
  /** Rejects with the last words of every worker when the run takes longer. */
  untilDone(run: string, timeoutMs: number): Promise<void>;
  untilParts(run: string, count: number, timeoutMs: number): Promise<void>;
  plan(run: string): Promise<Run>;
  /** Steps that processes passed and model runs that they made, in order. */
  trace(): TraceLine[];
  logLines(msg: string, run?: string): LogLine[];
  close(): Promise<void>;
}

export interface CliOptions {
  killed?: AbortSignal | undefined;
  /** Words that run it on another host. */
  prefix?: readonly string[] | undefined;
}

export interface WorkOptions {
  env?: Record<string, string>;
  prefix?: readonly string[];
  args?: readonly string[];
}

export interface Crew {
  /** Those that run now. */
  members(): WorkerProcess[];
  /** How many were started beyond the first. */
  restarts(): number;
  /** No new ones from now on. */
  dismiss(): void;
}

const pollMs = 150;
const commandMs = 180_000;

export async function openPool(options: PoolOptions): Promise<Pool> {
  const { folder, place, rules = [], imports = [], batch = 8, readTimeout = '20s' } = options;
  mkdirSync(folder, { recursive: true });
  const redis = options.redis ?? (await startRedis({ folder: join(folder, 'redis') }));
  const store = place.openStore();
  await store.probe();

  const modules = [join(import.meta.dirname, 'step-hook.ts'), ...imports];
  const hooks = {
    LENSMILL_CHAOS_ORDERS: JSON.stringify({ folder, rules }),
    NODE_OPTIONS: modules.map((path) => `--import=${path}`).join(' '),
  };
  const env = { ...place.env, ...hooks, ...options.env };
  const output = ['--output', place.output, '--redis', redis.url];
  const onWorker = ['--batch', String(batch), '--threads', '1', '--sessions', '1', '--lanes', '1'];
  const onRun = ['--model', options.model ?? smallModel];
  const workers: WorkerProcess[] = [];
  let isOpen = true;

  const pool: Pool = {
    folder,
    redis,
    store,
    place,
    workers,
    work({ env: more = {}, prefix = [], args = [] } = {}) {
      const worker = startWorker({
        name: `worker-${workers.length}`,
        args: [...output, ...onWorker, '--read-timeout', readTimeout, ...args],
        env: { ...cleanEnv(), ...env, ...more },
        prefix,
      });
      workers.push(worker);
      return worker;
    },
    keepWorking(count, how) {
      const places = Array.from({ length: count }, () => pool.work(how));
      let restarts = 0;
      let isDismissed = false;
      const follow = (at: number): void => {
        void places[at]?.ended.then(async () => {
          await sleep(200);
          if (isDismissed || !isOpen) return;
          restarts += 1;
          places[at] = pool.work(how);
          follow(at);
        });
      };
      for (let at = 0; at < count; at++) follow(at);
      return {
        members: () => places.filter((worker) => worker.isRunning()),
        restarts: () => restarts,
        dismiss() {
          isDismissed = true;
        },
      };
    },
    async cli(args, { env: more = {}, timeoutMs = commandMs, killed, prefix } = {}) {
      const command = lensmill([...args, '--output', place.output], { ...env, ...more }, prefix);
      killed?.addEventListener('abort', () => command.kill('SIGKILL'));
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => {
        command.kill('SIGKILL');
        late.reject(new Error(`lensmill ${args[0]} ran for more than ${timeoutMs / 1000} s: it hangs`));
      }, timeoutMs);
      try {
        const { exitCode, stdout, stderr } = await Promise.race([command, late.promise]);
        return { code: exitCode, stdout: String(stdout), stderr: String(stderr) };
      } finally {
        clearTimeout(timer);
      }
    },
    enqueue(source, run, { shardSize = 16, flags = [], ...how } = {}) {
      const size = ['--shard-size', String(shardSize)];
      const args = ['enqueue', source, '--run', run, '--redis', redis.url, ...onRun, ...size, ...flags];
      return pool.cli(args, how);
    },
    resume: (run) =>
      pool.cli(['resume', run, '--redis', redis.url, ...onWorker, '--read-timeout', readTimeout, '--json']),
    async untilDone(run, timeoutMs) {
      await until(async () => (await findSuccess(store, run)) !== undefined, timeoutMs, `run ${run} is done`);
    },
    async untilParts(run, count, timeoutMs) {
      const what = `run ${run} has ${count} parts`;
      await until(async () => (await countParts(store, run)) >= count, timeoutMs, what);
    },
    async plan(run) {
      const found = await findRun(store, run);
      if (!found) throw new Error(`run ${run} has no plan`);
      return found;
    },
    trace: openTrace(folder),
    logLines: (msg, run) =>
      workers.flatMap(({ log }) =>
        log.filter((line) => line.msg === msg && (run === undefined || line.run === run)),
      ),
    async close() {
      isOpen = false;
      for (const worker of workers) worker.kill('SIGKILL', 'machine');
      await Promise.all(workers.map((worker) => worker.ended));
      if (!options.redis) await redis.close();
      await store.close();
    },
  };
  return pool;

  async function until(isTrue: () => Promise<boolean>, timeoutMs: number, what: string): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!(await isTrue())) {
      if (Date.now() > deadline) {
        const words = workers.map(({ name, log }) => `  ${name}:\n${lastLines(log)}`).join('\n');
        throw new Error(`after ${timeoutMs / 1000} s it is not so that ${what}\n${words}`);
      }
      await sleep(pollMs);
    }
  }
}

async function countParts(store: Store, run: string): Promise<number> {
  let count = 0;
  for await (const _ of store.list(`runs/${run}/parts/`)) count += 1;
  return count;
}

/** The harness's environment without what lensmill would read from it. */
function cleanEnv(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(LENSMILL_(?!CACHE)|REDIS_URL$|npm_|NODE_OPTIONS$|VITEST|AWS_REGION$)/.test(name),
  );
  return { ...Object.fromEntries(kept), LENSMILL_DEVICE: 'cpu' };
}
