/** What is known of a part without reading its embeddings: its footer, how its rows ended, what they are of. */
import { z } from 'zod';
import { type FailureCode, messageOf } from '../errors.ts';
import { identitySchema } from '../models/identity.ts';
import type { Store } from '../stores/store.ts';
import type { Outcome, Provenance } from '../types.ts';
import { type ParquetFooter, parquetFooter, readColumns, readParquetEnd } from './parquet-ranges.ts';
import type { PartTable } from './part.ts';
import { features, runHead } from './row-extras.ts';

export type EmbeddingType = 'float32' | 'float16';

/** How a part was made, and how much is in it: read without the rows. */
export interface PartFooter extends Provenance {
  embedding: EmbeddingType;
  rows: number;
  ok: number;
  failed: number;
  /** Rows of items that their source no longer has. */
  gone: number;
  /** Failed rows by their error. */
  failures: Record<string, number>;
  /** `model.fingerprint`. */
  fingerprint: string;
}

/** Failed rows by their error, of what each row has for one. */
export function countErrors(errors: Iterable<FailureCode | null | undefined>): PartFooter['failures'] {
  const counts: PartFooter['failures'] = {};
  for (const error of errors) if (error) counts[error] = (counts[error] ?? 0) + 1;
  return counts;
}

/** Adds a part's failed rows by reason to those of others. */
export function addFailures(total: Record<string, number>, more: PartFooter['failures']): void {
  for (const [code, count] of Object.entries(more)) total[code] = (total[code] ?? 0) + count;
}

/** How each row of a part ended. */
export interface PartOutcomes {
  ids: string[];
  statuses: Outcome['status'][];
  /** Null but in failed rows. */
  errors: (FailureCode | null)[];
}

/** That, and of what. */
export interface PartItems extends PartOutcomes {
  uris: string[];
  etags: string[];
  /** As `PartTable.bytes`. */
  bytes: number[];
}

/** Of each row, what a failed one says of itself. */
export interface PartFailures {
  uris: string[];
  bytes: number[];
  /** Null but in failed rows. */
  messages: (string | null)[];
}

/** A part of which only the footer was read. */
export interface OpenPart {
  footer: PartFooter;
  /** Reads some of its text too, and no embeddings. */
  readOutcomes(): Promise<PartOutcomes>;
  readItems(): Promise<PartItems>;
  readFailures(): Promise<PartFailures>;
  readHashes(): Promise<Pick<PartTable, 'sha256s' | 'statuses'>>;
}

/**
 * Opens a part over a ranged read of its end: one of 64 kB. `size` is the object's, in bytes. Throws an Error that names the
 * part where it is gone, or is no part.
 */
export async function openPart(store: Pick<Store, 'read'>, key: string, size: number): Promise<OpenPart> {
  const read = async (first: number, count: number): Promise<Uint8Array> => {
    const bytes = await store.read(key, { first, count });
    if (!bytes) throw new Error(`${key} is gone`);
    return bytes;
  };
  const end = await readParquetEnd(read, size);
  return {
    footer: parsePartFooter(end, key),
    async readOutcomes() {
      return outcomesOf(await readColumns(read, size, end, ['id', 'status', 'error']));
    },
    async readItems() {
      const columns = await readColumns(read, size, end, ['id', 'uri', 'etag', 'bytes', 'status', 'error']);
      return {
        ...outcomesOf(columns),
        uris: present(columns.uri) as string[], // as in readPart, and below
        etags: present(columns.etag) as string[],
        bytes: present(columns.bytes).map(Number),
      };
    },
    async readFailures() {
      const columns = await readColumns(read, size, end, ['uri', 'bytes', 'message']);
      return {
        uris: present(columns.uri) as string[],
        bytes: present(columns.bytes).map(Number),
        messages: columns.message as PartFailures['messages'],
      };
    },
    async readHashes() {
      const { sha256, status } = await readColumns(read, size, end, ['sha256', 'status']);
      return { sha256s: sha256 as PartTable['sha256s'], statuses: status as PartTable['statuses'] };
    },
  };
}

function outcomesOf(columns: Record<'id' | 'status' | 'error', unknown[]>): PartOutcomes {
  return {
    ids: present(columns.id) as string[],
    statuses: present(columns.status) as PartTable['statuses'],
    errors: columns.error as PartTable['errors'],
  };
}

/** The footer of such a part. */
export async function readPartFooter(
  store: Pick<Store, 'read'>,
  key: string,
  size: number,
): Promise<PartFooter> {
  return (await openPart(store, key, size)).footer;
}

/** The footer of a part, given whole or by its end. Throws an Error that names the part where it is none. */
export function parsePartFooter(end: Uint8Array, key: string): PartFooter {
  try {
    return checkFooter(parquetFooter(end));
  } catch (error) {
    throw notAPart(key, error);
  }
}

function checkFooter({ rows, metadata }: ParquetFooter): PartFooter {
  if (metadata === undefined) throw new Error('not written by lensmill');
  const footer = storedFooter.parse(metadata);
  if (footer.rows !== rows || footer.ok + footer.failed + footer.gone !== rows) {
    throw new Error(
      `${rows} rows, but its metadata says ${footer.ok} ok + ${footer.failed} failed + ${footer.gone} gone = ${footer.rows}`,
    );
  }
  return { ...footer, fingerprint: footer.model.fingerprint };
}

export function notAPart(key: string, cause: unknown): Error {
  const reason =
    cause instanceof z.ZodError ? z.prettifyError(cause).replaceAll('\n', ' ') : messageOf(cause);
  return new Error(`${key} is damaged or no part: ${reason}`, { cause });
}

export function present<T>(values: (T | null)[]): T[] {
  return values.map((value) => {
    if (value === null) throw new Error('null where a value must be');
    return value;
  });
}

const count = z.int().nonnegative();

/** As it stands in a part's metadata, keys in this order. */
export const storedFooter: z.ZodType<Omit<PartFooter, 'fingerprint'>> = z.object({
  lensmill: z.string(),
  run: z.string(),
  shard: count,
  source: z.string(),
  model: identitySchema,
  topK: count,
  device: z.string(),
  batch: count,
  reused: count,
  decoder: z.string().optional(),
  head: runHead.optional(),
  features: features.optional(),
  embedding: z.enum(['float32', 'float16']),
  rows: count,
  ok: count,
  failed: count,
  gone: count,
  failures: z.record(z.string(), count),
});
