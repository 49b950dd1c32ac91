/**
 * Several actors on one real store, of whose calls one happens at a time, in an order that fast-check chooses; and what may
 * become of an actor in the middle of a call. All that an actor awaits is this store, so that when the microtasks are
 * through, every actor waits for its turn, has ended, or is gone: an order replays from its seed.
 */
import { createHash } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import fc, { type Scheduler } from 'fast-check';
import type { ObjectFacts, Store } from '../../src/stores/store.ts';

/** Where stores lie whose calls are tried in many orders: it is not the disk that is tried. */
export const memoryFolder = existsSync('/dev/shm') ? '/dev/shm' : undefined;

/**
 * With LENSMILL_CHAOS=full tries `full` interleavings, else as many as fit into `ms`. Throws what the first bad one shows,
 * with its seed: LENSMILL_SEED tries the same ones again.
 */
export async function checkInterleavings<Cast>(
  what: string,
  casts: fc.Arbitrary<Cast>,
  attempt: (scheduler: Scheduler, cast: Cast) => Promise<void>,
  { full, ms }: { full: number; ms: number },
): Promise<void> {
  // When the time is up, fast-check leaves the last one alone, which then still writes.
  let last = Promise.resolve();
  const property = fc.asyncProperty(fc.scheduler(), casts, (scheduler, cast) => {
    last = attempt(scheduler, cast);
    return last;
  });
  const { LENSMILL_CHAOS: chaos, LENSMILL_SEED: seed } = process.env;
  const details = await fc.check(property, {
    numRuns: full,
    ...(chaos !== 'full' && { interruptAfterTimeLimit: ms, markInterruptAsFailure: false }),
    ...(seed !== undefined && { seed: Number(seed) }),
  });
  await last.catch(() => undefined);
  if (details.failed)
    throw new Error(await fc.asyncDefaultReportMessage(details), { cause: details.errorInstance });
  if (details.numRuns === 0) throw new Error(`no interleaving was tried within ${ms} ms`);
  console.log(`${details.numRuns} interleavings ${what}`);
}

/** What befalls a call. `steps` is how many calls of others pass before a frozen actor goes on. */
export type Fate =
  | { kind: 'fails' } // without having acted
  | { kind: 'loses its reply' } // acts, and the caller sees an error
  | { kind: 'is repeated' } // acts twice, as an S3 client does after a lost reply
  | { kind: 'crashes before' }
  | { kind: 'crashes after' }
  | { kind: 'freezes before'; steps: number }
  | { kind: 'freezes after'; steps: number };

/** A fate, and whose: the actor's and its call's number. */
export interface Misfortune {
  actor: number;
  call: number;
  fate: Fate;
}

/** More calls than any interleaving has: who sleeps so long is woken when all the others are done. */
const forEver = 1_000_000;

export function misfortunes(actors: number): fc.Arbitrary<Misfortune[]> {
  const steps = fc.oneof(fc.integer({ min: 1, max: 60 }), fc.constant(forEver));
  const fate: fc.Arbitrary<Fate> = fc.oneof(
    fc.record({ kind: fc.constantFrom('fails', 'loses its reply', 'is repeated') }),
    fc.record({ kind: fc.constantFrom('crashes before', 'crashes after') }),
    fc.record({ kind: fc.constantFrom('freezes before', 'freezes after'), steps }),
  );
  return fc.array(fc.record({ actor: fc.nat(actors - 1), call: fc.nat(24), fate }), { maxLength: 12 });
}

export interface Interleaving {
  /**
   * The store as the next actor sees it; one that is spared has no misfortunes. `call` is a turn in which nothing is read
   * or written.
   */
  join(
    name: string,
    options?: { isSpared: boolean },
  ): { store: Store; call: (label: string) => Promise<void> };
  /** Gives turns until nobody wants one; who is frozen may stay so. */
  run(): Promise<void>;
  wakeAll(): void;
}

interface Turn {
  label: string;
  act: () => Promise<void>;
}

interface Actor {
  name: string;
  fates: Map<number, Fate>;
  calls: number;
  isGone: boolean;
  /** Of all turns, that after which it goes on. */
  frozenUntil: number;
  parked: Turn[];
}

/**
 * `folder` is that of `store`, a FileStore. Where `conditional` is false, `create` is a look and a write, with others' turns
 * between the two. `onWrite` is called after each act that may have written a key.
 */
