/** `lensmill work` as an operator starts it: a supervisor, the worker process below it, and what they log. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const main = join(import.meta.dirname, '../../src/cli/main.ts');

/** A line that lensmill logged; what is no JSON has only `msg`. */
export interface LogLine {
  msg: string;
  level?: string;
  time?: string;
  run?: string;
  shard?: number;
  items?: number;
  failed?: number;
  commit?: string;
  url?: string;
  error?: string;
}

export interface WorkerProcess {
  name: string;
  /** The supervisor's. */
  pid: number;
  /** The worker's own process, while there is one. */
  child(): number | undefined;
  /** Processes below the worker's own: its decode sandbox. */
  grandchildren(): number[];
  log: LogLine[];
  isRunning(): boolean;
  /** 'exit code 1', 'signal SIGKILL'. */
  ended: Promise<string>;
  /** Resolves with the `count`-th line that says `msg`, also of the past; rejects when the worker ends before. */
  logged(msg: string, count?: number): Promise<LogLine>;
  /** 'machine': both at once, as when the machine is lost. */
  kill(signal: NodeJS.Signals, whom: 'worker' | 'supervisor' | 'machine'): void;
}

export interface StartOptions {
  name: string;
  args: readonly string[];
  env: NodeJS.ProcessEnv;
  /** Words before the command, such as `ip netns exec host-1`. They must `exec` it. */
  prefix?: readonly string[];
}

/** All that were started by this process and not seen to end: none may outlive it. */
const living = new Set<WorkerProcess>();
process.on('exit', () => {
  for (const worker of living) worker.kill('SIGKILL', 'machine');
});

export function startWorker({ name, args, env, prefix = [] }: StartOptions): WorkerProcess {
  const [command = '', ...words] = [...prefix, process.execPath, main, 'work', ...args];
  const supervisor = spawn(command, words, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const log: LogLine[] = [];
  const listeners = new Set<() => void>();
  createInterface({ input: supervisor.stderr }).on('line', (line) => {
    log.push(parseLine(line));
    for (const listener of listeners) listener();
  });
  /** Of a supervisor that was killed: it ends by itself, a little later. */
  let lastChild: number | undefined;
  const pid = supervisor.pid ?? 0;
  const child = (): number | undefined => {
    const found = childrenOf(pid).find(isWorker);
    lastChild = found ?? lastChild;
    return found;
  };

  const worker: WorkerProcess = {
    name,
    pid,
    child,
    grandchildren: () => childrenOf(child() ?? 0),
    log,
    isRunning: () => supervisor.exitCode === null && supervisor.signalCode === null,
    ended: endOf(supervisor),
    logged(msg, count = 1) {
      const { promise, resolve, reject } = Promise.withResolvers<LogLine>();
      const look = (): void => {
        const line = log.filter((one) => one.msg === msg)[count - 1];
        if (line) resolve(line);
      };
      listeners.add(look);
      void worker.ended.then((how) =>
        reject(new Error(`${name} ended (${how}) before '${msg}':\n${lastLines(log)}`)),
      );
      look();
      return promise.finally(() => listeners.delete(look));
    },
    kill(signal, whom) {
      const below = child() ?? lastChild;
      if (whom !== 'worker') supervisor.kill(signal);
      if (whom !== 'supervisor' && below !== undefined && isWorker(below)) sendSignal(below, signal);
    },
  };
  living.add(worker);
  // A supervisor that was killed leaves a worker that drains: it stays on the list.
  void worker.ended.then((how) => how.startsWith('exit code') && living.delete(worker));
  return worker;
}

export function lastLines(log: readonly LogLine[], count = 12): string {
  return log
    .slice(-count)
    .map((line) => `    ${JSON.stringify(line).slice(0, 300)}`)
    .join('\n');
}

async function endOf(process: ChildProcess): Promise<string> {
  const [code, signal] = await once(process, 'exit');
  return signal ? `signal ${signal}` : `exit code ${code}`;
}

function parseLine(line: string): LogLine {
  try {
    return JSON.parse(line) as LogLine; // pino's, of src/telemetry/log.ts
  } catch {
    return { msg: line };
  }
}

function childrenOf(pid: number): number[] {
  return readProc(`${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);
}

function isWorker(pid: number): boolean {
  return /workers\/worker\.[jt]s/.test(readProc(`${pid}/cmdline`));
}

function readProc(name: string): string {
  try {
    return readFileSync(`/proc/${name}`, 'latin1');
  } catch {
    return '';
  }
}

/** To a process that may be gone by now. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // gone
  }
}
