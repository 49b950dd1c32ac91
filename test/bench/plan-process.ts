/** What each process of the planning bench does, apart from the others so that its memory is its own: see plan.ts. */
import { keepHeapSmall } from '../../src/cli/heap.ts';
import { planRun } from '../../src/plan.ts';
import type { Run } from '../../src/runs/run.ts';
import { listInParallel } from '../../src/s3/listing.ts';
import { Bucket } from '../../src/s3/s3.ts';
import { openSource } from '../../src/sources/open-source.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { startListingServer } from '../helpers/listing-server.ts';
import { makeRequest } from '../helpers/requests.ts';
import { makeSpec, sourceDefaults } from '../helpers/source-options.ts';

export type Role = 'serve' | 'list' | 'plan';

export interface Cost {
  seconds: number;
  /** The most that the process held, all its code included. */
  megabytes: number;
}

export interface Planned extends Cost {
  run: Run;
}

/** Folders of the archive. */
export const months = 12;

const archive = 's3://archive/photos';

async function serve(items: number, latencyMs: number): Promise<void> {
  const perMonth = Math.ceil(items / months);
  const keys = Array.from({ length: items }, (_, at) => {
    const month = String(Math.floor(at / perMonth) + 1).padStart(2, '0');
    return `photos/2024/${month}/IMG_${String(at).padStart(10, '0')}.jpg`;
  });
  const server = await startListingServer({ keys, latencyMs });
  process.on('message', () => process.send?.(server.listed));
  process.send?.(server.endpoint);
}

async function list(endpoint: string, manner: string): Promise<Cost> {
  const bucket = new Bucket(archive, { ...sourceDefaults.s3, endpoint });
  const started = performance.now();
  for await (const _ of manner === 'plain' ? bucket.list({}) : listInParallel(bucket, {}));
  bucket.close();
  return costSince(started);
}

async function plan(endpoint: string, output: string): Promise<Planned> {
  const source = openSource(makeSpec([archive]), {
    ...sourceDefaults,
    s3: { ...sourceDefaults.s3, endpoint },
  });
  const request = makeRequest('bench', { shardSize: 512 });
  keepHeapSmall();
  const started = performance.now();
  const run = await planRun(openStore(output, sourceDefaults.s3), source, request, {
    onProgress: (progress) => process.send?.(progress),
  });
  await source.close();
  return { ...costSince(started), run };
}

function costSince(started: number): Cost {
  const megabytes = Math.round(process.resourceUsage().maxRSS / 1024);
  return { seconds: (performance.now() - started) / 1000, megabytes };
}

if (import.meta.main) {
  process.on('disconnect', () => process.exit()); // the bench is gone
  const [role, first = '', second = ''] = process.argv.slice(2);
  if (role === 'serve') await serve(Number(first), Number(second));
  else {
    process.send?.(await (role === 'list' ? list(first, second) : plan(first, second)));
    process.disconnect();
  }
}
