/**
 * A server that knows nothing but ListObjectsV2, over keys that nobody stored: for a million of them, and for faults that a
 * real server does not have.
 */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { compareBytewise } from '../../src/uri.ts';

export interface ListingServer {
  endpoint: string;
  /** The parameters of every request so far. */
  requests: URLSearchParams[];
  /** The most requests that it had at once. */
  readonly atOnce: number;
  /** Objects on its pages so far, but for those of a single level. */
  readonly listed: number;
  close(): Promise<void>;
}

export interface ListingServerOptions {
  /** Ordered bytewise, each once. */
  keys: readonly string[];
  /** Default: its number, and the length of its key. */
  factsOf?: (key: string) => { etag: string; size: number };
  /** Keys and folders on a page. */
  pageSize?: number;
  /** mixed: it tells the folders, and what is in them too. refused: 501. */
  delimiter?: 'known' | 'ignored' | 'mixed' | 'refused';
  latencyMs?: number;
}

export async function startListingServer(options: ListingServerOptions): Promise<ListingServer> {
  const requests: URLSearchParams[] = [];
  let now = 0;
  let atOnce = 0;
  let listed = 0;
  const server = createServer(async (incoming, outgoing) => {
    const query = new URL(incoming.url ?? '', 'http://localhost').searchParams;
    requests.push(query);
    now += 1;
    atOnce = Math.max(atOnce, now);
    await sleep(options.latencyMs ?? 0);
    now -= 1;
    const isRefused = query.has('delimiter') && options.delimiter === 'refused';
    if (isRefused) return outgoing.writeHead(501).end();
    const page = listPage(options, query);
    if (!query.has('delimiter')) listed += page.objects;
    return outgoing.setHeader('Content-Type', 'application/xml').end(page.xml);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    get atOnce() {
      return atOnce;
    },
    get listed() {
      return listed;
    },
    close: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

function listPage(
  { keys, factsOf, pageSize = 1000, delimiter: manner = 'known' }: ListingServerOptions,
  query: URLSearchParams,
): { objects: number; xml: string } {
  const prefix = query.get('prefix') ?? '';
  const delimiter = manner === 'ignored' ? null : query.get('delimiter');
  const token = query.get('continuation-token');
  const after = query.get('start-after') ?? '';
  const first = (isBehind: (key: string) => boolean, from = 0): number => {
    let [low, end] = [from, keys.length];
    while (low < end) {
      const middle = (low + end) >> 1;
      if (isBehind(keys[middle] ?? '')) end = middle;
      else low = middle + 1;
    }
    return low;
  };
  let at =
    token === null
      ? first((key) => compareBytewise(key, after) > 0 && compareBytewise(key, prefix) >= 0)
      : Number(token);
  const entries: string[] = [];
  const folders = new Set<string>();
  let key = keys[at];
  for (; key?.startsWith(prefix) && entries.length < pageSize; key = keys[at]) {
    const end = delimiter ? key.indexOf(delimiter, prefix.length) : -1;
    const folder = key.slice(0, end + 1);
    if (end >= 0 && !folders.has(folder))
      entries.push(`<CommonPrefixes><Prefix>${encodeURIComponent(folder)}</Prefix></CommonPrefixes>`);
    if (end < 0 || manner === 'mixed') {
      const { etag, size } = factsOf?.(key) ?? { etag: at, size: key.length };
      entries.push(
        `<Contents><Key>${encodeURIComponent(key)}</Key><Size>${size}</Size><ETag>"${etag}"</ETag></Contents>`,
      );
    }
    if (end >= 0) folders.add(folder);
    at = end < 0 || manner === 'mixed' ? at + 1 : first((other) => !other.startsWith(folder), at);
  }
  const isLast = !key?.startsWith(prefix);
  const next = isLast ? '' : `<NextContinuationToken>${at}</NextContinuationToken>`;
  return {
    objects: entries.length - folders.size,
    xml: `<ListBucketResult><Name>any</Name><EncodingType>url</EncodingType>${entries.join('')}<IsTruncated>${!isLast}</IsTruncated>${next}</ListBucketResult>`,
  };
}
