/**
 * Given to `node --import` in every process of a pool: writes down which steps the process passes, and stops it at some.
 *
 * What to do comes in LENSMILL_CHAOS_ORDERS, as JSON of `HookOrders`. A rule strikes once in all processes together: whoever
 * creates the rule's marker file first obeys it, so the process that is started in its place goes on. The trace has a
 * line a step and a line a model run; it is appended with O_APPEND, so many processes may share it and a SIGKILL loses
 * nothing.
 */
import { subscribe } from 'node:diagnostics_channel';
import { appendFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isMainThread, workerData } from 'node:worker_threads';
import type { Step, StepMessage } from '../../src/steps.ts';

export interface HookRule {
  at: Step;
  /** 'exit' is `process.exit(1)`: no signal, no farewell. */
  do: 'SIGKILL' | 'SIGSTOP' | 'exit';
  /** Only in this run. */
  run?: string;
  /** The n-th time that one process comes by; the first where it is left out. */
  nth?: number;
}

export interface HookOrders {
  /** Where the trace and the markers are. */
  folder: string;
  rules: readonly HookRule[];
}

/** A line of the trace. */
export type TraceLine = { pid: number; at: number } & (StepMessage | { images: number });

export const traceOf = (folder: string): string => join(folder, 'trace.jsonl');
/** Written by whoever obeys the rule, with a `TraceLine` in it. */
export const markerOf = (folder: string, rule: number): string => join(folder, `rule-${rule}.json`);

const orders = process.env.LENSMILL_CHAOS_ORDERS;
if (orders !== undefined) obey(JSON.parse(orders) as HookOrders); // from pool.ts

function obey({ folder, rules }: HookOrders): void {
  const trace = (event: StepMessage | { images: number }): string => {
    const line = `${JSON.stringify({ pid: process.pid, at: Date.now(), ...event } satisfies TraceLine)}\n`;
    appendFileSync(traceOf(folder), line);
    return line;
  };
  if (!isMainThread) {
    if (isInference(workerData)) void countModelRuns(workerData.batch, (images) => trace({ images }));
    return;
  }
  const passed = rules.map(() => 0);
  subscribe('lensmill:step', (message) => {
    const event = message as StepMessage; // src/steps.ts publishes nothing else there
    const line = trace(event);
    for (const [number, rule] of rules.entries()) {
      if (rule.at !== event.step || (rule.run !== undefined && rule.run !== event.run)) continue;
      passed[number] = (passed[number] ?? 0) + 1;
      if (passed[number] !== (rule.nth ?? 1) || !isFirst(markerOf(folder, number), line)) continue;
      if (rule.do === 'exit') process.exit(1);
      process.kill(process.pid, rule.do);
    }
  });
}

function isFirst(marker: string, line: string): boolean {
  try {
    writeFileSync(marker, line, { flag: 'wx' });
    return true;
  } catch {
    return false;
  }
}

function isInference(data: unknown): data is { batch: number } {
  return typeof data === 'object' && data !== null && 'modelPath' in data && 'batch' in data;
}

/** Counts what the model really computed, padding included: what was lost in flight shows in no log. */
async function countModelRuns(batch: number, count: (images: number) => void): Promise<void> {
  const { InferenceSession } = await import('onnxruntime-node');
  // A class, though its type does not say so.
  const { prototype } = InferenceSession as unknown as {
    prototype: { run: (...args: unknown[]) => unknown };
  };
  const run = prototype.run;
  let runs = 0;
  prototype.run = function (this: unknown, ...args: unknown[]) {
    // The first run of a session only warms it up.
    if (runs++ > 0) count(batch);
    return run.apply(this, args);
  };
}
