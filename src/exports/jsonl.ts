/** One JSON object an image, ok or failed: `images-00000.jsonl` … */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { PartTable } from '../parts/part.ts';
import type { ExportFile, ExportTarget } from './export-file.ts';

/**
 * An ok row has id, uri, status, labels, scores, embedding (and labelNames, index for index with labels, where the names
 * are known; headLabels, headLabelNames, headScores of a run with a head; features_layer3 and such); a failed row id, uri, status, error, message. Either has `extra`, an object, where something came with the image.
 */
export async function openJsonl({ folder, index, labelNames }: ExportTarget): Promise<ExportFile> {
  const path = join(folder, `images-${String(index).padStart(5, '0')}.jsonl`);
  const file: FileHandle = await open(path, 'wx');
  return {
    async append(part) {
      const table = part.read();
      await file.writeFile(table.ids.map((_, row) => rowLine(table, row, labelNames)).join(''));
    },
    close: () => file.close(),
  };
}

function rowLine(table: PartTable, row: number, labelNames: readonly string[] | undefined): string {
  const extra = table.extras[row];
  const came = extra && { extra: JSON.parse(extra) };
  const head = { id: table.ids[row], uri: table.uris[row], status: table.statuses[row], ...came };
  if (head.status === 'failed') {
    return `${JSON.stringify({ ...head, error: table.errors[row], message: table.messages[row] })}\n`;
  }
  const { topK, model } = table.footer;
  const labels = [...table.labels.subarray(row * topK, (row + 1) * topK)];
  const named = labelNames && labels.map((label) => labelNames[label] ?? null);
  const scores = floats(table.scores.subarray(row * topK, (row + 1) * topK));
  const embedding = floats(table.embeddings.subarray(row * model.dimension, (row + 1) * model.dimension));
  const known = JSON.stringify({ ...head, labels, ...(named && { labelNames: named }) });
  return `${known.slice(0, -1)},"scores":${scores},"embedding":${embedding}${extrasOf(table, row)}}\n`;
}

/** Of a run with a head or with features. */
function extrasOf({ footer, headLabels, headScores, features }: PartTable, row: number): string {
  const { head, features: stages = [] } = footer;
  const rowOf = <T extends Float32Array | Int32Array>(values: T, length: number): T =>
    values.subarray(row * length, (row + 1) * length) as T; // subarray keeps the kind of array
  const said = head && [...rowOf(headLabels, head.topK)];
  return [
    ...(head && said
      ? [
          `"headLabels":${JSON.stringify(said)}`,
          `"headLabelNames":${JSON.stringify(said.map((label) => head.classes[label]))}`,
          `"headScores":${floats(rowOf(headScores, head.topK))}`,
        ]
      : []),
    ...stages.map(
      ({ layer, length }, at) => `"features_${layer}":${floats(rowOf(features[at] ?? nothing, length))}`,
    ),
  ]
    .map((column) => `,${column}`)
    .join('');
}

const nothing = new Float32Array(0);

/** Nine digits name every float32; JSON.stringify would print the 17 of a double: 40 kB instead of 25 an embedding. */
function floats(values: Float32Array): string {
  return `[${Array.from(values, (value) => (Number.isFinite(value) ? value.toPrecision(9) : 'null')).join(',')}]`;
}
