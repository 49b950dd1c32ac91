/** The output that a command reads or writes. */
import { ConfigError } from '../errors.ts';
import { findSuccess, listRuns, readRequest } from '../run.ts';
import { required, type Settings, s3OptionsOf } from '../settings.ts';
import { openStore } from '../stores/open-store.ts';
import type { Store } from '../stores/store.ts';

/** An output that is there and can be written. */
export async function openOutput(settings: Settings): Promise<Store> {
  const store = openStore(required(settings, 'output'), s3OptionsOf(settings));
  await store.probe();
  return store;
}

/** The run that is asked for, else the only one, or the last of the only chain of increments. Throws ConfigError 'no-run' or 'which-run'. */
export async function runOf(store: Store, asked: unknown): Promise<string> {
  if (typeof asked === 'string') return asked;
  const requests = await Promise.all((await listRuns(store)).map((run) => readRequest(store, run)));
  const finished = await Promise.all(requests.map(({ run }) => findSuccess(store, run)));
  const continued = new Set(requests.filter((_, at) => finished[at]).map(({ since }) => since));
  // The rows of a retry are in the view of the run that it mends, those of a run in the table of the one that goes on from it.
  const runs = requests.flatMap(({ run, retryOf }) => (retryOf === null && !continued.has(run) ? [run] : []));
  const [only] = runs;
  if (only === undefined) throw new ConfigError('no-run', `no runs in ${store.uri}`);
  if (runs.length > 1)
    throw new ConfigError(
      'which-run',
      `${store.uri} holds ${runs.length} runs: choose with --run ${runs.join(' | ')}`,
    );
  return only;
}
