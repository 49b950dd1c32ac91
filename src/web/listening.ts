/** Where a server listens: how others call it, and why it cannot. */
import { hostname } from 'node:os';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';

/** As others call it: an address that stands for all addresses is none to connect to. */
export function shownHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return hostname();
  return host.includes(':') ? `[${host}]` : host;
}

/**
 * ConfigError 'port-in-use', 'port-refused' or 'no-such-address' where the operator can mend it; else the error. `flag` is what
 * chooses the port: '--port'.
 */
export function explainListening(
  error: unknown,
  { host, port, flag }: { host: string; port: number; flag: string },
): unknown {
  const noAddress = [
    'no-such-address',
    `--host: '${host}' is no address of this machine; 127.0.0.1 and 0.0.0.0 always are`,
  ] as const;
  const answers: Record<string, readonly [code: string, message: string]> = {
    EADDRINUSE: [
      'port-in-use',
      `${flag}: something listens at ${host}:${port} already; another server wants another ${flag}, or 0 for any`,
    ],
    EACCES: [
      'port-refused',
      `${flag}: this user may not listen at ${port}; ports above 1023 are for everybody`,
    ],
    EADDRNOTAVAIL: noAddress,
    ENOTFOUND: noAddress,
  };
  const [code, message] = answers[errnoOf(error) ?? ''] ?? [];
  return code !== undefined && message !== undefined
    ? new ConfigError(code, message, { cause: error })
    : error;
}
