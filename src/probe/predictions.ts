/**
 * What a head says of the rows of an output, in files that other tools read: `predictions-00000.parquet` … Every row that
 * counts has one here: the class that is most probable and its probability (`label`, `score`), or why it failed. Parquet has
 * class numbers and probabilities of the best few too (`labels`, `scores`), JSONL their names.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { ExportFile, ExportTarget } from '../exports/export-file.ts';
import type { Matrices } from '../infer.ts';
import type { HeadRecord } from '../models/head.ts';
import { createParquetFile, float32, lists, type ParquetFile, text } from '../parts/parquet.ts';
import type { PartTable } from '../parts/part.ts';

const formats = { parquet: openParquet, jsonl: openJsonl, csv: openCsv };

export type PredictionFormat = keyof typeof formats;
export const predictionFormats = Object.keys(formats) as PredictionFormat[]; // keys of the object above

export interface PredictionOptions {
  /** A head that runs. */
  matrices: Matrices;
  record: HeadRecord;
  /** Classes said of an image; no more than there are. */
  topK: number;
}

/** A part's rows, and what the head says of them. */
interface Predicted {
  table: PartTable;
  /** [rows × topK], best first; meaningless in rows that are not ok. */
  labels: Int32Array;
  scores: Float32Array;
  /** By row: the name of the best one, and its probability; null in rows that are not ok. */
  names: (string | null)[];
  best: (number | null)[];
}

interface PredictionFile {
  append(rows: Predicted): Promise<void>;
  close(): Promise<void>;
}

/** Opens one such file, as `exportParts` wants it. */
export function predictionWriter(
  format: PredictionFormat,
  { matrices, record, topK }: PredictionOptions,
): (target: ExportTarget) => Promise<ExportFile> {
  const { classes, model } = record;
  return async ({ folder, index }) => {
    const path = join(folder, `predictions-${String(index).padStart(5, '0')}.${format}`);
    const file: PredictionFile = await formats[format](path, record, topK);
    return {
      async append(part) {
        const table = part.read();
        const outputs = await matrices.run({
          embedding: { values: table.embeddings, columns: model.dimension },
        });
        const probabilities = outputs.probabilities as Float32Array; // encodeHead names it
        const { labels, scores } = rankRows(probabilities, classes.length, topK);
        const isOk = (row: number): boolean => table.statuses[row] === 'ok';
        const names = table.ids.map((_, row) =>
          isOk(row) ? (classes[labels[row * topK] ?? 0] ?? null) : null,
        );
        const best = table.ids.map((_, row) => (isOk(row) ? (scores[row * topK] ?? null) : null));
        await file.append({ table, labels, scores, names, best });
      },
      close: () => file.close(),
    };
  };
}

/** The best `topK` of each row of [rows × classes], best first; of equal ones the first. */
export function rankRows(
  probabilities: Float32Array,
  classes: number,
  topK: number,
): { labels: Int32Array; scores: Float32Array } {
  const rows = probabilities.length / classes;
  const labels = new Int32Array(rows * topK);
  const scores = new Float32Array(rows * topK);
  for (let row = 0; row < rows; row++) {
    const first = row * topK;
    let filled = 0;
    for (let label = 0; label < classes; label++) {
      const score = probabilities[row * classes + label] as number;
      let place = filled;
      while (place > 0 && score > (scores[first + place - 1] as number)) place--;
      if (place === topK) continue;
      filled = Math.min(topK, filled + 1);
      scores.copyWithin(first + place + 1, first + place, first + filled - 1);
      labels.copyWithin(first + place + 1, first + place, first + filled - 1);
      scores[first + place] = score;
      labels[first + place] = label;
    }
  }
  return { labels, scores };
}

const flatColumns = ['id', 'uri', 'status', 'error', 'message', 'label', 'score'] as const;

async function openParquet(path: string, record: HeadRecord, topK: number): Promise<PredictionFile> {
  const file: ParquetFile = createParquetFile(path, flatColumns, { head: record });
  return {
    async append({ table, labels, scores, names, best }) {
      const isOk = table.statuses.map((status) => status === 'ok');
      await file.append([
        text('id', table.ids),
        text('uri', table.uris),
        text('status', table.statuses),
        text('error', table.errors, 'nullable'),
        text('message', table.messages, 'nullable'),
        text('label', names, 'nullable'),
        float32('score', best),
        lists('labels', labels, topK, isOk),
        lists('scores', scores, topK, isOk),
      ]);
    },
    close: () => file.close(),
  };
}

async function openJsonl(path: string, { classes }: HeadRecord, topK: number): Promise<PredictionFile> {
  const file: FileHandle = await open(path, 'wx');
  return {
    async append({ table, labels, scores, names, best }) {
      const lines = table.ids.map((id, row) => {
        const head = { id, uri: table.uris[row], status: table.statuses[row] };
        if (head.status !== 'ok')
          return JSON.stringify({ ...head, error: table.errors[row], message: table.messages[row] });
        const named = Array.from(labels.subarray(row * topK, (row + 1) * topK), (label) => classes[label]);
        const said = Array.from(scores.subarray(row * topK, (row + 1) * topK), shortened);
        return JSON.stringify({
          ...head,
          label: names[row],
          score: shortened(best[row] ?? 0),
          labels: named,
          scores: said,
        });
      });
      await file.writeFile(lines.map((line) => `${line}\n`).join(''));
    },
    close: () => file.close(),
  };
}

/** RFC 4180. */
async function openCsv(path: string): Promise<PredictionFile> {
  const file: FileHandle = await open(path, 'wx');
  await file.writeFile('id,uri,status,label,score,error,message\r\n');
  return {
    async append({ table, names, best }) {
      const lines = table.ids.map((id, row) => {
        const score = best[row] ?? null;
        const said = [names[row], score === null ? null : String(shortened(score))];
        const values = [
          id,
          table.uris[row],
          table.statuses[row],
          ...said,
          table.errors[row],
          table.messages[row],
        ];
        return `${values.map(quoted).join(',')}\r\n`;
      });
      await file.writeFile(lines.join(''));
    },
    close: () => file.close(),
  };
}

/** Nine digits name every float32. */
function shortened(value: number): number {
  return Number(value.toPrecision(9));
}

function quoted(value: string | null | undefined): string {
  const text = value ?? '';
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
