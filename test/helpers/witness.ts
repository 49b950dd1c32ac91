/** Watches run `r` in a folder while others write it: what stood once, stands for ever, and says the truth. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { CommitResult } from '../../src/commit.ts';
import { partKey, runsPrefix, shardOfPart, successKey } from '../../src/layout.ts';
import type { Success } from '../../src/runs/run.ts';

export interface Witness {
  /** To be called after each act that may have written `key`. */
  look(key: string): void;
  /** What `commitPart` told a worker, at once. */
  told(shard: number, result: CommitResult, part: Uint8Array): void;
  /** What `finalizeRun` returned, at once. */
  finalized(success: Success): void;
  report(violation: string): undefined;
  /** Throws what was amiss until now; looks at every object once more. */
  check(): void;
}

export function openWitness(folder: string, conditional: boolean, shards: number): Witness {
  /** Of all that stands: SHA-256 by key. */
  const hashes = new Map<string, string>();
  const creators = new Set<number>();
  const violations: string[] = [];
  const report = (violation: string): undefined => {
    violations.push(violation);
  };
  const look = (key: string): void => {
    const bytes = readFileSync(join(folder, key));
    const hash = sha256(bytes);
    const before = hashes.get(key);
    hashes.set(key, hash);
    if (before === hash) return;
    // Elsewhere two that looked at the same time both write; but a part is its attempt's alone.
    if (before !== undefined && (conditional || shardOfPart(key) !== undefined)) report(`${key} changed`);
    if (key === successKey('r')) examine(JSON.parse(bytes.toString()) as Success);
  };
  const examine = (success: Success): void => {
    if (success.parts.map(({ shard }) => shard).join() !== [...Array(shards).keys()].join())
      report(`_SUCCESS.json names ${success.parts.length} parts of ${shards}`);
    for (const part of success.parts)
      if (hashes.get(part.key) !== part.sha256) report(`_SUCCESS.json names ${part.key}, not as it is`);
  };

  return {
    look,

    told(shard, result, part) {
      if (conditional) {
        const isOurs = hashes.get(partKey('r', shard)) === sha256(part);
        if (isOurs !== (result !== 'theirs'))
          report(`'${result}' for shard ${shard}, but its part says other`);
        if (result === 'created' && creators.has(shard)) report(`shard ${shard} was created twice`);
        if (result === 'created') creators.add(shard);
        return;
      }
      if (result === 'theirs') report(`an attempt of shard ${shard} met another`);
      const isThere = [...hashes].some(([key, hash]) => shardOfPart(key) === shard && hash === sha256(part));
      if (!isThere) report(`'${result}' for shard ${shard}, but its bytes are nowhere`);
    },

    finalized(success) {
      const standing = JSON.parse(readFileSync(join(folder, successKey('r')), 'utf8')) as Success;
      if (conditional && JSON.stringify(standing) !== JSON.stringify(success))
        report('a finalizer returned another success than stands');
    },

    report,

    check() {
      const standing = readdirSync(join(folder, runsPrefix), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => relative(folder, join(parentPath, name)));
      for (const key of standing) look(key);
      for (const key of hashes.keys()) if (!standing.includes(key)) report(`${key} disappeared`);
      if (violations.length > 0) throw new Error([...new Set(violations)].join('\n'));
    },
  };
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
