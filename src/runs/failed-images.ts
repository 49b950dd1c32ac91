/** The images of a run that have failed and that no retry has mended, with all that their rows say; page by page, by id. */
import type { FailureCode } from '../errors.ts';
import { openPart, type PartFailures } from '../parts/footer.ts';
import type { Store } from '../stores/store.ts';
import { compareBytewise } from '../uri.ts';
import { type FailedRow, failedRows, type NamedPart, type View } from './view.ts';

export interface FailedImage {
  id: string;
  uri: string;
  error: FailureCode;
  /** For people. */
  message: string;
  /** Of the file; 0 where it was never known. */
  bytes: number;
}

export interface FailedPageOptions {
  /** Only those that failed last with this. */
  code?: string | undefined;
  after?: string | undefined;
  limit: number;
}

/** `next`: `after` of the page behind this one; null at the end. Reads the parts that have such images, and no more of them. */
export async function readFailedImages(
  store: Store,
  view: View,
  { code, after, limit }: FailedPageOptions,
): Promise<{ images: FailedImage[]; next: string | null }> {
  const images: FailedImage[] = [];
  const failuresOf = openReader(store);
  // What a retry failed with, the footers of the run do not say.
  const isWanted =
    code === undefined || view.retries.length > 0
      ? undefined
      : ({ failures }: { failures: Record<string, number> }) => (failures[code] ?? 0) > 0;
  for await (const { part, rows } of failedRows(store, view, { after, isWanted })) {
    for (const row of rows) {
      if (after !== undefined && compareBytewise(row.id, after) <= 0) continue;
      const last = lastOf(row, part);
      if (!last || (code !== undefined && last.error !== code)) continue;
      if (images.length === limit) return { images, next: images.at(-1)?.id ?? null };
      const { uris, bytes, messages } = await failuresOf(last.part);
      images.push({
        id: row.id,
        uri: uris[last.row] ?? '',
        error: last.error,
        message: messages[last.row] ?? '',
        bytes: bytes[last.row] ?? 0,
      });
    }
  }
  return { images, next: null };
}

/** The row that counts; `undefined` where it is ok now. */
function lastOf(
  { row, error, retried }: FailedRow,
  part: NamedPart,
): { part: NamedPart; row: number; error: FailureCode } | undefined {
  if (!retried) return { part, row, error };
  return retried.error === null ? undefined : { part: retried.part, row: retried.row, error: retried.error };
}

/** Ids rise, and so do the parts that are asked for: of the run and of each retry, the last one is kept. */
function openReader(store: Store): (part: NamedPart) => Promise<PartFailures> {
  const last = new Map<string, { key: string; failures: Promise<PartFailures> }>();
  return ({ key, bytes }) => {
    const folder = key.slice(0, key.lastIndexOf('/'));
    const known = last.get(folder);
    if (known?.key === key) return known.failures;
    const failures = openPart(store, key, bytes).then((part) => part.readFailures());
    last.set(folder, { key, failures });
    return failures;
  };
}
