/**
 * The moment at which a shard's rows come to be: its part is created, whole, once.
 *
 * Every worker that did the shard tries to create the same key, and the store lets one of them win. The others, and a
 * worker whose own reply was lost, find a part there and leave it: any complete part of a shard is as good as another.
 * On a store that cannot create atomically each attempt has a key of its own, and `finalize` chooses one.
 */
import { createHash, randomBytes } from 'node:crypto';
import { partKey, partsPrefix, shardOfPart } from './layout.ts';
import type { Store } from './stores/store.ts';

/** 'created': by this call. 'ours': by this call too, its reply was lost. 'theirs': another worker was first. */
export type CommitResult = 'created' | 'ours' | 'theirs';

export async function commitPart(store: Store, run: string, shard: number, part: Uint8Array): Promise<CommitResult> {
  const key = partKey(run, shard, store.conditional ? undefined : randomBytes(4).toString('hex'));
  if (await store.create(key, part)) return 'created';
  const standing = await store.head(key);
  return standing?.sha256 === createHash('sha256').update(part).digest('hex') ? 'ours' : 'theirs';
}

/** A part that stands in the store. */
export interface StandingPart {
  key: string;
  /** Bytes. */
  size: number;
}

/** A shard's part, or `undefined` while it has none; the first by name where there are several. */
export async function findPart(store: Store, run: string, shard: number): Promise<StandingPart | undefined> {
  const key = partKey(run, shard);
  if (store.conditional) {
    const facts = await store.head(key);
    return facts && { key, size: facts.size };
  }
  for await (const listed of store.list(key.replace(/parquet$/, ''))) return listed;
  return undefined;
}

/** Every shard that has a part, with the part that counts: the first by name. */
export async function listParts(store: Store, run: string): Promise<Map<number, StandingPart>> {
  const parts = new Map<number, StandingPart>();
  for await (const listed of store.list(partsPrefix(run))) {
    const shard = shardOfPart(listed.key);
    if (shard !== undefined && !parts.has(shard)) parts.set(shard, listed);
  }
  return parts;
}