export function openInterleaving(options: {
  store: Store;
  folder: string;
  conditional: boolean;
  scheduler: Scheduler;
  misfortunes: readonly Misfortune[];
  onWrite: (key: string) => void;
}): Interleaving {
  const { store, folder, conditional, scheduler, onWrite } = options;
  const actors: Actor[] = [];
  let turns = 0;

  return {
    join(name, { isSpared } = { isSpared: false }) {
      const mine = options.misfortunes.filter(({ actor }) => !isSpared && actor === actors.length);
      const actor: Actor = {
        name,
        fates: new Map(mine.map(({ call, fate }) => [call, fate])),
        calls: 0,
        isGone: false,
        frozenUntil: 0,
        parked: [],
      };
      actors.push(actor);
      return { store: storeOf(actor), call: (label) => call(actor, label, async () => undefined) };
    },

    async run() {
      await setImmediate();
      while (scheduler.count() > 0) {
        turns += 1;
        await scheduler.waitNext(1);
        await setImmediate();
        wake((actor) => actor.frozenUntil <= turns);
      }
    },

    wakeAll: () => wake(() => true),
  };

  function wake(isDue: (actor: Actor) => boolean): void {
    for (const actor of actors.filter((actor) => actor.parked.length > 0 && isDue(actor))) {
      actor.frozenUntil = 0;
      for (const turn of actor.parked.splice(0)) queue(actor, turn);
    }
  }

  function queue(actor: Actor, turn: Turn): void {
    void scheduler.schedule(Promise.resolve(), turn.label, undefined, async (log) => {
      await log();
      if (actor.isGone) return;
      if (actor.frozenUntil > turns) actor.parked.push(turn);
      else await turn.act();
    });
  }

  function call<T>(actor: Actor, what: string, act: () => Promise<T>): Promise<T> {
    const fate = actor.fates.get(actor.calls++);
    const answer = Promise.withResolvers<T>();
    const lost = new Error('connection reset');
    const label = `${actor.name}: ${what}${fate ? `, ${fate.kind}` : ''}`;
    const freeze = (steps: number, then: Turn['act']): void => {
      actor.frozenUntil = turns + steps;
      actor.parked.push({ label: `${label}, goes on`, act: then });
    };
    const befall: Record<Fate['kind'] | 'succeeds', () => Promise<void>> = {
      succeeds: () => act().then(answer.resolve, answer.reject),
      fails: async () => answer.reject(lost),
      'loses its reply': () => act().then(() => answer.reject(lost), answer.reject),
      'is repeated': () => act().then(act).then(answer.resolve, answer.reject),
      'crashes before': async () => {
        actor.isGone = true;
      },
      'crashes after': async () => {
        await act();
        actor.isGone = true;
      },
      'freezes before': async () => freeze(stepsOf(fate), befall.succeeds),
      'freezes after': async () => {
        const value = await act();
        freeze(stepsOf(fate), async () => answer.resolve(value));
      },
    };
    queue(actor, { label, act: befall[fate?.kind ?? 'succeeds'] });
    return answer.promise;
  }

  function storeOf(actor: Actor): Store {
    // The names of attempts are random, and the order of names decides: they must replay too.
    const names = new Map<string, string>();
    const nameOf = (key: string): string => names.get(key) ?? key;
    // As FileStore.head answers, without the megabyte that it reads into: that would be a third of the time.
    const head = async (key: string): Promise<ObjectFacts | undefined> => {
      const bytes = await store.read(key);
      return bytes && { size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
    };
    const write = async (key: string, body: Uint8Array): Promise<boolean> => {
      if (!conditional) rmSync(join(folder, key), { force: true });
      const isCreated = await store.create(key, body);
      onWrite(key);
      return isCreated;
    };
    return {
      uri: store.uri,
      conditional,
      probe: () => store.probe(),
      look: () => store.look(),
      async create(key, body) {
        const attempt = createHash('sha256').update(`${actor.name} ${actor.calls}`).digest('hex').slice(0, 8);
        names.set(key, key.replace(/\.[0-9a-f]{8}\.parquet$/, `.${attempt}.parquet`));
        const name = nameOf(key);
        if (!conditional && (await call(actor, `look for ${name}`, () => head(name)))) return false;
        return call(actor, `create ${name}`, () => write(name, body));
      },
      read: (key, range) => call(actor, `read ${nameOf(key)}`, () => store.read(nameOf(key), range)),
      head: (key) => call(actor, `head ${nameOf(key)}`, () => head(nameOf(key))),
      async *list(prefix, after) {
        yield* await call(actor, `list ${prefix}`, () => Array.fromAsync(store.list(prefix, after)));
      },
      close: () => store.close(),
    };
  }
}

function stepsOf(fate: Fate | undefined): number {
  return fate && 'steps' in fate ? fate.steps : 0;
}
