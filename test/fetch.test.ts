import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { fetchItem } from '../src/fetch.ts';
import { ReadError, type Source } from '../src/sources/source.ts';

const item = { id: 'a.jpg', uri: 'test://a.jpg', etag: '', size: 3 };

/** A source whose n-th read does what `reads[n]` says; the last one again and again. */
function sourceOf(
  ...reads: ((signal?: AbortSignal, onProgress?: () => void) => Promise<Uint8Array>)[]
): Source & { reads: number } {
  const source = {
    reads: 0,
    uri: 'test://',
    probe: async () => undefined,
    // biome-ignore lint/correctness/useYield: nothing is listed here
    async *list() {
      return;
    },
    read: (_item: unknown, { signal, onProgress }: { signal?: AbortSignal; onProgress?: () => void }) => {
      const read = reads[Math.min(source.reads++, reads.length - 1)];
      return read ? read(signal, onProgress) : Promise.reject(new Error('no read'));
    },
    close: async () => undefined,
  };
  return source;
}

const content = async (): Promise<Uint8Array> => Uint8Array.of(1, 2, 3);
const failure = (code: ReadError['code'], transient: boolean) => () =>
  Promise.reject(new ReadError(code, `${code}!`, { transient }));
const options = { maxBytes: 10, timeoutMs: 1_000 };

test('bytes come with their SHA-256', async () => {
  expect(await fetchItem(sourceOf(content), item, options)).toEqual({
    content: Uint8Array.of(1, 2, 3),
    bytes: 3,
    sha256: '039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81',
  });
});

test('what another attempt may cure is tried again', async () => {
  const source = sourceOf(failure('read-failed', true), failure('read-failed', true), content);
  expect(await fetchItem(source, item, options)).toMatchObject({ bytes: 3 });
  expect(source.reads).toBe(3);
});

test('what no attempt can cure is not', async () => {
  const source = sourceOf(failure('not-found', false), content);
  expect(await fetchItem(source, item, options)).toEqual({ error: 'not-found', message: 'not-found!' });
  expect(source.reads).toBe(1);
});

test('a source that keeps failing gives a failed item', async () => {
  const source = sourceOf(failure('read-failed', true));
  expect(await fetchItem(source, item, options)).toEqual({ error: 'read-failed', message: 'read-failed!' });
  expect(source.reads).toBe(6);
});

test('a read that stalls is given up, tried again, and ends as a timeout', async () => {
  const stall = (signal?: AbortSignal) =>
    new Promise<Uint8Array>((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
  expect(await fetchItem(sourceOf(stall, content), item, { ...options, timeoutMs: 50 })).toMatchObject({
    bytes: 3,
  });
  expect(await fetchItem(sourceOf(stall), item, { ...options, timeoutMs: 50 })).toMatchObject({
    error: 'timeout',
  });
});

test('a read that comes nearer all the time may take longer', async () => {
  const far = async (signal?: AbortSignal, onProgress?: () => void) => {
    for (let step = 0; step < 20; step++) {
      await sleep(10);
      signal?.throwIfAborted();
      onProgress?.();
    }
    return content();
  };
  expect(await fetchItem(sourceOf(far), item, { ...options, timeoutMs: 100 })).toMatchObject({ bytes: 3 });
});

test('an abort and a bug are no failure of the item', async () => {
  const abort = new AbortController();
  abort.abort(new Error('the lock was lost'));
  await expect(fetchItem(sourceOf(content), item, { ...options, signal: abort.signal })).rejects.toThrow(
    'the lock',
  );
  const bug = () => Promise.reject(new TypeError('x is not a function'));
  await expect(fetchItem(sourceOf(bug), item, options)).rejects.toThrow(TypeError);
});
