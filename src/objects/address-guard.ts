/**
 * Which addresses a URL may lead to. A list of images is written by others; without this a line of it, or a server that a
 * line names, could make a worker read what only the worker reaches: cloud metadata, databases, routers (SSRF).
 *
 * What is asked is always an address, never a spelling or a name: who connects calls `check` for a host that is an address
 * itself, resolves names by `lookup`, which checks what it gives to the socket (so no second answer of a name server can
 * take its place: DNS rebinding), and calls `check` again for the address at the far end.
 */
import { type LookupAddress, lookup } from 'node:dns';
import { isIP, isIPv6, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { ConfigError } from '../errors.ts';
import { ReadError } from '../sources/source.ts';

export interface AddressGuard {
  /** Throws ReadError 'not-allowed' unless `address`, where `host` is found, is public or allowed. */
  check(host: string, port: number, address: string): void;

  /**
   * For `net.connect` and `tls.connect`, of connections to this port. Fails with ReadError 'not-allowed' if any address of
   * the name is refused: a name that is public and private at once is a mistake or an attack.
   */
  lookup(port: number): LookupFunction;
}

/** `dns.lookup` with `all`; tests give another. */
export type Resolve = (
  host: string,
  options: { all: true; order: 'verbatim' },
  done: (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void,
) => void;

/**
 * Allows besides public addresses: of `allowHosts`, a name whatever its addresses are; an address or a range
 * ('10.0.0.0/8') whatever name leads there. Each but a range may end in ':PORT'. Throws ConfigError 'bad-host'.
 */
export function openGuard(allowHosts: readonly string[], resolve: Resolve = lookup): AddressGuard {
  const allowed = allowHosts.map(parseAllowed);

  const check = (host: string, port: number, address: string): void => {
    if (isPublic(address)) return;
    const name = bareHost(host);
    if (allowed.some((entry) => (entry.port ?? port) === port && entry.covers(name, address))) return;
    const found = name === address ? 'is' : `is at ${address},`;
    throw new ReadError(
      'not-allowed',
      `${name} ${found} no public address: --allow-host ${name} lets it be read`,
    );
  };

  return {
    check,
    lookup: (port) => (host, options, done) => {
      resolve(host, { all: true, order: 'verbatim' }, (error, addresses) => {
        try {
          if (error) throw error;
          for (const { address } of addresses) check(host, port, address);
        } catch (refusal) {
          return done(refusal as Error, ''); // of the two that are thrown above
        }
        const [first] = addresses;
        if (options.all || !first) return done(null, addresses);
        return done(null, first.address, first.family);
      });
    },
  };
}

/**
 * Whether the whole internet means the same machine by it. By IANA's special-purpose registries, as ipaddr.js knows them,
 * and narrower: of IPv6 only 2000::/3, which is all that is given out, so that neither an IPv4 address in another dress
 * (::ffff:10.0.0.1, ::10.0.0.1, 64:ff9b::10.0.0.1) nor a zone passes.
 */
export function isPublic(address: string): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  const isGivenOut = parsed.kind() === 'ipv4' || parsed.match(ipaddr.parseCIDR('2000::/3'));
  return isGivenOut && parsed.range() === 'unicast';
}

/** The host of a URL (`hostname`) as a name or address: without the brackets of IPv6 and the dot that ends a full name. */
export function bareHost(hostname: string): string {
  return hostname.replace(/^\[|\]$|\.$/g, '');
}

interface Allowed {
  port: number | undefined;
  covers(host: string, address: string): boolean;
}

function parseAllowed(text: string): Allowed {
  const entry = text.trim();
  if (ipaddr.isValidCIDR(entry)) {
    const range = ipaddr.parseCIDR(entry);
    return { port: undefined, covers: (_, address) => isWithin(address, range) };
  }
  const [, name = '', port] = /^(\[[^\]]*\]|[^:]+)(?::([0-9]{1,5}))?$/.exec(
    isIPv6(entry) ? `[${entry}]` : entry,
  ) ?? [''];
  // The parser of the URLs themselves, so that one host has one spelling.
  const url = /[@/\\?#*%\s]/.test(name) ? null : URL.parse(`http://${name}`);
  if (!url)
    throw new ConfigError(
      'bad-host',
      `--allow-host '${text}' is no host; expected such as images.local, 10.1.2.3:8080 or 10.0.0.0/8`,
    );
  const host = bareHost(url.hostname);
  return {
    port: port === undefined ? undefined : Number(port),
    covers: (name, address) => name === host || (isIP(host) !== 0 && isSame(address, host)),
  };
}

function isWithin(address: string, range: [ipaddr.IPv4 | ipaddr.IPv6, number]): boolean {
  if (isIP(address) === 0) return false;
  const parsed = ipaddr.parse(address);
  return parsed.kind() === range[0].kind() && parsed.match(range);
}

function isSame(a: string, b: string): boolean {
  return isIP(a) !== 0 && ipaddr.parse(a).toNormalizedString() === ipaddr.parse(b).toNormalizedString();
}
