/** What each process of the rerun bench does, apart from the others so that its memory is its own: see increment.ts. */
import { identify } from '../../src/models/identity.ts';
import { planRun } from '../../src/plan.ts';
import { claimRun, type Run, type RunRequest } from '../../src/runs/run.ts';
import { openTable, tableRows } from '../../src/runs/table.ts';
import { changedItems } from '../../src/since.ts';
import { openSource } from '../../src/sources/open-source.ts';
import type { Source } from '../../src/sources/source.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { finish } from '../helpers/finished-run.ts';
import { startListingServer } from '../helpers/listing-server.ts';
import { makeRequest } from '../helpers/requests.ts';
import { makeSpec, sourceDefaults } from '../helpers/source-options.ts';
import { wrapStore } from '../helpers/store-wrappers.ts';

export type Role = 'serve' | 'base' | 'increment';

/** changed: of each hundred objects the first has another etag, the second is gone, and a new one follows the third. */
export type ArchiveState = 'unchanged' | 'changed';

export interface Served {
  endpoint: string;
  lists: number;
  others: number;
}

export interface Incremented {
  run: Run;
  seconds: number;
  /** The most that the process held, all its code included. */
  megabytes: number;
  storeReads: number;
  storeBytes: number;
}

const archive = 's3://archive/photos';
const objectsPerFolder = 10_000;

async function serve(state: ArchiveState, items: number, latencyMs: number): Promise<void> {
  const isChanged = state === 'changed';
  const keys = Array.from({ length: items }, (_, at) => {
    const folder = String(Math.floor(at / objectsPerFolder)).padStart(4, '0');
    const name = `photos/${folder}/IMG_${String(at).padStart(10, '0')}`;
    if (isChanged && at % 100 === 1) return [];
    return isChanged && at % 100 === 2 ? [`${name}.jpg`, `${name}a.jpg`] : [`${name}.jpg`];
  }).flat();
  const factsOf = (key: string) => ({
    etag: isChanged && key.endsWith('00.jpg') ? `new ${key}` : key,
    size: 1000, // what every row of a made run has
  });
  const { endpoint, requests } = await startListingServer({ keys, factsOf, latencyMs });
  const report = (): void => {
    const lists = requests.filter((query) => query.get('list-type') === '2').length;
    process.send?.({ endpoint, lists, others: requests.length - lists } satisfies Served);
  };
  process.on('message', report);
  report();
}

/** A finished run, its embeddings short: nobody reads them. */
async function makeBase(endpoint: string, output: string): Promise<void> {
  const store = openStore(output, sourceDefaults.s3);
  await store.probe();
  const source = openArchive(endpoint);
  const request = requestOf('base', null);
  await claimRun(store, request);
  await finish(store, await planRun(store, source, request), {});
  await source.close();
  process.send?.('made');
}

async function increment(endpoint: string, output: string, name: string): Promise<void> {
  const opened = openStore(output, sourceDefaults.s3);
  let [storeReads, storeBytes] = [0, 0];
  const store = wrapStore(opened, {
    async read(key, range) {
      const bytes = await opened.read(key, range);
      storeReads += 1;
      storeBytes += bytes?.length ?? 0;
      return bytes;
    },
  });
  const source = openArchive(endpoint);
  const request = requestOf(name, 'base');
  const started = performance.now();
  await claimRun(store, request);
  const table = await openTable(store, 'base');
  const lister = changedItems(source, (after) => tableRows(store, table, after), request);
  const run = await planRun(store, lister, request, { rowsBefore: table.rows });
  const seconds = (performance.now() - started) / 1000;
  await source.close();
  const megabytes = Math.round(process.resourceUsage().maxRSS / 1024);
  process.send?.({ run, seconds, megabytes, storeReads, storeBytes } satisfies Incremented);
}

function openArchive(endpoint: string): Source {
  return openSource(makeSpec([archive]), { ...sourceDefaults, s3: { ...sourceDefaults.s3, endpoint } });
}

function requestOf(run: string, since: string | null): RunRequest {
  const request = makeRequest(run, { since, topK: 1, shardSize: 512 });
  const { fingerprint: _, ...model } = request.model;
  return {
    ...request,
    source: { ...request.source, uris: [archive] },
    model: identify({ ...model, dimension: 16 }),
  };
}

if (import.meta.main) {
  process.on('disconnect', () => process.exit()); // the bench is gone
  const [role, first = '', second = '', third = ''] = process.argv.slice(2);
  if (role === 'serve')
    await serve(first as ArchiveState, Number(second), Number(third)); // increment.ts alone starts it
  else {
    await (role === 'base' ? makeBase(first, second) : increment(first, second, third));
    process.disconnect();
  }
}
