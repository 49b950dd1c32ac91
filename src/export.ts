/**
 * The parts of runs become files that other tools read; memory holds a few parts at a time.
 *
 * Files are written to `.partial/` in the target folder and moved up when all are there, `export.json` last: where that
 * stands, the export is whole. (A folder beside the target could be renamed in one act, but not onto a mounted volume.)
 */
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { pMapIterable } from 'p-map';
import { errnoOf } from './errno.ts';
import { ConfigError } from './errors.ts';
import type { ExportFacts, ExportFile, ExportPart, ExportTarget } from './exports/export-file.ts';
import { openJsonl } from './exports/jsonl.ts';
import { openNpy } from './exports/npy.ts';
import { openParquet } from './exports/parquet.ts';
import { type PartFooter, parsePartFooter } from './parts/footer.ts';
import { readPart } from './parts/part.ts';
import { openSplicer } from './parts/splice.ts';
import type { ViewPart } from './runs/view.ts';
import type { Store } from './stores/store.ts';

const formats = { npy: openNpy, jsonl: openJsonl, parquet: openParquet };

export type ExportFormat = keyof typeof formats;
export const exportFormats = Object.keys(formats) as ExportFormat[]; // keys of the object above

/** Parts read ahead of the writer: a part is 8 MB, and a store answers in some tens of milliseconds. */
const readAhead = 4;

/** What is exported, and where to; `ExportRequest` and others say how. */
export interface PartsRequest {
  store: Pick<Store, 'read'>;
  /** The run that is exported; parts may be of those before it. */
  run: string;
  /** In the order their rows shall have; a part of which no row is replaced or dropped goes as it stands. */
  parts: Iterable<ExportedPart> | AsyncIterable<ExportedPart>;
  /** Path of a folder that is empty, or does not exist yet. */
  to: string;
  /** Files are cut between parts so that none has more rows, unless a single part has. */
  rowsPerFile: number;
  /** The model's classes by index: jsonl then names its labels. */
  labelNames?: readonly string[] | undefined;
  onProgress?: (progress: ExportProgress) => void;
  signal?: AbortSignal;
}

export interface ExportRequest extends PartsRequest {
  format: ExportFormat;
}

export type ExportedPart = Pick<ViewPart, 'key' | 'replaced' | 'dropped'>;

export interface ExportProgress {
  parts: number;
  rows: number;
}

/** What was written: also the content of `export.json`. */
export interface ExportManifest extends ExportedParts {
  format: ExportFormat;
}

export interface ExportedParts extends ExportFacts {
  /** Rows in = ok + failed. */
  rows: number;
  ok: number;
  failed: number;
  /** The runs that made a row of it, sorted: the run itself, those before it, and retries. */
  runs: string[];
  /** All that made a part of it, sorted. */
  devices: string[];
  lensmill: string[];
  /** Paths below the target, and bytes; sorted. */
  files: { name: string; bytes: number }[];
}

/** Exports the rows of a view's parts; `exports/` describes the formats. Throws as `exportParts`. */
export async function exportRun({ format, ...request }: ExportRequest): Promise<ExportManifest> {
  return exportParts(request, formats[format], { format });
}

/**
 * Writes files of the rows of a view's parts, and `export.json`, which begins with what is `said` of them. Where it fails or is aborted, the target is as empty
 * as before.
 * Throws ConfigError: 'export-target-not-empty', 'export-target-not-writable', 'disk-full', 'nothing-to-export'; Error where
 * a part is gone, damaged, or of another model than the first.
 */
