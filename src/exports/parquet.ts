/** One compact dataset: `images-00000.parquet` …, the columns of the parts, ok and failed rows, in row groups of 4096. */
import { join } from 'node:path';
import { createParquetFile, type ParquetFile } from '../parts/parquet.ts';
import { flatColumns } from '../parts/part.ts';
import type { ExportFile, ExportTarget } from './export-file.ts';

export function openParquet({ folder, index }: ExportTarget): ExportFile {
  const path = join(folder, `images-${String(index).padStart(5, '0')}.parquet`);
  let file: ParquetFile | undefined;
  return {
    async append({ bytes, facts }) {
      file ??= createParquetFile(path, flatColumns, facts);
      await file.append(bytes);
    },
    async close() {
      await file?.close();
    },
  };
}
