/**
 * What clip-retrieval writes and autofaiss reads (https://github.com/rom1504/clip-retrieval, clip_inference/writer.py):
 * `img_emb/img_emb_0.npy`, float16 [images, dimension], and `metadata/metadata_0.parquet` with a row for each of its rows,
 * `image_path` first. Readers sort the names in each folder and pair them by position, so both are numbered alike.
 * Failed images have no embedding: they go to `failed.jsonl`.
 */
import { appendFile, type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { toHalf } from '../models/half.ts';
import {
  type Column,
  createParquetFile,
  int32,
  int64,
  lists,
  type ParquetFile,
  text,
} from '../parts/parquet.ts';
import type { PartTable } from '../parts/part.ts';
import type { ExportFile, ExportTarget } from './export-file.ts';

/** Bytes of the header: NumPy wants a multiple of 64, and a shape's digits may grow until the file is closed. */
const headerBytes = 128;

const flatColumns = [
  'image_path',
  'id',
  'etag',
  'sha256',
  'bytes',
  'width',
  'height',
  'format',
  'extra',
] as const;

export async function openNpy({ folder, index }: ExportTarget): Promise<ExportFile> {
  await mkdir(join(folder, 'img_emb'), { recursive: true });
  await mkdir(join(folder, 'metadata'), { recursive: true });
  let dimension = 0;
  let images = 0;
  let embeddings: FileHandle | undefined;
  let metadata: ParquetFile | undefined;
  return {
    async append(part) {
      const table = part.read();
      const failed = table.ids.map((_, row) => failedLine(table, row)).join('');
      if (failed) await appendFile(join(folder, 'failed.jsonl'), failed);
      if (table.footer.ok === 0) return;

      dimension = table.footer.model.dimension;
      embeddings ??= await openEmbeddings(join(folder, 'img_emb', `img_emb_${index}.npy`));
      const halves = toHalf(packRows(table, table.embeddings, dimension));
      await embeddings.writeFile(halves);
      images += table.footer.ok;

      metadata ??= createParquetFile(
        join(folder, 'metadata', `metadata_${index}.parquet`),
        flatColumns,
        part.facts,
      );
      await metadata.append(metadataColumns(table));
    },
    async close() {
      try {
        await embeddings?.write(npyHeader(images, dimension), 0, headerBytes, 0);
        await metadata?.close();
      } finally {
        await embeddings?.close();
      }
    },
  };
}

/** A file whose header is still to come. */
async function openEmbeddings(path: string): Promise<FileHandle> {
  const file = await open(path, 'wx');
  await file.writeFile(new Uint8Array(headerBytes));
  return file;
}

/** NumPy's format, version 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
function npyHeader(images: number, dimension: number): Uint8Array {
  const shape = `{'descr': '<f2', 'fortran_order': False, 'shape': (${images}, ${dimension}), }`;
  const header = Buffer.from(`\x93NUMPY\x01\x00..${shape.padEnd(headerBytes - 11)}\n`, 'latin1');
  header.writeUInt16LE(headerBytes - 10, 8);
  return header;
}

function failedLine(table: PartTable, row: number): string {
  if (table.statuses[row] === 'ok') return '';
  const { ids, uris, errors, messages } = table;
  return `${JSON.stringify({ id: ids[row], uri: uris[row], error: errors[row], message: messages[row] })}\n`;
}

function metadataColumns(table: PartTable): Column[] {
  const { topK } = table.footer;
  const present = new Array<boolean>(table.footer.ok).fill(true);
  const okOf = <T>(values: readonly T[]) => values.filter((_, row) => table.statuses[row] === 'ok');
  return [
    text('image_path', okOf(table.uris).map(pathOf)),
    text('id', okOf(table.ids)),
    text('etag', okOf(table.etags)),
    text('sha256', okOf(table.sha256s)),
    int64('bytes', okOf(table.bytes)),
    int32('width', okOf(table.widths)),
    int32('height', okOf(table.heights)),
    text('format', okOf(table.formats)),
    text('extra', okOf(table.extras), 'nullable'),
    lists('labels', packRows(table, table.labels, topK), topK, present),
    lists('scores', packRows(table, table.scores, topK), topK, present),
  ];
}

/** A path where the image is a file, which clip-retrieval opens; else its URI. */
function pathOf(uri: string): string {
  try {
    return uri.startsWith('file:') ? fileURLToPath(uri) : uri;
  } catch {
    return uri; // A name that is not UTF-8 has no path that is text.
  }
}

/** The ok rows of a [rows × length] array, without gaps: moved up in place, as the table is not needed again. */
function packRows<T extends Float32Array | Int32Array>(table: PartTable, values: T, length: number): T {
  let packed = 0;
  for (const [row, status] of table.statuses.entries()) {
    if (status === 'ok') values.copyWithin(packed++ * length, row * length, (row + 1) * length);
  }
  return values.subarray(0, packed * length) as T; // subarray keeps the kind of array
}
