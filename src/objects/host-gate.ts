/**
 * How many requests a worker sends to one host: so many at once, so many a second, and none while the host asks to be left
 * alone. All lanes count together in one SharedArrayBuffer, so eight lanes are no heavier than one.
 *
 * A request draws a numbered ticket of its host and may start when fewer than `perHost` of the tickets before it are still
 * out. So the threads take turns without knowing each other. Within a thread the next one is woken; across threads, the first
 * in each thread's queue looks again every few milliseconds.
 *
 * A thread that ends with tickets in hand would keep its places for ever. It need not be cured: a worker whose lane dies ends
 * as a whole (workers/engine.ts).
 */
import { hash } from 'node:crypto';

/** Places in the table: more than the requests of all lanes together. */
const places = 4096;

/** Where a host may stand, from its own place on. */
const reach = 16;

/** Between two looks at a host that is busy in other threads; plus up to as much again, so that they do not march in step. */
const pollMs = 4;

/** A start that a timer made late by this much is caught up, so that timers do not lower the rate. */
const slackNs = 20_000_000n;

export interface GateOptions {
  /** Requests at once to one host. */
  perHost: number;
  /** Requests a second to one host; 0: no bound. */
  perSecond: number;
}

export interface HostGate {
  /** Waits for its turn. Rejects with the signal's reason if that aborts first. */
  enter(host: string, signal?: AbortSignal): Promise<Permit>;
}

export interface Permit {
  /** The request is over. Safe to call twice. */
  leave(): void;
  /** Nobody starts a request to this host for so long, and up to a tenth longer: many workers were told the same. */
  pause(ms: number): void;
}

/** For all lanes of one process. 128 KiB. */
export function makeGate(): SharedArrayBuffer {
  return new SharedArrayBuffer(timesOffset + places * 3 * 8);
}

/**
 * The same `options` in every thread that shares `gate`. Where more hosts are busy at once than find a place (4096, of
 * which 16 are tried), the others share one with another host, and are slower than they might be. One that finds a place of
 * its own meanwhile may, until its requests in the old one end, have twice as many under way.
 */
