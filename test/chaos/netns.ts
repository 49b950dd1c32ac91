/**
 * Several hosts on one machine: each a network namespace with an address of its own, and with a cable into every network that
 * it belongs to. A pulled cable loses packets in silence, as a real partition does: no reset, no unreachable.
 *
 * Names say whose they are, `lm<process>…`: what a process that was killed left behind is cleared away by the next.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { CannotRunHere } from './scenario.ts';

export interface Host {
  name: string;
  /** Words that run a command there. */
  prefix: readonly string[];
  addressOf(network: string): string;
}

export interface Line {
  kbitPerSecond: number;
  /** A packet that would have to wait longer is lost. */
  longestWaitMs: number;
}

export interface Hosts<Name extends string = string> {
  hosts: Record<Name, Host>;
  /** This machine's address in a network: what listens there is reached by its hosts. */
  addressOf(network: string): string;
  pull(host: Host, network: string): void;
  plug(host: Host, network: string): void;
  /** Narrows a host's cable, both ways. The kernel's netem would delay evenly; few kernels have it, every one has this. */
  narrow(host: Host, network: string, line: Line): void;
  widen(host: Host, network: string): void;
  /** Also ends every process that still runs there. */
  close(): void;
}

let opened = 0;
const namespacePattern = /^lm([0-9a-z]+)\.[0-9]+-[0-9]+$/;
const bridgePattern = /^lm([0-9a-z]+)\.[0-9]+[a-z]$/;

/** `cables`: a host's name, and its networks, of any name. Throws CannotRunHere without root, or without `ip netns`. */
export function openHosts<Name extends string>(cables: Record<Name, readonly string[]>): Hosts<Name> {
  if (process.getuid?.() !== 0) throw new CannotRunHere('network namespaces need root');
  // Interface names have 15 characters at most: two, a process, a dot, a digit, a letter, and the host's number.
  const id = `lm${process.pid.toString(36)}.${opened}`;
  const octet = 16 + ((process.pid + 64 * opened) % 240);
  opened += 1;
  const names = Object.keys(cables) as Name[]; // its own keys
  const networks = [...new Set(names.flatMap((name) => cables[name]))];
  const namespace = (n: number): string => `${id}-${n}`;
  const subnet = (network: string): string => `10.${octet}.${200 + networks.indexOf(network)}`;
  const bridge = (network: string): string => `${id}${'abcdefgh'[networks.indexOf(network)]}`;
  const outside = ({ prefix }: Host, network: string): string =>
    `${bridge(network)}${prefix.at(-1)?.split('-').at(-1)}`;
  const inside = (network: string): string => `net-${network}`.slice(0, 15);
  const hosts = Object.fromEntries(
    names.map((name, n): [string, Host] => [
      name,
      {
        name,
        prefix: ['ip', 'netns', 'exec', namespace(n)],
        addressOf: (network) => `${subnet(network)}.${n + 2}`,
      },
    ]),
  ) as Record<Name, Host>; // of these names

  const close = (): void => {
    process.off('exit', close);
    for (const n of names.keys()) clearNamespace(namespace(n));
    for (const network of networks) tryIp('link', 'del', bridge(network));
  };
  process.on('exit', close);
  try {
    clearLeftovers();
    for (const network of networks) {
      ip('link', 'add', bridge(network), 'type', 'bridge');
      ip('addr', 'add', `${subnet(network)}.1/24`, 'dev', bridge(network));
      ip('link', 'set', bridge(network), 'up');
    }
    for (const [n, name] of names.entries()) {
      const host = hosts[name];
      ip('netns', 'add', namespace(n));
      ip('-n', namespace(n), 'link', 'set', 'lo', 'up');
      for (const network of cables[name]) {
        const [out, dev] = [outside(host, network), inside(network)];
        ip('link', 'add', out, 'type', 'veth', 'peer', 'name', dev, 'netns', namespace(n));
        ip('link', 'set', out, 'master', bridge(network), 'up');
        ip('-n', namespace(n), 'addr', 'add', `${host.addressOf(network)}/24`, 'dev', dev);
        ip('-n', namespace(n), 'link', 'set', dev, 'up');
      }
    }
  } catch (error) {
    close();
    throw new CannotRunHere(`network namespaces cannot be made: ${lastLine(error)}`);
  }

  /** Both ends of a host's cable, each as `tc` is told of it. */
  const ends = (host: Host, network: string): string[][] => [
    ['tc', 'qdisc', 'replace', 'dev', outside(host, network), 'root'],
    [...host.prefix, 'tc', 'qdisc', 'replace', 'dev', inside(network), 'root'],
  ];
  return {
    hosts,
    addressOf: (network) => `${subnet(network)}.1`,
    pull: (host, network) => ip('link', 'set', outside(host, network), 'down'),
    plug: (host, network) => ip('link', 'set', outside(host, network), 'up'),
    narrow(host, network, { kbitPerSecond, longestWaitMs }) {
      const line = ['tbf', 'rate', `${kbitPerSecond}kbit`, 'burst', '4kb', 'latency', `${longestWaitMs}ms`];
      for (const end of ends(host, network)) run(...end, ...line);
    },
    widen(host, network) {
      for (const end of ends(host, network)) run(...end, 'noqueue');
    },
    close,
  };
}

/** What processes left that are no more: killed, they could not clear away. */
function clearLeftovers(): void {
  const isLeftover = (pattern: RegExp, name: string): boolean => {
    const maker = pattern.exec(name)?.[1];
    return maker !== undefined && !existsSync(`/proc/${Number.parseInt(maker, 36)}`);
  };
  for (const name of firstWords(ip('netns', 'list')))
    if (isLeftover(namespacePattern, name)) clearNamespace(name);
  for (const name of firstWords(ip('-brief', 'link', 'show', 'type', 'bridge')))
    if (isLeftover(bridgePattern, name)) tryIp('link', 'del', name);
}

/** Cables go with the namespace that holds their inner end. */
function clearNamespace(name: string): void {
  for (const pid of firstWords(tryIp('netns', 'pids', name))) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // has ended
    }
  }
  tryIp('netns', 'del', name);
}

function firstWords(text: string): string[] {
  return text.split('\n').flatMap((line) => line.trim().split(/\s+/)[0] || []);
}

function ip(...args: string[]): string {
  return run('ip', ...args);
}

function run(...[command = '', ...args]: string[]): string {
  return execFileSync(command, args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
}

/** '' where it was never made. */
function tryIp(...args: string[]): string {
  try {
    return ip(...args);
  } catch {
    return '';
  }
}

function lastLine(error: unknown): string {
  const said = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
  return (said || String(error)).trim().split('\n').at(-1) ?? '';
}
