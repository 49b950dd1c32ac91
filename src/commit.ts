/**
 * The moment at which a shard's rows come to be: its part is created, whole, once.
 *
 * Every worker that did the shard tries to create the same key, and the store lets one of them win. The others, and a
 * worker whose own reply was lost, find a part there and leave it: any complete part of a shard is as good as another.
 * On a store that cannot create atomically each attempt has a key of its own, and `finalize` chooses one.
 */
import { createHash, randomBytes } from 'node:crypto';
import { partKey } from './layout.ts';
import type { Store } from './stores/store.ts';

/** 'created': by this call. 'ours': by this call too, its reply was lost. 'theirs': another worker was first. */
export type CommitResult = 'created' | 'ours' | 'theirs';

export async function commitPart(
  store: Store,
  run: string,
  shard: number,
  part: Uint8Array,
): Promise<CommitResult> {
  const key = partKey(run, shard, store.conditional ? undefined : randomBytes(4).toString('hex'));
  if (await store.create(key, part)) return 'created';
  const standing = await store.head(key);
  return standing?.sha256 === createHash('sha256').update(part).digest('hex') ? 'ours' : 'theirs';
}
