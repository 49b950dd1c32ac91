/**
 * Objects by http: and https: URL. docs/web.md says what is refused.
 *
 * A version is an answer's ETag, else its Last-Modified, else unknown (''). It is compared here and not by the server:
 * If-Match and If-Range never match a weak ETag, and what a server makes of them differs; its answer's own ETag says as
 * surely what was read.
 */
import { ReadError, type WebOptions } from '../sources/source.ts';
import type { ObjectFacts, Objects } from './objects.ts';
import { openWebClient, type WebAnswer } from './web-client.ts';

/** What a HEAD is refused with where a GET may be allowed: 403 by a URL that is signed for GET. */
const headRefused = [400, 403, 405, 501];

/** A body's first buffer where its length is not told. */
const firstBytes = 64 * 1024;

/**
 * `stat` gives size 0 where the server tells none. `stream` counts among its host's requests only until its answer begins:
 * it may last for hours, and who reads it may ask the same host for more meanwhile. Throws ConfigError 'bad-host'.
 */
export function openWebObjects(options: WebOptions): Objects {
  const client = openWebClient(options);

  return {
    async stat(uri, { signal } = {}): Promise<ObjectFacts> {
      const head = await client.send(uri, { method: 'HEAD', expected: [200, ...headRefused], signal });
      await head.drop();
      if (head.status === 200) return factsOf(head);
      const whole = await client.send(uri, { expected: [200], signal });
      await whole.drop();
      return factsOf(whole);
    },

    async read(uri, { etag, maxBytes, signal }) {
      const answer = await client.send(uri, { expected: [200], signal });
      try {
        checkVersion(answer, etag);
        const encoding = answer.header('content-encoding') || 'identity';
        if (encoding !== 'identity')
          throw new ReadError('read-failed', `${answer.url} comes compressed (${encoding}), unasked`);
        const size = sizeOf(answer);
        if (size !== undefined && size > maxBytes) throw tooManyBytes(`${size} bytes`, maxBytes);
        return await readBody(answer, maxBytes, () => {
          throw tooManyBytes('more bytes than that', maxBytes);
        });
      } finally {
        answer.close();
      }
    },

    async readRange(uri, { etag, first, count, signal }) {
      if (count === 0) return Buffer.alloc(0);
      const answer = await sendRange(uri, { etag, first, last: first + count - 1, signal });
      if (!answer) return Buffer.alloc(0);
      try {
        // Of a whole object, sent because its server knows no ranges, the beginning is taken and the rest left.
        const bytes = await readBody(answer, count, () => undefined);
        if (answer.status === 206 && bytes.length !== rangeOf(answer).count) throw otherRange(answer);
        return bytes;
      } finally {
        answer.close();
      }
    },

    async *stream(uri, { etag, first = 0, signal }) {
      const answer = await sendRange(uri, { etag, first, signal });
      if (!answer) return;
      answer.leave();
      yield* answer.chunks();
    },

    close: () => client.close(),
  };

  /** Undefined where the object ends before `first`. Without `last`, to its end. */
  async function sendRange(
    uri: string,
    range: { etag: string; first: number; last?: number; signal: AbortSignal | undefined },
  ): Promise<WebAnswer | undefined> {
    const { etag, first, last, signal } = range;
    const isWhole = first === 0 && last === undefined;
    const headers: Record<string, string> = isWhole ? {} : { range: `bytes=${first}-${last ?? ''}` };
    const answer = await client.send(uri, {
      headers,
      expected: isWhole ? [200] : [200, 206, 416],
      signal,
      isStream: last === undefined,
    });
    try {
      if (answer.status === 416) {
        await answer.drop();
        // An answer without its content need not tell its version.
        if (versionOf(answer) !== '') checkVersion(answer, etag);
        return undefined;
      }
      checkVersion(answer, etag);
      checkRange(answer, first, last);
      return answer;
    } catch (error) {
      answer.close();
      throw error;
    }
  }
}

function factsOf(answer: WebAnswer): ObjectFacts {
  return { etag: versionOf(answer), size: sizeOf(answer) ?? 0 };
}

function versionOf({ header }: WebAnswer): string {
  return header('etag') || header('last-modified');
}

function sizeOf({ header }: WebAnswer): number | undefined {
  const length = header('content-length');
  return length === '' ? undefined : Number(length);
}

function checkVersion(answer: WebAnswer, etag: string): void {
  const version = versionOf(answer);
  if (etag !== '' && version !== etag)
    throw new ReadError('changed', `${answer.url} was ${etag}, now is ${version || 'of no known version'}`);
}

/** That what comes begins at `first` and does not go beyond `last`. */
function checkRange(answer: WebAnswer, first: number, last = Number.POSITIVE_INFINITY): void {
  if (answer.status === 200 && first === 0) return;
  if (answer.status === 200)
    throw new ReadError('read-failed', `${answer.url} is not sent in parts: its server knows no ranges`);
  const range = rangeOf(answer);
  const isAsked = range.first === first && range.count > 0 && first + range.count - 1 <= last;
  if (!isAsked || (sizeOf(answer) ?? range.count) !== range.count) throw otherRange(answer);
}

/** NaN where the answer does not tell. */
function rangeOf({ header }: WebAnswer): { first: number; count: number } {
  const [, first, last] = /^bytes ([0-9]+)-([0-9]+)\/(?:[0-9]+|\*)$/.exec(header('content-range')) ?? [];
  return { first: Number(first), count: Number(last) - Number(first) + 1 };
}

function otherRange(answer: WebAnswer): ReadError {
  const range = answer.header('content-range');
  return new ReadError('read-failed', `${answer.url} sends another part than was asked for (${range})`);
}

/**
 * In a buffer of its own. It is filled piece by piece and grows by doubling where no length was told, so that a body that
 * comes in single bytes costs no more memory than any other. Stops at `most`, once `onMore` has returned.
 */
async function readBody(answer: WebAnswer, most: number, onMore: () => void): Promise<Uint8Array> {
  let bytes: Uint8Array = Buffer.allocUnsafeSlow(Math.min(sizeOf(answer) ?? firstBytes, most));
  let filled = 0;
  for await (const chunk of answer.chunks()) {
    const isMore = filled + chunk.length > most;
    if (isMore) onMore();
    const piece = chunk.subarray(0, most - filled);
    if (filled + piece.length > bytes.length)
      bytes = regrow(bytes, filled, Math.min(bytes.length * 2 + piece.length, most));
    bytes.set(piece, filled);
    filled += piece.length;
    if (isMore) break;
  }
  return filled === bytes.length ? bytes : regrow(bytes, filled, filled);
}

function regrow(bytes: Uint8Array, filled: number, length: number): Uint8Array {
  const grown = Buffer.allocUnsafeSlow(length);
  grown.set(bytes.subarray(0, filled));
  return grown;
}

function tooManyBytes(found: string, maxBytes: number): ReadError {
  return new ReadError('too-many-bytes', `${found}, the limit is ${maxBytes}`);
}
