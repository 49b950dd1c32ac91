/** An item → its bytes, read again where another attempt may help. */
import { hash } from 'node:crypto';
import pRetry from 'p-retry';
import { type Failure, messageOf } from './errors.ts';
import { ReadError, type Source } from './sources/source.ts';
import type { ByteFacts, Item } from './types.ts';
import { isWebUri } from './uri.ts';

export interface FetchOptions {
  maxBytes: number;
  /** For one attempt, as long as it comes no nearer to the item (`Source.read`). */
  timeoutMs: number;
  signal?: AbortSignal;
}

/**
 * Of a store that fails one request in ten, four attempts leave one image in ten thousand unread, and six one in a million
 * (test/chaos/store-faults.ts). With pauses of 0.2 s, twice as long each time, they outlast a hiccup of six seconds.
 */
const attempts = 6;

/** Throws only what is not the item's fault: an abort, or a bug. */
export async function fetchItem(
  source: Pick<Source, 'read'>,
  item: Item,
  { maxBytes, timeoutMs, signal }: FetchOptions,
): Promise<({ content: Uint8Array } & ByteFacts) | Failure> {
  const isWeb = isWebUri(item.uri);
  try {
    const content = await pRetry(
      async () => {
        const late = new AbortController();
        const giveUp = (): void => late.abort(new DOMException('it takes too long', 'TimeoutError'));
        // On the web an item may wait long for its turn; there the read itself is bounded (objects/web-client.ts).
        const timer = isWeb ? undefined : setTimeout(giveUp, timeoutMs);
        const bounded = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
        const onProgress = (): void => void timer?.refresh();
        try {
          return await source.read(item, { maxBytes, signal: bounded, onProgress });
        } finally {
          clearTimeout(timer);
        }
      },
      {
        retries: attempts - 1,
        minTimeout: 200,
        maxTimeout: 5_000,
        randomize: true,
        ...(signal && { signal }),
        shouldRetry: ({ error }) => isTimeout(error) || (error instanceof ReadError && error.transient),
      },
    );
    return { content, bytes: content.length, sha256: hash('sha256', content) };
  } catch (error) {
    if (signal?.aborted) throw error;
    if (isTimeout(error))
      return { error: 'timeout', message: `no answer in ${timeoutMs / 1000} s, ${attempts} times` };
    if (error instanceof ReadError) return { error: error.code, message: messageOf(error) };
    throw error;
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError';
}
