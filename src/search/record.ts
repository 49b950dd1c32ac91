/**
 * What stands in the store about retrieval indexes. A generation is written last, so it makes a build visible: it names the
 * version of the Lance table that holds it. Versions that no generation names are builds that go on, or that ended early.
 */
import pMap from 'p-map';
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import {
  generationKey,
  generationsPrefix,
  indexesPrefix,
  numberOfKey,
  retryNumber,
  successKey,
} from '../layout.ts';
import { identitySchema } from '../models/identity.ts';
import { encodeJson, listRuns, type RunRequest, readJson, readRequest } from '../runs/run.ts';
import type { Store } from '../stores/store.ts';
import { type IndexRecord, tableLayout } from './search-index.ts';

const count = z.int().nonnegative();

const recordSchema: z.ZodType<IndexRecord> = z.object({
  v: z.int().positive(),
  generation: z.int().positive(),
  model: identitySchema,
  images: count,
  leftOut: z.record(z.string(), count),
  runs: z.array(z.string()),
  kind: z.enum(['exact', 'ivf-rq']),
  parameters: z.record(z.string(), z.number()),
  version: z.int().positive(),
  builtAt: z.iso.datetime(),
  lensmill: z.string(),
});

/** Runs that are looked at at once. */
const concurrency = 16;

/** The newest generation of a fingerprint's index; its first 16 digits are enough. */
export async function findRecord(
  store: Pick<Store, 'read' | 'list'>,
  fingerprint: string,
): Promise<IndexRecord | undefined> {
  let newest = 0;
  for await (const { key } of store.list(generationsPrefix(fingerprint)))
    newest = Math.max(newest, numberOfKey(key));
  return newest === 0 ? undefined : readJson(store, recordSchema, generationKey(fingerprint, newest));
}

/** Why an index cannot be read: its tables have the layout of another version. */
export function otherLayout({ uri }: Store, { v, lensmill }: IndexRecord): ConfigError {
  const remedy =
    v < tableLayout
      ? `bring it up to date with \`lensmill build-index ${uri}\``
      : 'use that version, or a later one';
  return new ConfigError(
    'other-version',
    `the index in ${uri} was built by lensmill ${lensmill}, whose tables this version does not read: ${remedy}`,
  );
}

/** Makes a build visible. False where another builder made this generation: this one's is not to be seen. */
export async function createRecord(store: Store, record: IndexRecord): Promise<boolean> {
  return store.create(generationKey(record.model.fingerprint, record.generation), encodeJson(record));
}

/** The newest generation of each index of an output, the one that was built last first. */
export async function listIndexes(store: Pick<Store, 'read' | 'list'>): Promise<IndexRecord[]> {
  const records: IndexRecord[] = [];
  for (let after: string | undefined; ; ) {
    let folder: string | undefined;
    for await (const { key } of store.list(indexesPrefix, after)) {
      folder = key.slice(indexesPrefix.length).split('/', 1)[0];
      break;
    }
    if (folder === undefined) return records.toSorted((a, b) => (a.builtAt < b.builtAt ? 1 : -1));
    const record = await findRecord(store, folder);
    if (record) records.push(record);
    // '0' comes right after '/': behind every key of this folder, and before those of any other that is still to come.
    after = `${indexesPrefix}${folder}0`;
  }
}

/**
 * Finished runs, retries too, in the order in which their rows count: by the time of their claim, but a retry right behind
 * the run that it mends, as an increment of that run replaces what either has.
 */
export async function finishedRuns(store: Store, fingerprint?: string): Promise<RunRequest[]> {
  const requests = await pMap(await listRuns(store), (run) => readRequest(store, run), { concurrency });
  const asked = requests.filter(({ model }) => (fingerprint ?? model.fingerprint) === model.fingerprint);
  const finished = new Set(await whichFinished(store, asked));
  const claims = new Map(requests.map(({ run, createdAt }) => [run, createdAt]));
  const placeOf = ({ run, retryOf, createdAt }: RunRequest): string[] => {
    const mended = retryOf ?? run;
    return [claims.get(mended) ?? createdAt, mended, retryOf === null ? '' : createdAt, run];
  };
  return asked.filter((one) => finished.has(one)).toSorted((a, b) => compareLists(placeOf(a), placeOf(b)));
}

/** Asks whether a success is there, and reads none: it names every part of its run. */
async function whichFinished(store: Store, requests: readonly RunRequest[]): Promise<RunRequest[]> {
  const found = await pMap(requests, ({ run }) => store.head(successKey(run)), { concurrency });
  return requests.filter((_, at) => found[at] !== undefined);
}

/** A run and its retries, as the index holds them. Throws ConfigError 'no-run' where the index does not hold it. */
export function heldRuns(run: string, { runs }: IndexRecord): string[] {
  const meant = runs.filter((held) => held === run || retryNumber(run, held) !== undefined);
  if (meant.length > 0) return meant;
  throw new ConfigError('no-run', `the index holds no run ${run}; it holds ${runs.join(', ')}`);
}

/** Finished runs of the index's fingerprint that are not in it, by id. Of those that are in it nothing is read. */
export async function unindexedRuns(store: Store, { runs, model }: IndexRecord): Promise<string[]> {
  const held = new Set(runs);
  const others = (await listRuns(store)).filter((run) => !held.has(run));
  const requests = await pMap(others, (run) => readRequest(store, run), { concurrency });
  const asked = requests.filter((request) => request.model.fingerprint === model.fingerprint);
  return (await whichFinished(store, asked)).map(({ run }) => run);
}

function compareLists(a: readonly string[], b: readonly string[]): number {
  for (const [at, left] of a.entries()) {
    const right = b[at] ?? '';
    if (left !== right) return left < right ? -1 : 1;
  }
  return 0;
}
