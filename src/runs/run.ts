/** A run's three records in the store: the request that claims its id, the run that its plan makes, its success. */
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import { isAnyRunId, requestKey, runKey, runsPrefix, successKey } from '../layout.ts';
import { identitySchema } from '../models/identity.ts';
import { publicUrl } from '../objects/web-url.ts';
import { extrasName, features, runHead } from '../parts/row-extras.ts';
import type { Store } from '../stores/store.ts';

const runRequest = z.object({
  v: z.literal(1),
  run: z.string(),
  /** The version that planned it; workers of another one leave its shards alone. */
  lensmill: z.string(),
  /** The run whose failed images this one does again; their new rows replace the old ones in that run's view. */
  retryOf: z.string().nullable(),
  /** Of a retry: only the images that failed by one of these codes. Absent: all that failed. */
  retryCodes: z.array(z.string()).optional(),
  /** The finished run that this one goes on from: it has items only for what is new, changed or gone since. */
  since: z.string().nullable(),
  /** Bytes that a finished run of this output, or this one, has embedded already are not embedded again. */
  reuse: z.boolean(),
  source: z.object({
    uris: z.array(z.string()).min(1),
    include: z.array(z.string()).nullable(),
    exclude: z.array(z.string()),
    archives: z.boolean(),
    list: z.object({
      uri: z.string().nullable(),
      id: z.string().nullable(),
      keep: z.array(z.string()),
    }),
  }),
  model: identitySchema,
  /** Store key of weights that no hub has; null for presets and random weights, which every worker can get itself. */
  weightsKey: z.string().nullable(),
  /** Store key of what an int8 model is quantised by; null in other precisions, and where it is baked into the weights. */
  calibrationKey: z.string().nullable().default(null),
  topK: z.number().int().positive(),
  /** What its rows hold beside what all do (parts/row-extras.ts). The head lies beside the weights. */
  head: runHead.optional(),
  features: features.optional(),
  embedding: z.enum(['float32', 'float16']),
  /** Whoever finishes the run brings the retrieval index of its model up to date. Absent: nobody does. */
  buildIndex: z.boolean().optional(),
  shardSize: z.number().int().positive(),
  maxPixels: z.number().int().positive(),
  maxBytes: z.number().int().positive(),
  createdAt: z.iso.datetime(),
});

const run = runRequest.extend({
  pages: z.number().int().nonnegative(),
  shards: z.number().int().nonnegative(),
  items: z.number().int().nonnegative(),
  /** Of all items, as listed. */
  bytes: z.number().int().nonnegative(),
  /** Objects that the globs left out. */
  skipped: z.number().int().nonnegative(),
  /** Items that an earlier run has a row of. */
  replaced: z.number().int().nonnegative(),
  /** Of those, the ones that the source no longer has. */
  gone: z.number().int().nonnegative(),
  /** Images that are as they were: their rows stand in earlier runs. */
  kept: z.number().int().nonnegative(),
});

const success = z.object({
  v: z.literal(1),
  run: z.string(),
  fingerprint: z.string(),
  /** items = ok + failed + gone. */
  items: z.number(),
  ok: z.number(),
  failed: z.number(),
  gone: z.number(),
  /** Of those that are ok or failed, the ones whose bytes were known already. */
  reused: z.number(),
  /** Failed items by reason. */
  failures: z.record(z.string(), z.number()),
  /** In the order of their shards. */
  parts: z.array(
    z.object({
      key: z.string(),
      shard: z.number(),
      rows: z.number(),
      ok: z.number(),
      failed: z.number(),
      gone: z.number(),
      /** Size of the part. */
      bytes: z.number(),
      sha256: z.string(),
    }),
  ),
});

/** All that decides a run's rows. A resumed run takes it from here, never from the flags of the day. */
export type RunRequest = z.infer<typeof runRequest>;
/** Rows of different kinds never meet in one run. */
export interface RunNeeds {
  /** The version of lensmill that planned it. */
  lensmill: string;
  /** Its model, with all that the graph depends on. */
  model: string;
}
/** A planned run. */
export type Run = z.infer<typeof run>;
/** A finished run: the parts that count. It holds no time and no host, so whoever finalizes writes the same bytes. */
export type Success = z.infer<typeof success>;

/** How provenance names a run's sources; run.json has them all. */
export function sourceName({ source: { uris } }: Pick<RunRequest, 'source'>): string {
  const names = uris.map(publicUrl);
  return names.length <= 3 ? names.join(' ') : `${names[0]} and ${names.length - 1} more`;
}

/** What a worker must be and hold to do the run's shards. */
export function needsOf({ lensmill, model, topK, ...run }: RunRequest): RunNeeds {
  const extras = extrasName(run);
  return { lensmill, model: `${model.fingerprint} top ${topK}${extras && `, ${extras}`}` };
}

