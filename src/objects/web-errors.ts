/** What it means for an item that a web server refused, failed or never answered. */
import { errnoOf } from '../errno.ts';
import { type FailureCode, messageOf } from '../errors.ts';
import { ReadError } from '../sources/source.ts';

export interface WebReply {
  /** The URL that answered, as it may be shown. */
  url: string;
  status: number;
  /** '' for what is not there; of what is there twice, the first. */
  header(name: string): string;
}

/** How long the host asks to be left alone, in ms. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after */
export function pauseOf({ status, header }: WebReply): number {
  if (status !== 429 && status !== 503) return 0;
  const value = header('retry-after');
  if (/^[0-9]+$/.test(value)) return Number(value) * 1000;
  // By the server's own clock where it tells it: ours may differ.
  const ms = Date.parse(value) - (Date.parse(header('date')) || Date.now());
  if (ms > 0) return ms;
  return status === 429 ? 1_000 : 0;
}

/** Other statuses below 500 are the server's last word. */
const refusals = new Map<number, FailureCode>([
  [401, 'access-denied'],
  [402, 'access-denied'],
  [403, 'access-denied'],
  [404, 'not-found'],
  [407, 'access-denied'],
  [410, 'not-found'],
  [451, 'access-denied'],
]);

/** What a status means that was not expected. */
export function explainStatus(answer: WebReply): ReadError {
  const { url, status } = answer;
  const transient = [408, 425, 429].includes(status) || status >= 500;
  const pauseMs = pauseOf(answer);
  const when = pauseMs > 0 ? `, and asks for ${Math.ceil(pauseMs / 1000)} s of rest` : '';
  return new ReadError(refusals.get(status) ?? 'read-failed', `${url} answers ${status}${when}`, {
    transient,
  });
}

/** What it means that no answer came, or not all of it. A TypeError or RangeError, a bug, is given back. */
export function explainFailure(error: unknown, url: string): unknown {
  if (error instanceof ReadError) return error; // the guard's
  if (error instanceof TypeError || error instanceof RangeError) return error;
  const options = { cause: error };
  if (error instanceof Error && error.name === 'TimeoutError')
    return new ReadError('timeout', `${url}: it takes too long`, { ...options, transient: true });
  const code = errnoOf(error) ?? '';
  if (code === 'ENOTFOUND') return new ReadError('not-found', `${url}: there is no such host`, options);
  if (/CERT|SELF_SIGNED|LEAF_SIGNATURE/.test(code))
    return new ReadError(
      'read-failed',
      `${url}: its certificate is not trusted (${code}); NODE_EXTRA_CA_CERTS names a file of others to trust`,
      options,
    );
  const reason = error instanceof Error && error.message === '' ? code : messageOf(error);
  return new ReadError(code.includes('TIME') ? 'timeout' : 'read-failed', `${url}: ${reason}`, {
    ...options,
    transient: true,
  });
}
