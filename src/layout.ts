/** Every key that lensmill writes to a store, and the only place that spells one. */

/** Run ids become object keys and BullMQ job ids: no ':' or '/', and never digits alone. */
const runIdPattern = /^(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export function isRunId(text: string): boolean {
  return runIdPattern.test(text) && !text.includes('..');
}

/** The id of a run's n-th retry, n from 1. */
export const retryId = (run: string, n: number): string => `${run}.retry-${n}`;

/** What n a run id has as a retry of `run`; `undefined` where it has none. */
export function retryNumber(run: string, id: string): number | undefined {
  const n = id.startsWith(`${run}.retry-`) ? id.slice(`${run}.retry-`.length) : '';
  return /^[1-9][0-9]*$/.test(n) ? Number(n) : undefined;
}

/** Whether a new run may not have this id, because a retry may. */
export function isRetryId(id: string): boolean {
  return /\.retry-[0-9]+$/.test(id);
}

/** Whether a run, or the retry of one, can have this id. Keys are made of it, and of a retry's it may be longer. */
export function isAnyRunId(id: string): boolean {
  return isRunId(id.replace(/\.retry-[0-9]+$/, ''));
}

/** Prefix of all runs. */
export const runsPrefix = 'runs/';

/** `run.json`: written last by the planner; where it stands, the run exists. */
export const runKey = (run: string): string => `runs/${run}/run.json`;

/** What was asked for, written first by the planner: claims the run id, and lets `resume` go on with planning. */
export const requestKey = (run: string): string => `runs/${run}/plan/request.json`;

/** Index of one page of the plan: which items file it names and where each of its shards begins. */
export const pageKey = (run: string, page: number): string => `runs/${run}/plan/page-${pad(page)}.json`;

/** Items of one page. Named by content, so that a planner that was killed leaves nothing in its successor's way. */
export const pageItemsKey = (run: string, page: number, sha256: string): string =>
  `runs/${run}/plan/page-${pad(page)}-${sha256.slice(0, 16)}.jsonl`;

/** What `pageItemsKey` may have made for this page, of whatever items. */
export const isPageItemsKey = (run: string, page: number, key: string): boolean =>
  key.startsWith(`runs/${run}/plan/page-${pad(page)}-`) && /-[0-9a-f]{16}\.jsonl$/.test(key);

/** Prefix of all that a run is, its retries not included. */
export const runPrefix = (run: string): string => `runs/${run}/`;

/** Prefix of a run's parts. */
export const partsPrefix = (run: string): string => `runs/${run}/parts/`;

/** A shard's part; `attempt` only on a store that cannot create atomically. */
export const partKey = (run: string, shard: number, attempt?: string): string =>
  `runs/${run}/parts/part-${pad(shard)}${attempt === undefined ? '' : `.${attempt}`}.parquet`;

/** The shard that a part's key belongs to, or `undefined` for a key that is no part. */
export function shardOfPart(key: string): number | undefined {
  const match = /\/parts\/part-([0-9]{5,})(?:\.[a-z0-9]+)?\.parquet$/.exec(key);
  return match ? Number(match[1]) : undefined;
}

/** Written when every shard has its part; where it stands, the run is readable. */
export const successKey = (run: string): string => `runs/${run}/_SUCCESS.json`;

/** Prefix of the precision certificates of a model's numbers: they are of all runs that it makes. */
export const certificatesPrefix = (fingerprint: string): string => `certificates/${fingerprint}/`;

/** `createdAt` in ISO 8601, UTC, so that keys sort by time. */
export const certificateKey = (fingerprint: string, createdAt: string, sha256: string): string =>
  `${certificatesPrefix(fingerprint)}${createdAt.replaceAll(/[-:]|\..*/g, '')}-${sha256.slice(0, 16)}.json`;

/** Weights that no hub has, kept beside the runs so that every worker can fetch them. */
export const weightsKey = (sha256: string, extension: string): string => `models/${sha256}${extension}`;

/** Prefix of all retrieval indexes. */
export const indexesPrefix = 'index/';

/** Prefix of the retrieval index of one model's numbers; a fingerprint's first 16 digits name it. */
export const indexPrefix = (fingerprint: string): string => `${indexesPrefix}${fingerprint.slice(0, 16)}/`;

/** Below it, the folder of a Lance table; what is in there is Lance's. */
export const indexTable = 'images';

/** What makes a build of an index visible; the one with the highest number counts. */
export const generationKey = (fingerprint: string, generation: number): string =>
  `${generationsPrefix(fingerprint)}${pad(generation)}.json`;

/** Prefix of an index's generations. */
export const generationsPrefix = (fingerprint: string): string => `${indexPrefix(fingerprint)}generation-`;

/** An entry of the log that says who may build an index; the one with the highest number counts. */
export const leaseKey = (fingerprint: string, n: number): string =>
  `${leasesPrefix(fingerprint)}${pad(n)}.json`;

/** Prefix of an index's lease entries. */
export const leasesPrefix = (fingerprint: string): string => `${indexPrefix(fingerprint)}lease-`;

/** What a generation's or a lease's key counts. */
export const numberOfKey = (key: string): number => Number(/-([0-9]+)\.json$/.exec(key)?.[1]);

function pad(value: number): string {
  return String(value).padStart(5, '0');
}
