/** An output, open: its runs and their rows. */
import { ConfigError } from '../errors.ts';
import { queueOf } from '../producer/drive.ts';
import { checkRedis } from '../redis/connection.ts';
import { readImage } from '../runs/read-image.ts';
import { listRuns, readRun, readSuccess } from '../runs/run.ts';
import { readStatus } from '../runs/status.ts';
import { openTable, runOf } from '../runs/table.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import { readLiveStatus } from '../telemetry/live-status.ts';
import { isSound, type Verification as Proof, verifyRun } from '../verify.ts';
import { callerOf } from './caller.ts';
import { openOutputStore, remember } from './opened.ts';
import { readRow, readRows } from './rows.ts';
import type { OpenOptions, Output, RunStatus, Verification, Watching } from './types.ts';

/**
 * Opens a folder or `s3://bucket/prefix` that runs are written to, or shall be. Throws ConfigError where it cannot be listed:
 * 'no-bucket', 'bad-credentials', 'access-denied', 'wrong-region', 'store-unreachable'. Nothing is written before something is to be.
 */
export async function openOutput(uri: string, options: OpenOptions = {}): Promise<Output> {
  const { settings, log } = callerOf(options);
  const { store } = await openOutputStore(uri, options);

  /** What is known of it where Redis is named and answers. */
  async function withQueue(status: RunStatus): Promise<RunStatus> {
    if (settings.redis === undefined || status.state !== 'unfinished') return status;
    try {
      await checkRedis(settings.redis);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      log.warn({ error: error.message }, 'what the queue holds is not told');
      return status;
    }
    const address = { redisUrl: settings.redis, name: queueOf(settings, store) };
    const { queue, queueState: state, reason, failures } = await readLiveStatus(address, status);
    return { ...status, queue: { ...queue, failures, ...(state && { state }), ...(reason && { reason }) } };
  }

  const output: Output = {
    uri: store.uri,
    async runs() {
      return Promise.all((await listRuns(store)).map((run) => readStatus(store, run)));
    },
    run: async (id) => withQueue(await readStatus(store, id)),
    async *rows({ run, signal } = {}) {
      signal?.throwIfAborted();
      yield* readRows(store, await openTable(store, await runOf(store, run)), signal);
    },
    row: async (id, { run } = {}) => readRow(store, await runOf(store, run), id),
    async readImage(id, { run, signal } = {}) {
      const { content, sha256 } = await readImage(
        store,
        { run: await runOf(store, run), id },
        sourceOptionsOf(settings),
        { timeoutMs: settings.readTimeoutMs, ...(signal && { signal }) },
      );
      return { content, sha256 };
    },
    async verify(run, { signal, onProgress }: Partial<Watching> = {}) {
      signal?.throwIfAborted();
      const planned = await readRun(store, run);
      const proof = await verifyRun(store, planned, await readSuccess(store, run), {
        onProgress: (done) => {
          signal?.throwIfAborted();
          onProgress?.({ what: 'parts', done, total: Math.max(done, planned.shards) });
        },
      });
      return verificationOf(proof);
    },
    close: () => store.close(),
    [Symbol.asyncDispose]: () => store.close(),
  };
  return remember(output, { store, options });
}

function verificationOf(proof: Proof): Verification {
  const { run, items, ok, failed, gone, parts } = proof;
  const problems = problemsOf(proof);
  return { run, isSound: isSound(proof), items, ok, failed, gone, parts, problems };
}

function problemsOf({ problems, retries }: Proof): string[] {
  return [...problems, ...retries.flatMap(problemsOf)];
}
