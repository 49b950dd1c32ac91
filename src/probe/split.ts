/**
 * Which examples a probe learns from and which it is judged by: class by class, in an order that the hash of a picture's content
 * and the seed decide: of a class the same pictures are held out whatever other classes there are; of one that grows, others
 * may be held out. Copies of one picture (the same bytes) stay together: one that is learned from says nothing about one that is
 * judged by.
 */
import { createHash } from 'node:crypto';

/** A labelled picture. */
export interface SplitExample {
  /** Of its content. */
  sha256: string;
  /** Its class. */
  label: number;
}

/** Parts of what is learned from, each left out once to choose by. */
export const folds = 3;
/** Pictures of a class, copies not counted: one to judge by, and one for each fold, with one to spare. */
export const leastPictures = folds + 2;

/** What an example is held out for, in place of its fold. */
export const heldOut = -1;

/**
 * By example: its fold, or `heldOut`. `share` of each class's pictures are held out, at least one, and at least one a fold is
 * not; copies of a picture go with the class of the first of them.
 */
export function splitExamples(
  examples: readonly SplitExample[],
  { share, seed }: { share: number; seed: number },
): Int8Array {
  const pictures = new Map<string, { rows: number[]; label: number }>();
  for (const [row, { sha256, label }] of examples.entries()) {
    const picture = pictures.get(sha256);
    if (picture) picture.rows.push(row);
    else pictures.set(sha256, { rows: [row], label });
  }
  const classes = Map.groupBy(pictures, ([, { label }]) => label);
  const parts = new Int8Array(examples.length);
  let next = 0;
  for (const [, members] of [...classes].sort(([a], [b]) => a - b)) {
    const drawn = members
      .map(([sha256, { rows }]) => ({ rows, rank: rankOf(sha256, seed) }))
      .sort((a, b) => (a.rank < b.rank ? -1 : 1));
    const held = Math.max(1, Math.min(Math.round(share * drawn.length), drawn.length - folds));
    for (const [at, { rows }] of drawn.entries()) {
      // Folds are dealt out across the classes, so that all are of a size.
      const part = at < held ? heldOut : next++ % folds;
      for (const row of rows) parts[row] = part;
    }
  }
  return parts;
}

function rankOf(sha256: string, seed: number): string {
  return createHash('sha256').update(`${seed} ${sha256}`).digest('hex');
}
