/** What the benches of whole programs share: `lensmill index` with a clock beside it, the bare model, CPU time of processes. */
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { cpu } from '../../src/devices/cpu.ts';
import type { Throughput } from '../../src/telemetry/throughput.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from '../../workers/inference.ts';
import { makeSlot } from '../../workers/slot.ts';
import { openThreads } from '../../workers/thread.ts';

export const main = join(import.meta.dirname, '../../src/cli/main.ts');

/** What a program did between its loaded model and its last image. */
export interface Work {
  images: number;
  seconds: number;
  /** CPU time of all its processes; NaN where there is no /proc. */
  coreSeconds: number;
}

export interface IndexTimes extends Work {
  /** From typing the command to its end. */
  wholeSeconds: number;
  /** Summed over images. */
  fetchMs: number;
  decodeMs: number;
  inferMs: number;
  writeMs: number;
  /** As the command reports it; absent where nothing was done. */
  throughput?: Throughput;
}

export interface IndexOptions {
  model: string;
  device?: string;
  flags?: readonly string[];
  env?: Record<string, string>;
}

/** Runs the command as a user would, and reads the rest off its log: 'run done' is written behind `_SUCCESS.json`. */
export async function timeIndex(
  source: string,
  output: string,
  { model, device = 'cpu', flags = [], env = {} }: IndexOptions,
): Promise<IndexTimes> {
  const started = performance.now();
  const args = ['index', source, '--output', output, '--model', model, '--device', device, '--json'];
  const command = execa(process.execPath, [main, ...args, '--shard-size', '128', ...flags], {
    env: { LENSMILL_LOG_LEVEL: 'info', ...env },
  });
  const marks = new Map<string, number>();
  const lines: Record<string, number | string>[] = [];
  createInterface({ input: command.stderr }).on('line', (text) => {
    if (!text.startsWith('{')) return;
    const line = JSON.parse(text);
    lines.push(line);
    if (['model loaded', 'run done'].includes(line.msg)) marks.set(line.msg, treeSeconds(command.pid));
  });
  const { stdout } = await command;
  const wholeSeconds = (performance.now() - started) / 1000;
  const timeOf = (msg: string): number => Date.parse(String(lines.find((line) => line.msg === msg)?.time));
  const shards = lines.filter((line) => line.msg === 'shard done');
  const sum = (field: string): number => shards.reduce((total, line) => total + Number(line[field] ?? 0), 0);
  const { items, throughput } = JSON.parse(stdout) as { items: number; throughput?: Throughput };
  return {
    images: items,
    seconds: (timeOf('run done') - timeOf('model loaded')) / 1000,
    coreSeconds: (marks.get('run done') ?? Number.NaN) - (marks.get('model loaded') ?? Number.NaN),
    wholeSeconds,
    fetchMs: sum('fetchMs'),
    decodeMs: sum('decodeMs'),
    inferMs: sum('inferMs'),
    writeMs: sum('writeMs'),
    ...(throughput && { throughput }),
  };
}

/** `count` sessions that share `threads`, each fed with ready pixels without a pause, for about `seconds`. */
export async function runBare(
  modelPath: string,
  {
    crop,
    count,
    seconds = 8,
    batch = cpu.batch,
    threads: allThreads = availableParallelism(),
  }: { crop: number; count: number; seconds?: number; batch?: number; threads?: number },
): Promise<Work> {
  const shape = { batch, crop, dimension: 2048, topK: 5 };
  const slots = Array.from({ length: count }, () => makeSlot(shape));
  for (const { pixels } of slots) crypto.getRandomValues(new Uint8Array(pixels).subarray(0, 65_536));
  const threads = Math.max(1, Math.floor(allThreads / count));
  const options: InferenceOptions = { slots, modelPath, device: cpu, batch, crop, threads };
  const sessions = openThreads<InferenceRequest, InferenceReply>('inference', count, options);
  await sessions.callAll({ kind: 'open' });
  const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
  let images = 0;
  const feed = async (): Promise<void> => {
    while (performance.now() - started < seconds * 1000) {
      await sessions.callOne({ kind: 'infer', slot: 0 });
      images += batch;
    }
  };
  // Two calls a session, so that one waits while the other runs.
  await Promise.all(Array.from({ length: 2 * count }, feed));
  const work = { images, ...workSince(started, cpuBefore) };
  await sessions.close();
  return work;
}

/** Of this process, all its threads; `started` by `performance.now()`. */
export function workSince(started: number, cpuBefore: NodeJS.CpuUsage): Omit<Work, 'images'> {
  const { user, system } = process.cpuUsage(cpuBefore);
  return { seconds: (performance.now() - started) / 1000, coreSeconds: (user + system) / 1e6 };
}

/**
 * CPU seconds of a process, of its descendants, and of those that ended and were waited for; NaN where there is no /proc.
 * Clock ticks are 10 ms on every Linux (proc_pid_stat(5)).
 */
export function treeSeconds(root: number | undefined): number {
  const ticks = new Map<number, number>();
  const parents = new Map<number, number>();
  let names: string[];
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return Number.NaN;
  }
  for (const pid of names.map(Number)) {
    // Behind the command's name, which may hold anything: state, ppid, …; utime, stime, cutime and cstime from 11 on.
    const fields = readStat(pid)?.split(') ').at(-1)?.split(' ').map(Number);
    if (!fields) continue;
    parents.set(pid, fields[1] ?? 0);
    ticks.set(
      pid,
      fields.slice(11, 15).reduce((sum, time) => sum + time, 0),
    );
  }
  const isOurs = (pid: number): boolean =>
    pid === root || (parents.has(pid) && isOurs(parents.get(pid) as number)); // it has it
  return [...ticks].reduce((sum, [pid, time]) => sum + (isOurs(pid) ? time : 0), 0) / 100;
}

/** Undefined of a process that has just ended. */
function readStat(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
}

export const perSecond = ({ images, seconds }: Work): number => images / seconds;
export const perCoreSecond = ({ images, coreSeconds }: Work): number => images / coreSeconds;

export const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
