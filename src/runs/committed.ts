/** Which shards of a run the store holds a part of. */
import { partKey, partsPrefix, shardOfPart } from '../layout.ts';
import type { Store } from '../stores/store.ts';

export interface CommittedPart {
  key: string;
  /** Bytes. */
  size: number;
}

/** A shard's part, or `undefined` while it has none; the first by name where there are several. */
export async function findPart(store: Store, run: string, shard: number): Promise<CommittedPart | undefined> {
  const key = partKey(run, shard);
  if (store.conditional) {
    const facts = await store.head(key);
    return facts && { key, size: facts.size };
  }
  for await (const listed of store.list(key.replace(/parquet$/, ''))) return listed;
  return undefined;
}

/** Every shard that has a part, with the part that counts: the first by name. */
export async function listParts(store: Store, run: string): Promise<Map<number, CommittedPart>> {
  const parts = new Map<number, CommittedPart>();
  for await (const listed of store.list(partsPrefix(run))) {
    const shard = shardOfPart(listed.key);
    if (shard !== undefined && !parts.has(shard)) parts.set(shard, listed);
  }
  return parts;
}
