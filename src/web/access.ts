/**
 * Who may use the API: whoever has the token. It comes in a header, or, for what a browser fetches by itself (images, events),
 * as a cookie that was given for it. What comes by cookie must come from the server's own page.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import type { FastifyRequest } from 'fastify';
import ipaddr from 'ipaddr.js';
import { Refusal } from './problems.ts';

/** 192 bits: not to be guessed at any rate. */
export const newToken = (): string => randomBytes(24).toString('base64url');

export interface Access {
  /** Throws Refusal 'unauthorized' or 'cross-origin'. */
  check(request: FastifyRequest): void;
  /** `Set-Cookie` for a browser that has shown the token: for as long as it is open, and as the token is the same. */
  cookieFor(request: FastifyRequest): string;
}

export function openAccess(token: string): Access {
  const derive = (purpose: string): Buffer => createHmac('sha256', token).update(purpose).digest();
  const session = derive('session').toString('base64url');
  // Cookies know no ports: of two servers on one machine, neither may overwrite the other's.
  const cookieName = `lensmill-${derive('cookie name').toString('hex').slice(0, 12)}`;

  return {
    check(request) {
      const bearer = bearerOf(request);
      if (bearer !== undefined) {
        if (!isSame(bearer, token)) throw unauthorized();
        return;
      }
      const cookie = cookieOf(request, cookieName);
      if (cookie === undefined || !isSame(cookie, session)) throw unauthorized();
      if (!isOwnPage(request))
        throw new Refusal(
          403,
          'cross-origin',
          'a request with the cookie must come from the page of this server',
        );
    },
    cookieFor(request) {
      // Said by whatever ends TLS before us.
      const isSecure = request.headers['x-forwarded-proto'] === 'https';
      return `${cookieName}=${session}; Path=/; HttpOnly; SameSite=Strict${isSecure ? '; Secure' : ''}`;
    },
  };
}

const unauthorized = (): Refusal =>
  new Refusal(
    401,
    'unauthorized',
    'the token is missing or wrong: `lensmill serve` prints the address with it; scripts send `Authorization: Bearer TOKEN`',
    { 'www-authenticate': 'Bearer realm="lensmill"' },
  );

function bearerOf({ headers: { authorization } }: FastifyRequest): string | undefined {
  return (
    /^Bearer +(\S+) *$/i.exec(authorization ?? '')?.[1] ?? (authorization === undefined ? undefined : '')
  );
}

function cookieOf({ headers: { cookie = '' } }: FastifyRequest, name: string): string | undefined {
  for (const pair of cookie.split(';')) {
    const [key, value] = pair.trim().split('=', 2);
    if (key === name) return value;
  }
  return undefined;
}

/** In a time that tells nothing of how much of it is right. */
function isSame(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHmac('sha256', compareKey).update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

const compareKey = randomBytes(32);

/**
 * `SameSite` does not tell ports of one machine apart; these headers do, and a page cannot set them. Browsers send the first to
 * https and to this machine, the second with whatever changes something.
 */
function isOwnPage({ method, headers }: FastifyRequest): boolean {
  const changesNothing = method === 'GET' || method === 'HEAD';
  const site = headers['sec-fetch-site'];
  // 'none': typed by the user, or a bookmark.
  if (site !== undefined) return site === 'same-origin' || (site === 'none' && changesNothing);
  const { origin, host } = headers;
  if (origin !== undefined) return URL.canParse(origin) && new URL(origin).host === host;
  return changesNothing;
}

/** Whether only this machine reaches an address that is listened at. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  return isIP(host) !== 0 && ipaddr.process(host).range() === 'loopback';
}

/**
 * Whether a request to this machine's own address also names it so. The page of a stranger whose name was made to mean 127.0.0.1
 * (DNS rebinding) does not. The port is not looked at: a tunnel (`ssh -L`) may have another at its end.
 */
export function namesThisMachine(hostHeader: string | undefined): boolean {
  const name = /^(\[[^\]]*\]|[^:]*)(:[0-9]+)?$/.exec(hostHeader ?? '')?.[1] ?? '';
  return isLoopback(name.replace(/^\[|\]$/g, '').toLowerCase());
}
