/** `lensmill status`: what the store holds of a run, and what Redis knows of its progress. */
import type { Command } from 'commander';
import { readCertificates, type StoredCertificate } from '../certificate.ts';
import { ConfigError } from '../errors.ts';
import { queueOf } from '../producer/drive.ts';
import { checkRedis } from '../redis/connection.ts';
import { listRuns, readRequest } from '../runs/run.ts';
import { readStatus, type StoredStatus } from '../runs/status.ts';
import { listRetries } from '../runs/view.ts';
import type { Store } from '../stores/store.ts';
import { type LiveStatus, readLiveStatus } from '../telemetry/live-status.ts';
import { certificateLine } from './certificate.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { placeSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { throughputLines } from './speed.ts';

/** What Redis knows is there only where Redis is named and answers. */
export interface RunStatus extends StoredStatus, Partial<LiveStatus> {
  /** Where one run is asked for: its retries, oldest first, and its rows with theirs in place of those that failed. */
  retries?: RunStatus[];
  view?: { ok: number; failed: number };
  /** Where one run is asked for: what its precision costs, if that was measured (the newest of it, else of its model). */
  certificate?: StoredCertificate;
}

export function addStatusCommand(program: Command): void {
  addCommand(program, 'status', {
    summary: "list an output's runs, or show one",
    arguments: [['[run]', 'id of the run']],
    settings: ['output', 'redis', 'queue', 'pricePerHour', ...placeSettings],
    examples: [
      'lensmill status --output ./index',
      'lensmill status 20261124-091233-3fa2 --output s3://indexes/photos --json',
    ],
    async act(context, [id]) {
      const store = await openForReading(context.settings);
      try {
        if (id === undefined) {
          const runs = await Promise.all((await listRuns(store)).map((run) => readStatus(store, run)));
          context.print(runs, runs.map(oneLine).join('\n') || `no runs in ${store.uri}`);
        } else {
          const stored = await readStatus(store, id);
          const status = {
            ...(await withRetries(store, stored)),
            ...(await askRedis(context, store, stored)),
            ...(await findCertificate(store, id)),
          };
          context.print(status, inFull(status, store));
        }
        return exitCodes.done;
      } finally {
        await store.close();
      }
    },
  });
}

async function withRetries(store: Store, status: RunStatus): Promise<RunStatus> {
  const { ok, failed } = status;
  if (ok === undefined || failed === undefined) return status;
  const ids = await listRetries(store, status.run);
  if (ids.length === 0) return status;
  const retries = await Promise.all(ids.map((id) => readStatus(store, id)));
  const mended = retries.reduce((sum, retry) => sum + (retry.ok ?? 0), 0);
  return { ...status, retries, view: { ok: ok + mended, failed: failed - mended } };
}

async function findCertificate(store: Store, id: string): Promise<Pick<RunStatus, 'certificate'>> {
  const { model } = await readRequest(store, id);
  const all = await readCertificates(store, model.fingerprint);
  const certificate = all.findLast(({ candidate }) => candidate.run === id) ?? all.at(-1);
  return certificate ? { certificate } : {};
}

async function askRedis(
  { settings, log }: Context,
  store: Store,
  status: RunStatus,
): Promise<Partial<LiveStatus>> {
  if (settings.redis === undefined) return {};
  try {
    await checkRedis(settings.redis);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    log.warn({ error: error.message }, 'what the queue holds is not shown');
    return {};
  }
  const address = { redisUrl: settings.redis, name: queueOf(settings, store) };
  return readLiveStatus(address, status, settings.pricePerHour);
}

function oneLine({ run, state, shards, committed, items, failed, model }: RunStatus): string {
  const progress =
    state === 'done' ? `${items} images, ${failed} failed` : `${committed} of ${shards} shards`;
  return `${run}  ${state.padEnd(10)}  ${progress}  ${model}`;
}

function inFull(status: RunStatus, store: Store): string {
  const { run, state, source, model, shards, committed, items, ok, failed, queue, failures = {} } = status;
  const { retryOf, retries = [], view, queueState, reason, throughput, certificate } = status;
  const stillFailed = view?.failed ?? failed ?? 0;
  const lines = [
    `run     ${run}: ${state}${retryOf ? `, a retry of ${retryOf}` : ''}`,
    `source  ${source}`,
    `model   ${model}`,
    `shards  ${committed} of ${shards} are in the store; ${items} images in all`,
    ...(state === 'done' ? [`images  ${ok} embedded, ${failed} failed`] : []),
    ...retries.map(retryLine),
    ...(view ? [`in all  ${view.ok} embedded, ${view.failed} failed`] : []),
    ...(queue
      ? [
          `queue   ${queueState ?? 'not in Redis'}: ${queue.waiting} waiting, ${queue.active} active, ${queue.delayed} delayed`,
        ]
      : []),
    ...(reason ? [`blocked ${reason}`] : []),
    ...Object.entries(failures).map(([shard, message]) => `failed  shard ${shard}: ${message}`),
    ...(throughput ? throughputLines(throughput) : []),
    ...(certificate ? [`against fp32: ${certificateLine(certificate)}`] : []),
    ...(state === 'done' ? [] : [`next    lensmill resume ${run} --output ${store.uri}`]),
    ...(stillFailed > 0 ? [`next    lensmill retry ${retryOf ?? run} --failed --output ${store.uri}`] : []),
  ];
  return lines.join('\n');
}

function retryLine({ run, state, items, ok, failed }: RunStatus): string {
  const result = state === 'done' ? `${ok} mended, ${failed} failed again` : `${items} images`;
  return `retry   ${run}: ${state}, ${result}`;
}
