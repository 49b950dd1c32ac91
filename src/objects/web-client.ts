/**
 * Requests to hosts that nobody here chose: each goes only where the address guard lets it, waits for the host's gate, is
 * bounded in time, and follows redirects by the same rules again. Proxies that the environment names
 * (HTTP_PROXY) are not used: a proxy would resolve names itself, past the guard.
 */
import { isUtf8 } from 'node:buffer';
import { isIP } from 'node:net';
import { unescape as unescapePercent } from 'node:querystring';
import { buildConnector, type Dispatcher, Pool } from 'undici';
import { ReadError, type WebOptions } from '../sources/source.ts';
import { version } from '../version.ts';
import { type AddressGuard, bareHost, openGuard } from './address-guard.ts';
import { makeGate, openGate } from './host-gate.ts';
import { explainFailure, explainStatus, pauseOf, type WebReply } from './web-errors.ts';
import { parseWebUrl, shownUrl } from './web-url.ts';

const maxRedirects = 5;

/** Origins whose connections are kept for the next request. Each costs a socket or more. */
const maxOrigins = 128;

/** What a body that nobody wants may have, for its connection to be kept rather than closed. */
const maxDropped = { bytes: 64 * 1024, ms: 1_000 };

/** The longest pause that a host is granted: an item that has to wait longer fails, and can be retried another day. */
const maxPauseMs = 120_000;

export interface WebRequest {
  method?: 'GET' | 'HEAD';
  headers?: Record<string, string>;
  /** Statuses that are given back; any other is thrown. */
  expected: readonly number[];
  signal?: AbortSignal | undefined;
  /** It may last for hours; else all of the answer must be there within the timeout, which begins at its turn. */
  isStream?: boolean;
}

export interface WebAnswer extends WebReply {
  /** Once. Leaving the loop closes the answer. Throws as `send` does. */
  chunks(): AsyncIterable<Uint8Array>;
  /** The host may be sent another request, whatever is left to come of this one. */
  leave(): void;
  /** One of the three ends it: `chunks` read to their end, `drop`, `close`. Safe to call after any. */
  close(): void;
  /** As `close`, for a body that nobody wants: a short one is read to its end, so that its connection is used again. */
  drop(): Promise<void>;
}

export interface WebClient {
  /**
   * Throws ReadError: 'bad-uri', 'not-allowed', 'not-found', 'access-denied', 'timeout' or 'read-failed'; `transient` where
   * another attempt may cure it. No message holds a password or a signature.
   */
  send(uri: string, request: WebRequest): Promise<WebAnswer>;
  /** Breaks off what is under way. Safe to call twice. */
  close(): Promise<void>;
}

/** Throws ConfigError 'bad-host'. */
export function openWebClient(options: WebOptions): WebClient {
  const { timeoutMs } = options;
  const gate = openGate(options.gate ?? makeGate(), options);
  const guard = openGuard(options.allowHosts);
  /** By origin, the one used last at the end. */
  const pools = new Map<string, Pool>();

  const poolOf = (url: URL): Pool => {
    const { origin } = url;
    const pool =
      pools.get(origin) ??
      new Pool(origin, {
        connect: guardedConnector(guard, url, timeoutMs),
        allowH2: false,
        headersTimeout: timeoutMs,
        bodyTimeout: timeoutMs,
        keepAliveMaxTimeout: 10_000, // a server may wish for hours
      });
    pools.delete(origin);
    pools.set(origin, pool);
    const [oldest] = pools;
    if (oldest && pools.size > maxOrigins) {
      pools.delete(oldest[0]);
      void oldest[1].close(); // once its last answer is read
    }
    return pool;
  };

  const sendOnce = async (
    url: URL,
    headers: Record<string, string>,
    request: WebRequest,
  ): Promise<WebAnswer> => {
    const { method = 'GET', signal } = request;
    const shown = shownUrl(url.href);
    const permit = await gate.enter(bareHost(url.hostname), signal);
    const bounds = [
      ...(signal ? [signal] : []),
      ...(request.isStream ? [] : [AbortSignal.timeout(timeoutMs)]),
    ];
    const bounded = AbortSignal.any(bounds);
    let reply: Dispatcher.ResponseData;
    try {
      reply = await poolOf(url).request({
        method,
        path: url.pathname + url.search,
        headers: { 'user-agent': userAgent, accept: '*/*', 'accept-encoding': 'identity', ...headers },
        signal: bounded,
      });
    } catch (error) {
      permit.leave();
      signal?.throwIfAborted();
      throw explainFailure(error, shown);
    }
    const answer = openAnswer(reply, shown, permit.leave, signal);
    const pauseMs = pauseOf(answer);
    if (pauseMs > 0) permit.pause(Math.min(pauseMs, maxPauseMs));
    return answer;
  };

  return {
    async send(uri, request) {
      request.signal?.throwIfAborted();
      let url = parseWebUrl(uri);
      const home = url.origin;
      const authorization = takeCredentials(url);
      for (let redirects = 0; redirects <= maxRedirects; redirects++) {
        const isHome = authorization !== '' && url.origin === home;
        const headers = { ...request.headers, ...(isHome && { authorization }) };
        const answer = await sendOnce(url, headers, request);
        if (request.expected.includes(answer.status)) return answer;
        await answer.drop();
        if (!isRedirect(answer)) throw explainStatus(answer);
        url = followRedirect(url, answer);
      }
      throw new ReadError('read-failed', `${shownUrl(uri)} redirects more than ${maxRedirects} times`);
    },

    async close() {
      const open = [...pools.values()];
      pools.clear();
      await Promise.all(open.map((pool) => pool.destroy()));
    },
  };
}

