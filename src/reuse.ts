/**
 * The same bytes are embedded once: a worker's memory of what came of bytes that it, or a finished run of the output, has met.
 *
 *   1. Before its first shard, the hashes of the output's finished runs of the same kind go to the table (seen.ts), newest
 *      run first, until one has no room.
 *   2. A lane that has read an item claims its bytes there. Bytes that are known are neither decoded nor embedded.
 *   3. `recall` gives what they came to: from memory for the latest few thousand, else from the part that holds the row.
 *      Where it cannot (the shard that had them was lost, or the 64 bits belong to others), they are done anew.
 *
 * A row found so has the numbers of the run that made it: same model, preprocessing and precision by fingerprint.
 */
import pMap from 'p-map';
import type { SheetRow } from './batch.ts';
import { ConfigError, messageOf } from './errors.ts';
import { openPart } from './parts/footer.ts';
import type { PartTable } from './parts/part.ts';
import { extrasName, numbersAt } from './parts/row-extras.ts';
import { findRequest, findSuccess, listRuns, type Run, type RunRequest } from './runs/run.ts';
import { makeSeenTable, openSeenTable, seenCapacity } from './seen.ts';
import type { Store } from './stores/store.ts';
import type { KnownRow, Outcome } from './types.ts';

/** A row that was made here, or taken, where it stands. */
export type MadeRow = SheetRow & { device: string };

export interface Reuse {
  /** For lanes. */
  readonly seen: SharedArrayBuffer;
  /** Images of a run that there is room for. */
  readonly room: number;
  /**
   * What bytes with this hash came to, claimed at this place; `undefined` where that is not to be had. Copy it at once: a
   * later `remember` uses its memory again.
   */
  recall(place: number, sha256: string): Promise<KnownRow | undefined>;
  /** What the bytes claimed at a place came to. */
  remember(place: number, row: MadeRow): void;
  /** A part stands in the store; row r of it was claimed at `places[r]`, or nowhere (-1). */
  addPart(key: string, places: Int32Array): void;
}

/** Rows in memory: as many as sheets that were given back hold (sheet.ts). */
const keptRows = 4096;
/** Parts in memory, 8 MB each: who finds a moved or repacked archive finds its images in the order of the parts. */
const keptParts = 8;
const concurrency = 16;

/** Reads the hashes of the output's runs. `onNotice` hears of runs and parts that cannot be used, now or later. */
export async function openReuse(
  store: Store,
  run: Run,
  { onNotice }: { onNotice(notice: string): void },
): Promise<Reuse> {
  const earlier = await findRuns(store, run, onNotice);
  const seen = makeSeenTable(earlier.reduce((sum, { rows }) => sum + rows, run.items));
  const table = openSeenTable(seen);
  const partKeys: string[] = [];
  /** By place: the index in `partKeys` and the row there, as part × 2^16 + row + 1; 0 where there is none. */
  const rowsAt = new Float64Array(seen.byteLength / 8);
  /** By place; what was asked for last is last. */
  const latest = new Map<number, MadeRow>();
  const tables = new Map<string, Promise<PartTable | undefined>>();

  await loadRuns();
  return {
    seen,
    room: run.items,
    async recall(place, sha256) {
      const kept = latest.get(place);
      if (kept?.sheet.isOver) latest.delete(place);
      const row = kept && !kept.sheet.isOver ? rowIn(kept) : await readRow(place);
      return row?.outcome.sha256 === sha256 ? row : undefined;
    },
    remember(place, row) {
      latest.delete(place);
      latest.set(place, row);
      const [oldest] = latest.keys();
      if (latest.size > keptRows && oldest !== undefined) latest.delete(oldest);
    },
    addPart,
  };

  function addPart(key: string, places: Int32Array): void {
    const part = partKeys.push(key) - 1;
    for (const [row, place] of places.entries()) if (place >= 0) rowsAt[place] = part * 2 ** 16 + row + 1;
  }

  async function readRow(place: number): Promise<KnownRow | undefined> {
    const at = (rowsAt[place] ?? 0) - 1;
    const key = partKeys[Math.floor(at / 2 ** 16)];
    if (at < 0 || key === undefined) return undefined;
    const part = await readTable(key);
    return part && rowOf(part, at % 2 ** 16);
  }

  /** `undefined` where the part cannot be had: its run may have been deleted. */
  function readTable(key: string): Promise<PartTable | undefined> {
    const known = tables.get(key);
    tables.delete(key);
    // A part that cannot be had is kept as such: it would be read, and complained of, for each of its rows.
    const reading = known ?? readLazily(key).catch((error) => tellLost(key, error));
    tables.set(key, reading);
    const [oldest] = tables.keys();
    if (tables.size > keptParts && oldest !== undefined) tables.delete(oldest);
    return reading;
  }

  /** Most runs repeat nothing: what reads Parquet, a third of a second of a core, is loaded for those that do. */
  async function readLazily(key: string): Promise<PartTable> {
    const { readStoredPart } = await import('./parts/part.ts');
    return readStoredPart(store, key);
  }

  /** Another run's damage is no reason to stop this one; `verify` tells of it. */
  function tellLost(key: string, error: unknown): undefined {
    onNotice(`what ${key} holds is embedded again: ${messageOf(error)}`);
  }

  async function loadRuns(): Promise<void> {
    let room = seenCapacity;
    for (const { id, rows, parts } of earlier) {
      if (rows > room) {
        onNotice(
          `images that run ${id} or an older one embedded are embedded again: only ${seenCapacity} hashes are kept`,
        );
        return;
      }
      room -= rows;
      await pMap(parts, ({ key, bytes }) => loadPart(key, bytes), { concurrency });
    }
  }

  async function loadPart(key: string, size: number): Promise<void> {
    try {
      const { sha256s, statuses } = await (await openPart(store, key, size)).readHashes();
      const places = sha256s.map((sha256, row) => {
        const claim = sha256 && statuses[row] === 'ok' ? table.claim(sha256) : undefined;
        return claim?.isNew ? claim.place : -1;
      });
      addPart(key, Int32Array.from(places));
    } catch (error) {
      if (error instanceof ConfigError) throw error;
      tellLost(key, error);
    }
  }
}

