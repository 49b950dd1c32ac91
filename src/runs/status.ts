/** How far a run is, as the store tells. */

import type { Store } from '../stores/store.ts';
import { listParts } from './committed.ts';
import {
  findRun,
  findSuccess,
  type Run,
  type RunRequest,
  readRequest,
  type Success,
  sourceName,
} from './run.ts';

export interface StoredStatus {
  run: string;
  state: 'planning' | 'unfinished' | 'done';
  source: string;
  model: string;
  shards: number;
  /** Shards whose part stands in the store. */
  committed: number;
  items: number;
  /** Of a finished run, by itself. */
  ok?: number;
  failed?: number;
  /** The run that this one mends. */
  retryOf?: string;
}

/** A run's records, as far as they are written: they never change. */
export interface RunRecords {
  request: RunRequest;
  run: Run | undefined;
  success: Success | undefined;
}

/** Reads what `known` does not hold yet. Throws ConfigError 'no-run'. */
export async function readRecords(store: Store, id: string, known?: RunRecords): Promise<RunRecords> {
  const request = known?.request ?? (await readRequest(store, id));
  const run = known?.run ?? (await findRun(store, id));
  const success = known?.success ?? (run && (await findSuccess(store, id)));
  return { request, run, success };
}

/** Throws ConfigError 'no-run'. */
export async function readStatus(store: Store, id: string): Promise<StoredStatus> {
  const records = await readRecords(store, id);
  const isUnfinished = records.run && !records.success;
  return statusOf(records, isUnfinished ? (await listParts(store, id)).size : 0);
}

/** `committed` is asked for only of an unfinished run. */
export function statusOf({ request, run, success }: RunRecords, committed: number): StoredStatus {
  const { retryOf } = request;
  const base = {
    run: request.run,
    source: sourceName(request),
    model: request.model.ref,
    ...(retryOf && { retryOf }),
  };
  if (!run) return { ...base, state: 'planning', shards: 0, committed: 0, items: 0 };
  const { shards, items } = run;
  if (!success) return { ...base, state: 'unfinished', shards, committed, items };
  const { ok, failed } = success;
  return { ...base, state: 'done', shards, committed: shards, items, ok, failed };
}
