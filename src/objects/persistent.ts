/** Objects that are read again where another attempt may help, for what no lane repeats: a list, an archive's listing. */
import { setTimeout as sleep } from 'node:timers/promises';
import pRetry from 'p-retry';
import { ReadError } from '../sources/source.ts';
import type { Objects, StreamRead } from './objects.ts';

/** As patient as fetch.ts: six attempts outlast a hiccup of six seconds. */
const attempts = 6;
const firstPauseMs = 200;

/** The same objects; closing either closes both. */
export function persistent(objects: Objects): Objects {
  const repeat = <T>(act: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> =>
    pRetry(act, {
      retries: attempts - 1,
      minTimeout: firstPauseMs,
      randomize: true,
      ...(signal && { signal }),
      shouldRetry: ({ error }) => isTransient(error),
    });

  return {
    stat: (uri, options) => repeat(() => objects.stat(uri, options), options?.signal),
    read: (uri, options) => repeat(() => objects.read(uri, options), options.signal),
    readRange: (uri, options) => repeat(() => objects.readRange(uri, options), options.signal),
    stream: (uri, options) => streamOn(objects, uri, options),
    close: () => objects.close(),
  };
}

/** A stream that breaks off goes on where it stopped, as long as bytes come. */
async function* streamOn(objects: Objects, uri: string, options: StreamRead): AsyncGenerator<Uint8Array> {
  const { first: start = 0, etag } = options;
  let first = start;
  for (let failures = 0; ; ) {
    try {
      for await (const chunk of objects.stream(uri, { ...options, first })) {
        first += chunk.length;
        failures = 0;
        yield chunk;
      }
      return;
    } catch (error) {
      // Without an etag the rest might be that of another version.
      const isHopeful = isTransient(error) && (etag !== '' || first === start);
      if (!isHopeful || ++failures === attempts) throw error;
      const { signal } = options;
      await sleep(firstPauseMs * 2 ** (failures - 1), undefined, signal ? { signal } : {}).catch(() => {});
      signal?.throwIfAborted();
    }
  }
}

function isTransient(error: unknown): boolean {
  return error instanceof ReadError && error.transient;
}