/** Says who asks, so that the owner of a host can find out what it is and refuse it by name. */
const userAgent = `lensmill/${version} (bulk image indexing)`;

/**
 * Connects to this origin: checks the address before, and the far end before a byte of the request is sent there. A
 * certificate is checked against the name.
 */
function guardedConnector(guard: AddressGuard, url: URL, timeout: number): buildConnector.connector {
  const host = bareHost(url.hostname);
  const port = Number(url.port) || (url.protocol === 'https:' ? 443 : 80);
  const connect = buildConnector({
    timeout,
    allowH2: false,
    lookup: guard.lookup(port),
    autoSelectFamily: true,
    // Node's 250 ms give up on every address of a host that is far away.
    autoSelectFamilyAttemptTimeout: 2_000,
  });
  return (options, done) => {
    try {
      if (isIP(host)) guard.check(host, port, host); // no socket would look it up
    } catch (refusal) {
      process.nextTick(done, refusal, null);
      return;
    }
    connect(options, (error, socket) => {
      if (error) return done(error, null);
      try {
        // Absent where the far end has hung up already.
        if (socket.remoteAddress !== undefined) guard.check(host, port, socket.remoteAddress);
      } catch (refusal) {
        socket.destroy();
        return done(refusal as Error, null); // `check` throws nothing else
      }
      return done(null, socket);
    });
  };
}

function openAnswer(
  { statusCode: status, headers, body }: Dispatcher.ResponseData,
  url: string,
  leave: () => void,
  signal: AbortSignal | undefined,
): WebAnswer {
  body.on('error', () => undefined); // whoever reads it hears of it
  const close = (): void => {
    body.destroy();
    leave();
  };
  return {
    url,
    status,
    header: (name) => [headers[name] ?? ''].flat()[0] ?? '',
    async *chunks() {
      try {
        yield* body as AsyncIterable<Uint8Array>; // undici's stream gives nothing but Buffers
      } catch (error) {
        signal?.throwIfAborted();
        throw explainFailure(error, url);
      } finally {
        close();
      }
    },
    leave,
    close,
    async drop() {
      const timeout = AbortSignal.timeout(maxDropped.ms);
      const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
      try {
        await body.dump({ limit: maxDropped.bytes, signal: either });
      } catch {
        signal?.throwIfAborted();
      } finally {
        close();
      }
    },
  };
}

/** Basic authentication, for the origin of this URL alone; '' without. The URL is left without them. */
function takeCredentials(url: URL): string {
  const [user, password] = [url.username, url.password].map(unescapePercent);
  url.username = '';
  url.password = '';
  return user || password ? `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` : '';
}

function isRedirect({ status, header }: WebReply): boolean {
  return [301, 302, 303, 307, 308].includes(status) && header('location') !== '';
}

function followRedirect(from: URL, answer: WebReply): URL {
  const raw = Buffer.from(answer.header('location'), 'latin1');
  const target = URL.parse(isUtf8(raw) ? raw.toString() : raw.toString('latin1'), from.href);
  if (!target) throw new ReadError('bad-uri', `${answer.url} redirects to what is no URL`);
  const url = parseWebUrl(target.href);
  takeCredentials(url); // a server has none to give
  if (from.protocol === 'https:' && url.protocol === 'http:')
    throw new ReadError(
      'not-allowed',
      `${answer.url} redirects from https to http, where anybody on the way could answer`,
    );
  return url;
}
