/**
 * Who may build an index: one at a time, by a log of lease entries on a store that knows neither delete nor overwrite.
 *
 * An entry is created with If-None-Match, so of several that want to be number n + 1 one is. Whoever made the newest entry
 * holds the lease until the time that it names; the next entry may be made by the holder itself, which goes on, or by anyone
 * once the newest is released, or is over for `marginMs`. The holder stops at its own time, the others wait for theirs: clocks
 * may differ by the margin.
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import { leaseKey, leasesPrefix, numberOfKey } from '../layout.ts';
import { encodeJson, readJson } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';

const entrySchema = z.object({
  v: z.literal(1),
  /** Of one build. */
  id: z.string(),
  /** For people: its host and process. */
  holder: z.string(),
  until: z.iso.datetime(),
  released: z.boolean(),
});
type Entry = z.infer<typeof entrySchema>;

const marginMs = 30_000;
/** A build that was killed holds the next one up for this long, and the margin. */
const heldMs = 90_000;

export interface LeaseOptions {
  heldMs?: number;
  marginMs?: number;
}

export interface IndexLease {
  /** Throws where it is lost: nothing may be committed any more. */
  check(): void;
  /** Aborts when it is lost. */
  readonly lost: AbortSignal;
  /** Lets the next one in. Safe to call twice. */
  release(): Promise<void>;
}

/** Throws ConfigError 'index-busy', which says who builds, and until when at least. */
export async function takeLease(
  store: Store,
  fingerprint: string,
  { heldMs: held = heldMs, marginMs: margin = marginMs }: LeaseOptions = {},
): Promise<IndexLease> {
  const id = randomUUID();
  const holder = `${hostname()} (process ${process.pid})`;
  const [newest, entry] = await newestEntry(store, fingerprint);
  if (entry && !entry.released && Date.now() < Date.parse(entry.until) + margin) throw busy(store, entry);

  let n = newest;
  let endsAt = 0;
  const isNext = async (released: boolean): Promise<boolean> => {
    const startedAt = Date.now();
    const until = new Date(startedAt + held).toISOString();
    const isOurs = await createEntry(store, fingerprint, n + 1, { v: 1, id, holder, until, released });
    if (!isOurs) return false;
    n += 1;
    endsAt = performance.now() + held - (Date.now() - startedAt);
    return true;
  };
  if (!(await isNext(false))) {
    const [, winner] = await newestEntry(store, fingerprint);
    throw busy(store, winner);
  }

  const lost = new AbortController();
  let isReleased = false;
  const lose = (): void =>
    lost.abort(new Error(`the lease on the index of ${store.uri} was lost: build it again`));
  let renewing: Promise<void> | undefined;
  const timer = setInterval(() => {
    if (performance.now() > endsAt) lose();
    // One that fails is tried again until the lease is over.
    renewing ??= isNext(false)
      .then(
        (isOurs) => isOurs || lose(),
        () => {},
      )
      .then(() => {
        renewing = undefined;
      });
  }, held / 3);
  timer.unref();

  return {
    lost: lost.signal,
    check() {
      if (performance.now() > endsAt) lose();
      lost.signal.throwIfAborted();
    },
    async release() {
      if (isReleased) return;
      isReleased = true;
      clearInterval(timer);
      await renewing;
      if (!lost.signal.aborted) await isNext(true);
    },
  };
}

/** True also where the entry stands because the reply to this very call was lost. */
async function createEntry(store: Store, fingerprint: string, n: number, entry: Entry): Promise<boolean> {
  const key = leaseKey(fingerprint, n);
  if (await store.create(key, encodeJson(entry))) return true;
  const standing = await readJson(store, entrySchema, key);
  return standing?.id === entry.id && standing.until === entry.until;
}

async function newestEntry(store: Store, fingerprint: string): Promise<[number, Entry | undefined]> {
  let newest = 0;
  for await (const { key } of store.list(leasesPrefix(fingerprint)))
    newest = Math.max(newest, numberOfKey(key));
  return [
    newest,
    newest === 0 ? undefined : await readJson(store, entrySchema, leaseKey(fingerprint, newest)),
  ];
}

function busy(store: Store, entry: Entry | undefined): ConfigError {
  const who = entry
    ? `${entry.holder} builds it, until ${entry.until} at least`
    : 'another process builds it';
  return new ConfigError(
    'index-busy',
    `the index of ${store.uri} is being built: ${who}; wait for it, and try again`,
  );
}