export function openGate(gate: SharedArrayBuffer, options: GateOptions): HostGate {
  const table = openTable(gate, options);
  /** By place, this thread's own requests that wait. */
  const queues = new Map<number, Queue>();

  const serve = async (place: number, queue: Queue): Promise<void> => {
    for (let first = queue.waiting[0]; first; first = queue.waiting[0]) {
      const waitMs = table.start(place, first.ticket, first.abandoned);
      if (waitMs === 0) {
        queue.waiting.shift();
        first.enter();
        continue;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, waitMs);
        queue.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    queues.delete(place);
  };

  return {
    async enter(host, signal) {
      signal?.throwIfAborted();
      const { place, ticket } = table.draw(keyOf(host));
      const turn = Promise.withResolvers<void>();
      const waiting: Waiting = { ticket, abandoned: false, enter: turn.resolve };
      const abandon = (): void => {
        waiting.abandoned = true; // its ticket is given back when its turn comes
        turn.reject(signal?.reason);
      };
      signal?.addEventListener('abort', abandon);
      const queue = queues.get(place);
      if (queue) {
        queue.waiting.push(waiting);
      } else {
        const opened: Queue = { waiting: [waiting], wake: () => undefined };
        queues.set(place, opened);
        void serve(place, opened);
      }
      try {
        await turn.promise;
      } finally {
        signal?.removeEventListener('abort', abandon);
      }
      let isOver = false;
      return {
        leave: () => {
          if (isOver) return;
          isOver = true;
          table.giveBack(place);
          queues.get(place)?.wake();
        },
        pause: (ms) => table.pause(place, ms),
      };
    },
  };
}

interface Queue {
  /** In the order of their tickets. */
  waiting: Waiting[];
  /** Lets the first look again at once. */
  wake(): void;
}

interface Waiting {
  ticket: number;
  abandoned: boolean;
  enter(): void;
}

/** The lock, and one cell of nothing so that what follows is aligned. Then two Int32 a place, then three BigInt64. */
const placesOffset = 8;
const timesOffset = placesOffset + places * 2 * 4;

/** What the threads share. Every act holds the one lock, for a few microseconds. */
function openTable(gate: SharedArrayBuffer, { perHost, perSecond }: GateOptions) {
  const lock = new Int32Array(gate, 0, 1);
  /** Counted from 0 up, past 2^31 too: only differences are looked at. */
  const drawn = new Int32Array(gate, placesOffset, places);
  const back = new Int32Array(gate, placesOffset + places * 4, places);
  /** Whose the place is; 0: nobody's yet. */
  const keys = new BigInt64Array(gate, timesOffset, places);
  /** By the clock that all threads share, in ns: when the next request may start, and until when the host is left alone. */
  const next = new BigInt64Array(gate, timesOffset + places * 8, places);
  const paused = new BigInt64Array(gate, timesOffset + places * 16, places);
  const intervalNs = perSecond > 0 ? BigInt(Math.round(1e9 / perSecond)) : 0n;

  const locked = <T>(act: (now: bigint) => T): T => {
    while (Atomics.compareExchange(lock, 0, 0, 1) !== 0) Atomics.wait(lock, 0, 1, 1);
    try {
      return act(process.hrtime.bigint());
    } finally {
      Atomics.store(lock, 0, 0);
      Atomics.notify(lock, 0, 1);
    }
  };
  const dueOf = (place: number): bigint => max(at(next, place), at(paused, place));
  const isIdle = (place: number, now: bigint): boolean => drawn[place] === back[place] && dueOf(place) <= now;

  /** Where the host stands; else a place that nobody needs; else that of another host. */
  const placeOf = (key: bigint, now: bigint): number => {
    const home = Number(BigInt.asUintN(12, key));
    let free: number | undefined;
    for (let step = 0; step < reach; step++) {
      const place = (home + step) % places;
      if (keys[place] === key) return place;
      if (free === undefined && isIdle(place, now)) free = place;
    }
    if (free === undefined) return home;
    keys[free] = key;
    next[free] = 0n;
    paused[free] = 0n;
    return free;
  };

  return {
    draw: (key: bigint): { place: number; ticket: number } =>
      locked((now) => {
        const place = placeOf(key, now);
        const ticket = drawn[place] ?? 0;
        drawn[place] = ticket + 1;
        return { place, ticket };
      }),

    /** 0: it has started (or, abandoned, is over). Else the milliseconds until it should ask again. */
    start: (place: number, ticket: number, abandoned: boolean): number =>
      locked((now) => {
        const ahead = (ticket - (back[place] ?? 0)) | 0;
        if (ahead >= perHost) return pollMs * (1 + Math.random());
        if (abandoned) {
          back[place] = (back[place] ?? 0) + 1;
          return 0;
        }
        const due = dueOf(place);
        if (due > now) return Math.min(Number(due - now) / 1e6 + 0.5, 1_000);
        next[place] = max(at(next, place), now - slackNs) + intervalNs;
        return 0;
      }),

    giveBack: (place: number): void =>
      locked(() => {
        back[place] = (back[place] ?? 0) + 1;
      }),

    pause: (place: number, ms: number): void =>
      locked((now) => {
        const until = now + BigInt(Math.ceil(ms * 1e6 * (1 + Math.random() / 10)));
        paused[place] = max(at(paused, place), until);
      }),
  };
}

function at(cells: BigInt64Array, place: number): bigint {
  return cells[place] ?? 0n;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/** 64 bits, never 0. Two hosts with the same would wait for each other, and nothing worse. */
function keyOf(host: string): bigint {
  return hash('sha256', host, 'buffer').readBigInt64LE() || 1n;
}
