/** The labelled rows of an output: what a probe learns from, read from the parts; of those without a labelled row only the text. */
import { pMapIterable } from 'p-map';
import { ConfigError } from '../errors.ts';
import { openPart } from '../parts/footer.ts';
import { type PartTable, readStoredPart } from '../parts/part.ts';
import { openRetriedParts } from '../parts/splice.ts';
import type { ViewPart } from '../runs/view.ts';
import type { Store } from '../stores/store.ts';
import { blockRows, type Examples } from './fit.ts';
import type { Labels } from './labels.ts';
import type { SplitExample } from './split.ts';

export interface Collected {
  examples: Examples;
  /** By row. */
  pictures: SplitExample[];
  counts: LabelCounts;
}

/** What became of the labels: one each is used, unknown or failed. */
export interface LabelCounts {
  labels: number;
  used: number;
  /** No row that counts has this id or URI. */
  unknown: number;
  /** The first of those, as the list has them. */
  unknownNames: string[];
  /** Their row failed, or its embedding holds numbers that are none. */
  failed: number;
  /** Of those used, the ones whose bytes another one has, too. */
  copies: number;
  /** Copies that have another label than the first of them: one of both is wrong. */
  contradictions: number;
}

/** 2 GB of 2048 numbers: a linear classifier learns little from more. */
const mostExamples = 262_144;
/** Parts in memory at once, 8 MB each. */
const readAhead = 4;
const namesShown = 10;

/**
 * `parts` are those of a table. Throws ConfigError 'no-examples' where no label is of a row with an embedding, and
 * 'too-many-examples'; Error where a part is gone, damaged, or of another model than the first.
 */
export async function collectExamples(
  store: Store,
  parts: AsyncIterable<ViewPart>,
  { classes, byName }: Labels,
  {
    dimension,
    fingerprint,
    signal,
    onProgress,
  }: {
    dimension: number;
    fingerprint: string;
    signal?: AbortSignal;
    onProgress?: (rows: number) => void;
  },
): Promise<Collected> {
  if (byName.size > mostExamples)
    throw new ConfigError(
      'too-many-examples',
      `${byName.size} labels: a probe takes ${mostExamples} at most, so give some of them`,
    );
  const partOf = openRetriedParts(store);
  const blocks: Float32Array[] = [];
  const pictures: SplitExample[] = [];
  const met = new Set<string>();
  let failed = 0;
  let first: string | undefined;

  const open = async (part: ViewPart) => {
    const { ids, uris, statuses } = await (await openPart(store, part.key, part.bytes)).readItems();
    const dropped = new Set(part.dropped);
    const named = ids.flatMap((id, row) => {
      const name = [id, uris[row] ?? ''].find((one) => byName.has(one));
      return name === undefined || dropped.has(row) ? [] : [{ row, name }];
    });
    // Rows that a retry replaces lie in a part of its own.
    const replaced = new Map(part.replaced.map(({ row, by }) => [row, by]));
    const isNeeded = named.some(({ row }) => !replaced.has(row) && statuses[row] === 'ok');
    const table = isNeeded ? await readStoredPart(store, part.key) : undefined;
    return { part, id: ids[0], named, replaced, table };
  };
  for await (const { part, id, named, replaced, table } of pMapIterable(parts, open, {
    concurrency: readAhead,
  })) {
    signal?.throwIfAborted();
    first ??= id;
    for (const { row, name } of named) {
      met.add(name);
      const by = replaced.get(row);
      const from = by ? await partOf(by) : table;
      if (!from || !take(from, by?.row ?? row, byName.get(name) as number)) failed += 1; // it has the name
    }
    onProgress?.(part.rows);
  }
  const rows = pictures.length;
  if (rows === 0)
    throw new ConfigError(
      'no-examples',
      `none of the ${byName.size} labels is of a row with an embedding: the list has '${byName.keys().next().value}', the output '${first}'`,
    );
  const unknown = [...byName.keys()].filter((name) => !met.has(name));
  const last = blocks.at(-1) as Float32Array; // there is a row
  blocks[blocks.length - 1] = last.slice(0, (((rows - 1) % blockRows) + 1) * dimension);
  const labels = Int32Array.from(pictures, ({ label }) => label);
  return {
    examples: { rows, dimension, blocks, labels, classes: classes.length },
    pictures,
    counts: {
      labels: byName.size,
      used: rows,
      unknown: unknown.length,
      unknownNames: unknown.slice(0, namesShown),
      failed,
      ...countCopies(pictures),
    },
  };

  /** False where the row has no embedding, or one that overflowed and would spoil all others. */
  function take({ footer, statuses, sha256s, embeddings }: PartTable, row: number, label: number): boolean {
    const sha256 = sha256s[row];
    if (statuses[row] !== 'ok' || !sha256) return false;
    if (footer.fingerprint !== fingerprint)
      throw new Error(
        `a part of run ${footer.run} is by model ${footer.fingerprint}, not ${fingerprint}: this is a bug`,
      );
    const embedding = embeddings.subarray(row * dimension, (row + 1) * dimension);
    if (!embedding.every(Number.isFinite)) return false;
    const at = pictures.length % blockRows;
    if (at === 0) blocks.push(new Float32Array(blockRows * dimension));
    blocks.at(-1)?.set(embedding, at * dimension);
    pictures.push({ sha256, label });
    return true;
  }
}

function countCopies(pictures: readonly SplitExample[]): Pick<LabelCounts, 'copies' | 'contradictions'> {
  const first = new Map<string, number>();
  const counts = { copies: 0, contradictions: 0 };
  for (const { sha256, label } of pictures) {
    const known = first.get(sha256);
    if (known === undefined) first.set(sha256, label);
    else counts.copies += 1;
    if (known !== undefined && known !== label) counts.contradictions += 1;
  }
  return counts;
}