/** Claims the run id. Throws ConfigError 'run-exists'. */
export async function claimRun(store: Store, request: RunRequest): Promise<void> {
  const [key, body] = [requestKey(request.run), encodeJson(request)];
  if (await store.create(key, body)) return;
  // The reply to this very call may have been lost: no other one has our time.
  const standing = await store.read(key);
  if (standing && Buffer.compare(standing, body) === 0) return;
  throw runExists(store, request.run);
}

/** Throws ConfigError 'run-exists': for whoever claims it after long work. */
export async function throwIfClaimed(store: Store, id: string): Promise<void> {
  if (await store.head(requestKey(id))) throw runExists(store, id);
}

function runExists(store: Store, id: string): ConfigError {
  return new ConfigError(
    'run-exists',
    `run ${id} exists in ${store.uri}: continue it with \`lensmill resume ${id} --output ${store.uri}\`, or give another --run`,
  );
}

export async function findRequest(store: Store, id: string): Promise<RunRequest | undefined> {
  return readRecord(store, runRequest, requestKey, id);
}

/** Throws ConfigError 'no-run'. */
export async function readRequest(store: Store, id: string): Promise<RunRequest> {
  const found = await findRequest(store, id);
  if (found) return found;
  throw noRun(store, id);
}

/** The planned run, or `undefined` while its plan is not complete. */
export async function findRun(store: Store, id: string): Promise<Run | undefined> {
  return readRecord(store, run, runKey, id);
}

/** Throws ConfigError 'no-run' or 'not-planned'. */
export async function readRun(store: Store, id: string): Promise<Run> {
  const found = await findRun(store, id);
  if (found) return found;
  await readRequest(store, id);
  throw new ConfigError(
    'not-planned',
    `the planning of run ${id} was not finished: \`lensmill resume ${id} --output ${store.uri}\``,
  );
}

/** Completes a plan. Another planner of the same run may have been first: its run stands. */
export async function createRun(store: Store, planned: Run): Promise<Run> {
  if (await store.create(runKey(planned.run), encodeJson(planned))) return planned;
  return readRun(store, planned.run);
}

export async function findSuccess(store: Store, id: string): Promise<Success | undefined> {
  return readRecord(store, success, successKey, id);
}

/** Throws ConfigError 'no-run' or 'not-finished'. */
export async function readSuccess(store: Store, id: string): Promise<Success> {
  const found = await findSuccess(store, id);
  if (found) return found;
  await readRun(store, id);
  throw new ConfigError(
    'not-finished',
    `run ${id} is not finished: \`lensmill resume ${id} --output ${store.uri}\``,
  );
}

/** The run of an output that was claimed last, of those that are wanted. Looks at every run's request. */
export async function newestRun(
  store: Store,
  isWanted: (request: RunRequest) => boolean | Promise<boolean>,
): Promise<RunRequest | undefined> {
  let newest: RunRequest | undefined;
  for (const id of await listRuns(store)) {
    const request = await readRequest(store, id);
    if ((await isWanted(request)) && (!newest || request.createdAt > newest.createdAt)) newest = request;
  }
  return newest;
}

/** Every run of an output whose id starts with `start`, by id. Looks at one object of each. What else lies there is none. */
export async function listRuns(store: Store, start = ''): Promise<string[]> {
  const runs: string[] = [];
  for (let after: string | undefined; ; ) {
    let found: string | undefined;
    for await (const { key } of store.list(runsPrefix + start, after)) {
      found = key;
      break;
    }
    if (found === undefined) return runs.sort();
    const [run = '', below] = found.slice(runsPrefix.length).split('/', 2);
    if (below !== undefined && isAnyRunId(run)) runs.push(run);
    // '0' comes right after '/': behind every key of this run, and before those of any other that is still to come.
    after = below === undefined ? found : `${runsPrefix}${run}0`;
  }
}

/** What no run can be called, as a user may type it, is no key either. */
async function readRecord<T>(
  store: Store,
  schema: z.ZodType<T>,
  keyOf: (run: string) => string,
  id: string,
): Promise<T | undefined> {
  return isAnyRunId(id) ? readJson(store, schema, keyOf(id)) : undefined;
}

/** A JSON object of the store, or `undefined`. One that does not fit its schema is an error that names it. */
export async function readJson<T>(
  store: Pick<Store, 'read'>,
  schema: z.ZodType<T>,
  key: string,
): Promise<T | undefined> {
  const bytes = await store.read(key);
  return bytes && decodeJson(schema, bytes, key);
}

export function encodeJson(value: unknown): Uint8Array {
  return Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
}

function decodeJson<T>(schema: z.ZodType<T>, bytes: Uint8Array, key: string): T {
  try {
    return schema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (error) {
    const detail = error instanceof z.ZodError ? z.prettifyError(error).replaceAll('\n', ' ') : String(error);
    throw new Error(`${key} is damaged, or was written by another version of lensmill: ${detail}`, {
      cause: error,
    });
  }
}

function noRun(store: Store, id: string): ConfigError {
  return new ConfigError(
    'no-run',
    `no run ${id} in ${store.uri}; \`lensmill status --output ${store.uri}\` lists the runs`,
  );
}
