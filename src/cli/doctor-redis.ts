/** What `lensmill doctor` says of Redis: a run of one empty shard is taken through it, and its set-up is looked at. */
import { hostname } from 'node:os';
import { parseRedisAddress, type RedisAddress } from '../redis/address.ts';
import { type RedisFacts, readRedisFacts } from '../redis/facts.ts';
import { tryQueue } from '../redis/queue-trial.ts';
import { startPrivateRedis } from '../redis/server.ts';
import { hideSecrets } from '../settings/resolve.ts';
import type { Settings } from '../settings/table.ts';
import { isLoopback } from '../web/access.ts';

export interface Finding {
  what: string;
  verdict: 'good' | 'warning' | 'bad';
  detail: string;
}

type Judgement = Omit<Finding, 'what'>;

/** BullMQ's least. */
const leastVersion = [6, 2];
/** A lock is renewed every 3 s and asked for several times a second; above this, Redis is in another part of the world. */
const slowMs = 50;
/** Nothing depends on clocks but the pause before a shard's next attempt; above this, times in logs do not fit together. */
const clockMs = 5_000;
/** Of maxmemory: little is left. */
const fullShare = 0.8;

export async function examineRedis({ redis }: Settings): Promise<Judgement> {
  if (redis === undefined) {
    const own = await startPrivateRedis();
    try {
      const { version } = await readRedisFacts(own.url);
      return { verdict: 'good', detail: `a private redis-server ${version} (REDIS_URL is not set)` };
    } finally {
      await own.close();
    }
  }
  const judged = judgeRedis(await readRedisFacts(redis), redis);
  if (judged.verdict === 'bad') return judged;
  await tryQueue(redis);
  return { ...judged, detail: `${judged.detail}; a shard went through it` };
}

/** Of what it found, the worst decides; all of it is told. */
export function judgeRedis(facts: RedisFacts, url: string): Judgement {
  const { version, policy, appendsOnly, roundTripMs, unseen } = facts;
  const bad = badOf(facts);
  const warnings = warningsOf(facts, parseRedisAddress(url));
  const good = [
    ...(policy === 'noeviction' ? [policy] : []),
    ...(appendsOnly ? ['append-only'] : []),
    `${roundTripMs.toFixed(1)} ms away`,
    ...(unseen.length > 0 ? [`this user may not ask for ${unseen.join(', ')}: that was not looked at`] : []),
  ];
  return {
    verdict: bad.length > 0 ? 'bad' : warnings.length > 0 ? 'warning' : 'good',
    detail: `${['Redis', ...(version ? [version] : [])].join(' ')} at ${hideSecrets(url)}: ${[...bad, ...warnings, ...good].join('; ')}`,
  };
}

function badOf({ version, role, policy, isDiskFailing }: RedisFacts): string[] {
  const bad: string[] = [];
  if (version !== undefined && isOlder(version)) bad.push(`BullMQ needs ${leastVersion.join('.')} or newer`);
  if (role === 'replica') bad.push('it is a replica, which may forbid writes at any time: give its primary');
  if (policy !== undefined && policy !== 'noeviction')
    bad.push(`maxmemory-policy is ${policy}, which may drop jobs: set noeviction`);
  if (isDiskFailing) bad.push('its last write to its disk failed: see its log, and free space there');
  return bad;
}

function warningsOf(facts: RedisFacts, address: RedisAddress): string[] {
  const { isCluster, appendsOnly, snapshots, maxMemory, usedMemory = 0, roundTripMs, clockAheadMs } = facts;
  const warnings: string[] = [];
  if (isCluster && address.kind === 'server')
    warnings.push('it is a node of a Cluster: write redis-cluster://, or a fail-over ends all work');
  if (isPlaintext(address))
    warnings.push(
      'passwords and all else go over the network as plain text: use rediss://, or a network of your own',
    );
  if (appendsOnly === false)
    warnings.push(
      `${snapshots === false ? 'it keeps nothing on disk' : 'no append-only file'}: after a restart use \`lensmill resume\`, or set appendonly yes`,
    );
  if (maxMemory && usedMemory > fullShare * maxMemory)
    warnings.push(`${megabytes(usedMemory)} of its maxmemory ${megabytes(maxMemory)} are used: raise it`);
  if (roundTripMs > slowMs)
    warnings.push(`${Math.round(roundTripMs)} ms away: put it nearer, or use a larger --shard-size`);
  if (Math.abs(clockAheadMs) > clockMs)
    warnings.push(
      `its clock is ${Math.round(Math.abs(clockAheadMs) / 1_000)} s ${clockAheadMs > 0 ? 'ahead of' : 'behind'} that of ${hostname()}: no lock depends on it, but set both right`,
    );
  return warnings;
}

function isOlder(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [leastMajor = 0, leastMinor = 0] = leastVersion;
  return major < leastMajor || (major === leastMajor && minor < leastMinor);
}

function isPlaintext(address: RedisAddress): boolean {
  switch (address.kind) {
    case 'socket':
      return false;
    case 'server':
      return !address.tls && !isLoopback(address.node.host);
    case 'sentinel':
      return !address.tls && !address.sentinels.every(({ host }) => isLoopback(host));
    case 'cluster':
      return !address.tls && !address.nodes.every(({ host }) => isLoopback(host));
  }
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`;
}
