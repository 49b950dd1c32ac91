/**
 * Several hosts on one machine: each a network namespace with two cables, one into the network where Redis is and one
 * into that of the store. A cable that is pulled from its bridge loses packets in silence, as a real partition does: no
 * reset, no unreachable.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { CannotRunHere } from './scenario.ts';

export type Network = 'redis' | 'store';
const networks = ['redis', 'store'] as const;

export interface Host {
  name: string;
  /** Words that run a command there. */
  prefix: readonly string[];
}

export interface Hosts {
  hosts: Host[];
  /** This machine's address in a network: servers listen there. */
  addressOf(network: Network): string;
  pull(host: Host, network: Network): void;
  plug(host: Host, network: Network): void;
  close(): void;
}

/** Throws CannotRunHere without root, or without `ip netns`. */
export function openHosts(count: number): Hosts {
  if (process.getuid?.() !== 0) throw new CannotRunHere('network namespaces need root');
  // Interface names have 15 characters at most.
  const id = randomBytes(2).toString('hex');
  const octet = 16 + (randomBytes(1)[0] ?? 0);
  const subnet = (network: Network): string => `10.${octet % 256}.${200 + networks.indexOf(network)}`;
  const bridge = (network: Network): string => `lm${id}${network[0]}`;
  const cable = (host: Host, network: Network): string => `${bridge(network)}${host.name.split('-').at(-1)}`;
  const hosts: Host[] = Array.from({ length: count }, (_, n) => {
    const name = `lm${id}-${n}`;
    return { name, prefix: ['ip', 'netns', 'exec', name] };
  });

  const close = (): void => {
    process.off('exit', close);
    for (const { name } of hosts) tryIp('netns', 'del', name);
    for (const network of networks) tryIp('link', 'del', bridge(network));
  };
  process.on('exit', close);
  try {
    for (const network of networks) {
      ip('link', 'add', bridge(network), 'type', 'bridge');
      ip('addr', 'add', `${subnet(network)}.1/24`, 'dev', bridge(network));
      ip('link', 'set', bridge(network), 'up');
    }
    for (const [n, host] of hosts.entries()) {
      ip('netns', 'add', host.name);
      ip('-n', host.name, 'link', 'set', 'lo', 'up');
      for (const network of networks) {
        const outside = cable(host, network);
        ip('link', 'add', outside, 'type', 'veth', 'peer', 'name', network, 'netns', host.name);
        ip('link', 'set', outside, 'master', bridge(network), 'up');
        ip('-n', host.name, 'addr', 'add', `${subnet(network)}.${n + 2}/24`, 'dev', network);
        ip('-n', host.name, 'link', 'set', network, 'up');
      }
    }
  } catch (error) {
    close();
    throw new CannotRunHere(`network namespaces cannot be made: ${String(error).split('\n').at(-2)}`);
  }
  return {
    hosts,
    addressOf: (network) => `${subnet(network)}.1`,
    pull: (host, network) => ip('link', 'set', cable(host, network), 'nomaster'),
    plug: (host, network) => ip('link', 'set', cable(host, network), 'master', bridge(network)),
    close,
  };
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

function tryIp(...args: string[]): void {
  try {
    ip(...args);
  } catch {
    // was never made
  }
}
