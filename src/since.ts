/**
 * What an increment is planned from: of a source, the items that the runs before have no row of, or a row of another version;
 * and, marked gone, those that only the runs before have. Both sides are ordered by id, so they are joined as they stream.
 *
 * An item is as it was when its etag and size are, and its row is ok, or failed for what is in its bytes. What failed for
 * another reason (a timeout, no access) is done again. A source that knows no etags has every item read again; then the bytes'
 * hash tells, and the model is spared (reuse.ts).
 */
import { ConfigError, type FailureCode } from './errors.ts';
import type { RunRequest } from './runs/run.ts';
import type { TableRow } from './runs/table.ts';
import type { ItemPage, Source } from './sources/source.ts';
import type { Item } from './types.ts';
import { compareBytewise } from './uri.ts';

/** Gone items on a page that has no others. */
const pageSize = 1000;

/** Throws ConfigError 'empty-source' where the source has nothing at all: a folder that is not mounted deletes no rows. */
export function changedItems(
  source: Pick<Source, 'uri' | 'list'>,
  rowsBehind: (after?: string) => AsyncGenerator<TableRow>,
  limits: Limits,
): Pick<Source, 'uri' | 'list'> {
  return {
    uri: source.uri,
    async *list({ after, signal } = {}): AsyncIterable<ItemPage> {
      const rows = rowsBehind(after);
      let row = await rows.next();
      const next = async (): Promise<void> => {
        row = await rows.next();
      };
      let isEmpty = after === undefined;
      for await (const page of source.list({
        ...(after !== undefined && { after }),
        ...(signal && { signal }),
      })) {
        const items: Item[] = [];
        for (const item of page.items) {
          isEmpty = false;
          for (; !row.done && compareBytewise(row.value.id, item.id) < 0; await next())
            items.push(goneItem(row.value));
          if (row.done || row.value.id !== item.id) {
            items.push(item);
            continue;
          }
          if (!isAsItWas(item, row.value, limits)) items.push({ ...item, replaces: true });
          await next();
        }
        yield { items, skipped: page.skipped };
      }
      if (isEmpty && !row.done) {
        throw new ConfigError(
          'empty-source',
          `no images in ${source.uri}, where earlier runs found some: mount it`,
        );
      }
      for (let items: Item[] = []; !row.done; items = []) {
        for (; !row.done && items.length < pageSize; await next()) items.push(goneItem(row.value));
        yield { items, skipped: 0 };
      }
    },
  };
}

function goneItem({ id, uri, etag, size }: TableRow): Item {
  return { id, uri, etag, size, replaces: true, gone: true };
}

type Limits = Pick<RunRequest, 'maxBytes' | 'maxPixels'>;

function isAsItWas(item: Item, row: TableRow, limits: Limits): boolean {
  if (item.etag === '' || item.etag !== row.etag || item.size !== row.size) return false;
  const { error, run } = row;
  if (error === 'too-many-bytes') return run.maxBytes === limits.maxBytes;
  if (error === 'too-many-pixels') return run.maxPixels === limits.maxPixels;
  return error === null || ofContent.has(error);
}

/** The same bytes fail the same way again. */
const ofContent: ReadonlySet<FailureCode> = new Set([
  'empty',
  'unsupported-format',
  'truncated',
  'corrupt',
  'encrypted',
]);
