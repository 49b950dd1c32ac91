/** What a worker does with its time, told shard by shard: the clock behind `Measures`. */
import { availableParallelism, cpus } from 'node:os';
import { type Measures, mapMeasures, noMeasures } from '../src/telemetry/measures.ts';
import type { EngineMeasures } from './engine.ts';

/** 'load': a model, or rows to be used again. 'hold': a worker has a shard. 'embed': a shard's images are under way. */
export type Occupation = 'load' | 'hold' | 'embed';

export interface Tally {
  /** As long as `work` takes. Of several at once, embedding goes before loading, and that before holding. */
  during<T>(occupation: Occupation, work: () => Promise<T>): Promise<T>;
  /** There is no shard to take; `isOpen`: of a run that is open. */
  noShard(isOpen: boolean): void;
  /** What the engine measures counts from now on. */
  watch(engine: { measures(): EngineMeasures }): void;
  /** What came to be since the last call, or the start. `done`: of the shard that has just ended. */
  take(done: { images: number; writeMs: number }): Measures;
}

/** The cores that this process may use. */
const cores = availableParallelism();
const isWhole = cores === cpus().length;
/** The machine's cores are looked at no more often: with hundreds of them it takes milliseconds. */
const lookMs = 1_000;

/** `loadedMs`: how long the process has been loading. `shardsAtOnce`: that the worker may have in hand. */
export function openTally({ loadedMs, shardsAtOnce }: { loadedMs: number; shardsAtOnce: number }): Tally {
  const pending: Measures = { ...noMeasures, loadMs: loadedMs };
  const underWay: Record<Occupation, number> = { load: 0, hold: 0, embed: 0 };
  let isAnyOpen = false;
  let state: Occupation | 'idle' | 'off' = 'off';
  let stateSince = performance.now();
  let used = readUse();
  let workMs = 0;
  /** Of the time without a shard: nothing to the next run, where the one that it was waited for is over. */
  let waiting: Measures = { ...noMeasures };
  let engine: { measures(): EngineMeasures } | undefined;
  let told: EngineMeasures | undefined;
  let machine = { at: performance.now(), ...readCores() };
  let machineShare = 0;

  /** Gives the time until now to what went on in it. */
  function settle(): void {
    const now = performance.now();
    const use = readUse();
    const measures = state === 'idle' ? waiting : pending;
    if (state !== 'off') measures[`${state}Ms`] += now - stateSince;
    if (state !== 'off' && state !== 'load') {
      measures.cpuMs += use.cpuMs - used.cpuMs;
      measures.mainMs += use.mainMs - used.mainMs;
    }
    if (state === 'hold' || state === 'embed') workMs += now - stateSince;
    stateSince = now;
    used = use;
  }

  function enter(): void {
    settle();
    const { embed, load, hold } = underWay;
    state = embed ? 'embed' : load ? 'load' : hold ? 'hold' : isAnyOpen ? 'idle' : 'off';
    if (state === 'off') waiting = { ...noMeasures };
  }

  /** Ours of the cores that we may use; or everybody's of all, for other workers may share the machine. */
  function coresShare(cpuMs: number): number {
    const now = performance.now();
    if (isWhole && now - machine.at >= lookMs) {
      const { busy, all } = readCores();
      machineShare = (busy - machine.busy) / Math.max(1, all - machine.all);
      machine = { at: now, busy, all };
    }
    return Math.min(1, Math.max(machineShare, cpuMs / (workMs * cores)));
  }

  return {
    async during(occupation, work) {
      underWay[occupation] += 1;
      enter();
      try {
        return await work();
      } finally {
        underWay[occupation] -= 1;
        enter();
      }
    },
    noShard(isOpen) {
      isAnyOpen = isOpen;
      enter();
    },
    watch(opened) {
      engine = opened;
      told = opened.measures();
      machine = { at: performance.now(), ...readCores() };
    },
    take({ images, writeMs }) {
      settle();
      for (const name of ['idleMs', 'cpuMs', 'mainMs'] as const) pending[name] += waiting[name];
      workMs += waiting.idleMs;
      waiting = { ...noMeasures };
      pending.images += images;
      pending.writeMs += writeMs / shardsAtOnce;
      const now = engine?.measures();
      for (const name of Object.keys(now ?? {}) as (keyof EngineMeasures)[])
        pending[name] += (now?.[name] ?? 0) - (told?.[name] ?? 0);
      told = now;
      if (workMs > 0) pending.coresMs += workMs * coresShare(pending.cpuMs);
      workMs = 0;
      // The fractions stay, and come with the next shard.
      const taken = mapMeasures((name) => Math.floor(pending[name]));
      for (const name of Object.keys(taken) as (keyof Measures)[]) pending[name] -= taken[name];
      return taken;
    },
  };
}

/** CPU time since the start of the process: of all its threads, and of this one. */
function readUse(): { cpuMs: number; mainMs: number } {
  const [all, main] = [process.cpuUsage(), process.threadCpuUsage()];
  return { cpuMs: (all.user + all.system) / 1_000, mainMs: (main.user + main.system) / 1_000 };
}

/** Of all cores together, ms since the machine started. */
function readCores(): { busy: number; all: number } {
  const totals = { busy: 0, all: 0 };
  for (const { times } of cpus()) {
    const { user, nice, sys, irq, idle } = times;
    totals.busy += user + nice + sys + irq;
    totals.all += user + nice + sys + irq + idle;
  }
  return totals;
}
