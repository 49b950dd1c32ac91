/** An image of a run as its source has it now, also out of an archive. */
import { ImageError } from '../errors.ts';
import { type FetchOptions, fetchItem } from '../fetch.ts';
import { openSource } from '../sources/open-source.ts';
import type { SourceOptions } from '../sources/source.ts';
import type { Store } from '../stores/store.ts';
import type { ByteFacts } from '../types.ts';
import { openItemFinder } from './find-item.ts';
import type { Run } from './run.ts';

/** `run` is the one that planned it. Throws ConfigError 'no-run', 'not-planned', 'no-image'; ImageError where it cannot be read. */
export async function readImage(
  store: Store,
  { run: asked, id }: { run: string; id: string },
  sources: SourceOptions,
  options: Omit<FetchOptions, 'maxBytes'>,
): Promise<{ run: Run; content: Uint8Array } & ByteFacts> {
  const { run, item } = await openItemFinder(store).find(asked, id);
  const source = openSource(run.source, sources);
  try {
    const fetched = await fetchItem(source, item, { ...options, maxBytes: run.maxBytes });
    if ('error' in fetched) throw new ImageError(id, fetched);
    return { run, ...fetched };
  } finally {
    await source.close();
  }
}