/** The output's finished runs whose rows this one may take, newest first. */
async function findRuns(
  store: Store,
  run: Run,
  onNotice: (notice: string) => void,
): Promise<{ id: string; rows: number; parts: readonly { key: string; bytes: number }[] }[]> {
  const found = await pMap(
    await listRuns(store),
    async (id) => {
      if (id === run.run) return [];
      try {
        const other = await findRequest(store, id);
        const success = other && isAlike(other, run) ? await findSuccess(store, id) : undefined;
        return success
          ? [{ id, createdAt: other?.createdAt ?? '', rows: success.items, parts: success.parts }]
          : [];
      } catch (error) {
        if (error instanceof ConfigError) throw error;
        onNotice(`what run ${id} holds is embedded again: ${messageOf(error)}`);
        return [];
      }
    },
    { concurrency },
  );
  return found.flat().toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
}

/** Equal bytes come to equal rows. */
function isAlike(a: RunRequest, b: RunRequest): boolean {
  const isSameModel = a.model.fingerprint === b.model.fingerprint && a.topK === b.topK;
  const isSameRow = a.embedding === b.embedding && extrasName(a) === extrasName(b);
  return isSameModel && isSameRow && a.maxPixels === b.maxPixels;
}

function rowIn({ sheet, row, failure, device }: MadeRow): KnownRow | undefined {
  const outcome = failure ?? sheet.outcomeAt(row);
  const { dimension, topK } = sheet.memory;
  return (
    // Copies: by the time that they are read, the sheet may be over.
    outcome && {
      outcome,
      embedding: sheet.embeddings.slice(row * dimension, (row + 1) * dimension),
      scores: sheet.scores.slice(row * topK, (row + 1) * topK),
      labels: sheet.labels.slice(row * topK, (row + 1) * topK),
      device,
    }
  );
}

function rowOf(part: PartTable, row: number): KnownRow | undefined {
  const [sha256, width, height, format] = [
    part.sha256s[row],
    part.widths[row],
    part.heights[row],
    part.formats[row],
  ];
  if (part.statuses[row] !== 'ok' || !sha256 || !width || !height || !format) return undefined;
  const outcome: Outcome = { status: 'ok', sha256, bytes: part.bytes[row] ?? 0, width, height, format };
  return { outcome, ...numbersAt(part, row), device: part.footer.device };
}