export async function exportParts<Said extends object>(
  request: PartsRequest,
  open: (target: ExportTarget) => ExportFile | Promise<ExportFile>,
  said: Said,
): Promise<Said & ExportedParts> {
  const { to, signal } = request;
  const partial = join(to, '.partial');
  try {
    await mkdir(to, { recursive: true });
    const [found] = (await readdir(to)).filter((name) => name !== '.partial');
    if (found !== undefined) {
      throw new ConfigError(
        'export-target-not-empty',
        `'${to}' holds '${found}': give --to a new or an empty folder`,
      );
    }
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial);
    const totals = await writeFiles(request, open, partial);
    const manifest = { ...said, ...totals, files: await listFiles(partial) };
    await writeFile(join(partial, 'export.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    signal?.throwIfAborted();
    const names = (await readdir(partial)).filter((name) => name !== 'export.json');
    for (const name of [...names, 'export.json']) await rename(join(partial, name), join(to, name));
    return manifest;
  } catch (error) {
    throw explain(error, to);
  } finally {
    await rm(partial, { recursive: true, force: true }).catch(() => {}); // Where `to` is no folder, there is none.
  }
}

/** What the operator can mend, as a ConfigError; anything else as it came. A store's own errors are explained by it. */
function explain(error: unknown, to: string): unknown {
  const code = errnoOf(error);
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new ConfigError(
        'disk-full',
        `no space left for '${to}' (${code}): free some, or choose another --to`,
        {
          cause: error,
        },
      );
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
    case 'EEXIST':
    case 'ENOTDIR':
      return new ConfigError(
        'export-target-not-writable',
        `'${to}' cannot be written (${code}): choose another --to`,
        {
          cause: error,
        },
      );
    default:
      return error;
  }
}

async function writeFiles(
  request: PartsRequest,
  open: (target: ExportTarget) => ExportFile | Promise<ExportFile>,
  folder: string,
): Promise<Omit<ExportedParts, 'files'>> {
  const counts = { rows: 0, ok: 0, failed: 0 };
  const runs = new Set<string>();
  const devices = new Set<string>();
  const versions = new Set<string>();
  let facts: ExportFacts | undefined;
  let file: ExportFile | undefined;
  let [files, fileRows, parts] = [0, 0, 0];
  try {
    for await (const part of readParts(request)) {
      const { rows, ok, failed } = part.footer;
      if (file && fileRows + rows > request.rowsPerFile) {
        const full = file;
        file = undefined;
        await full.close();
      }
      if (!file) {
        file = await open({ folder, index: files++, labelNames: request.labelNames });
        fileRows = 0;
      }
      await file.append(part);
      fileRows += rows;
      counts.rows += rows;
      counts.ok += ok;
      counts.failed += failed;
      for (const { run, device, lensmill } of [part.footer, ...part.from]) {
        runs.add(run);
        devices.add(device);
        versions.add(lensmill);
      }
      facts = part.facts;
      request.onProgress?.({ parts: ++parts, rows: counts.rows });
    }
  } catch (error) {
    await file?.close().catch(() => {}); // The first error is the one to tell.
    throw error;
  }
  await file?.close();
  if (!facts) throw new ConfigError('nothing-to-export', `run ${request.run} has no rows`);
  const sets = { runs: [...runs].sort(), devices: [...devices].sort(), lensmill: [...versions].sort() };
  return { ...facts, ...counts, ...sets };
}

interface ReadPart extends ExportPart {
  footer: PartFooter;
  /** Footers of the parts that gave it rows. */
  from: PartFooter[];
}

/** The parts in order, read ahead, each checked to be of the first one's model. */
async function* readParts({ store, run, parts, signal }: PartsRequest): AsyncGenerator<ReadPart> {
  const read = async (part: ExportedPart) => ({ ...part, stored: await store.read(part.key) });
  const splice = openSplicer(store);
  let facts: ExportFacts | undefined;
  for await (const { key, replaced, dropped, stored } of pMapIterable(parts, read, {
    concurrency: readAhead,
  })) {
    signal?.throwIfAborted();
    if (!stored) throw new Error(`${key} is gone`);
    const isChanged = replaced.length + dropped.length > 0;
    const { bytes, from } = isChanged
      ? await splice(readPart(stored, key), { replaced, dropped })
      : { bytes: stored, from: [] };
    const footer = parsePartFooter(bytes, key);
    const { source, model, topK } = footer;
    facts ??= { run, source, model, topK };
    if (model.fingerprint !== facts.model.fingerprint || topK !== facts.topK)
      throw new Error(
        `${key} is by model ${model.fingerprint}, top ${topK}, not ${facts.model.fingerprint}, top ${facts.topK}`,
      );
    yield { bytes, footer, from: from.map((table) => table.footer), facts, read: () => readPart(bytes, key) };
  }
}

async function listFiles(folder: string): Promise<ExportManifest['files']> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const files = paths.map(async (path) => ({ name: relative(folder, path), bytes: (await stat(path)).size }));
  return (await Promise.all(files)).sort((a, b) => (a.name < b.name ? -1 : 1));
}
