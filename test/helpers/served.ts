/** An output of real pictures with its index, and the server of it. */
import { join } from 'node:path';
import type { FastifyInstance, InjectOptions } from 'fastify';
import { cpu } from '../../src/devices/cpu.ts';
import type { Run } from '../../src/runs/run.ts';
import { buildIndex } from '../../src/search/build.ts';
import { s3OptionsOf } from '../../src/settings/options.ts';
import type { Settings } from '../../src/settings/table.ts';
import { openStore } from '../../src/stores/open-store.ts';
import type { Store } from '../../src/stores/store.ts';
import { openLog } from '../../src/telemetry/log.ts';
import { openServer, type ServerOptions } from '../../src/web/server.ts';
import { smallModel } from './cli.ts';
import { contextOf } from './context.ts';
import { indexHere } from './index-here.ts';
import { tempFolder } from './temp.ts';

export const token = 'a-token-for-tests';
export const bearer = { authorization: `Bearer ${token}` };

export interface IndexedOutput {
  store: Store;
  settings: Settings;
  run: Run;
}

/** `pictures`: a folder. */
export async function makeIndexedOutput(pictures: string, id = 'day'): Promise<IndexedOutput> {
  const store = openStore(tempFolder(), s3OptionsOf(contextOf({}).settings));
  await store.probe();
  const context = contextOf({
    model: smallModel,
    device: 'cpu',
    lanes: 1,
    sessions: 1,
    cacheDir: tempFolder(),
  });
  const run = await indexHere(context, store, { id, sources: [pictures] });
  await buildIndex(store, { fingerprint: run.model.fingerprint, s3: s3OptionsOf(context.settings) });
  return { store, settings: context.settings, run };
}

/** Closed by whoever asked; `lines` gets what is logged. */
export async function serve(
  { store, settings }: Pick<IndexedOutput, 'store' | 'settings'>,
  options: Partial<ServerOptions> = {},
  lines: string[] = [],
): Promise<FastifyInstance> {
  return openServer({
    store,
    settings,
    index: { s3: s3OptionsOf(settings) },
    device: cpu,
    host: '127.0.0.1',
    token,
    log: openLog('debug', (line) => void lines.push(line)),
    pageFolder: join(tempFolder(), 'none'),
    ...options,
  });
}

/** A request with the token, and the JSON that it was answered with. */
export async function ask(
  server: FastifyInstance,
  url: string,
  options: InjectOptions = {},
): Promise<{ status: number; body: ReturnType<JSON['parse']> }> {
  const reply = await server.inject({
    method: 'GET',
    url,
    ...options,
    headers: { host: 'localhost', ...bearer, ...options.headers },
  });
  return { status: reply.statusCode, body: reply.body === '' ? undefined : reply.json() };
}
