/** The process beside a worker that builds an index: reading parts would hold up the threads that serve the model. */

import { readRequest } from '../src/runs/run.ts';
import { indexFinishedRun } from '../src/search/index-run.ts';
import { s3OptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import { openStore } from '../src/stores/open-store.ts';
import { openLog } from '../src/telemetry/log.ts';

export interface IndexerRequest {
  output: string;
  run: string;
  /** As `WorkerOptions` has it. */
  worker?: string | undefined;
  settings: Pick<Settings, 'logLevel' | 's3Endpoint' | 's3Region' | 'readTimeoutMs'>;
}

const stopped = new AbortController();
process.on('SIGTERM', () => stopped.abort());
process.on('disconnect', () => stopped.abort());
// Ctrl-C, or its end, reaches every process of a terminal; this one ends with its worker.
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => undefined);

process.once('message', async ({ output, run, worker, settings }: IndexerRequest) => {
  const log = openLog(settings.logLevel, (line) => process.stderr.write(line), worker ? { worker } : {});
  const s3 = s3OptionsOf(settings);
  const store = openStore(output, s3);
  try {
    await store.probe();
    await indexFinishedRun(store, await readRequest(store, run), { s3, log, signal: stopped.signal });
  } catch (error) {
    if (!stopped.signal.aborted) throw error;
  } finally {
    await store.close();
    if (process.connected) process.disconnect();
  }
});
