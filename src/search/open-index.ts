/** Which index of an output is meant, and its newest generation, opened. */
import { ConfigError } from '../errors.ts';
import { readRequest } from '../runs/run.ts';
import type { S3Options } from '../s3/client.ts';
import type { Store } from '../stores/store.ts';
import { ImageTable } from './lance.ts';
import { LanceIndex } from './lance-index.ts';
import { findRecord, listIndexes, otherLayout } from './record.ts';
import { type SearchIndex, tableLayout } from './search-index.ts';

export interface OpenIndexOptions {
  s3: S3Options;
  /** The index that holds, or is to hold, the rows of this run. */
  run?: string;
  /** How the fingerprint starts. */
  fingerprint?: string;
}

/** Tries to open the newest generation: one that was read may be cleaned up a day later, when there are newer ones. */
const attempts = 3;

/**
 * The newest generation of an output's index. Throws ConfigError 'no-index', which names the command that builds it;
 * 'which-index' where there are several and nothing chooses one; 'other-version' where another version of lensmill built it; 'no-run'.
 */
export async function openIndex(store: Store, options: OpenIndexOptions): Promise<SearchIndex> {
  const fingerprint = await chooseIndex(store, options);
  for (let attempt = 1; attempt <= attempts; attempt++) {
    const record = await findRecord(store, fingerprint);
    if (record && record.v !== tableLayout) throw otherLayout(store, record);
    const place = { output: store.uri, fingerprint, s3: options.s3 };
    const table = record && (await ImageTable.openVersion(place, record.version));
    if (table) return new LanceIndex(record, table);
  }
  throw new ConfigError(
    'no-index',
    `the table of the index ${fingerprint.slice(0, 16)} in ${store.uri} is gone: \`lensmill build-index ${store.uri} --rebuild\``,
  );
}

async function chooseIndex(store: Store, { run, fingerprint = '' }: OpenIndexOptions): Promise<string> {
  const asked = run === undefined ? fingerprint : (await readRequest(store, run)).model.fingerprint;
  const records = await listIndexes(store);
  const [only, ...others] = records.filter(({ model }) => model.fingerprint.startsWith(asked));
  if (!only) {
    const what = asked === '' ? 'no index' : `no index of the model ${asked.slice(0, 16)}`;
    throw new ConfigError('no-index', `${what} in ${store.uri}: \`lensmill build-index ${store.uri}\``);
  }
  if (others.length === 0) return only.model.fingerprint;
  const choices = [only, ...others].map(
    ({ model, images }) =>
      `${model.fingerprint.slice(0, 8)} (${model.ref}, ${model.precision}, ${images} images)`,
  );
  throw new ConfigError(
    'which-index',
    `${store.uri} has indexes of ${choices.length} models: choose with --fingerprint ${choices.join(' | ')}, or with --run`,
  );
}
