/** What writing costs: `node test/bench/write.ts`. A shard's rows → a part → rows → each export format, on temporary files. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { exportFormats, exportRun } from '../../src/export.ts';
import { encodePart, readPart } from '../../src/parts/part.ts';
import { makeProvenance, makeShardRows } from '../helpers/shard-rows.ts';

export interface WriteFigure {
  what: string;
  rowsPerSecond: number;
  bytesPerRow: number;
}

const rowsPerPart = 512;
const exportedParts = 16;
const repeats = 10;

/** Best of ten for encoding and decoding; one pass over 16 parts for an export. */
export async function benchWrite(report: (figure: WriteFigure) => void): Promise<void> {
  const rows = makeShardRows(rowsPerPart);
  const provenance = makeProvenance();
  for (const embeddingType of ['float32', 'float16'] as const) {
    const encode = () => encodePart(rows, provenance, { dimension: 2048, topK: 5, embeddingType });
    const part = encode();
    const bytesPerRow = part.length / rowsPerPart;
    report({
      what: `encode ${embeddingType}`,
      rowsPerSecond: rowsPerPart / bestSeconds(encode),
      bytesPerRow,
    });
    report({
      what: `decode ${embeddingType}`,
      rowsPerSecond: rowsPerPart / bestSeconds(() => readPart(part, 'part')),
      bytesPerRow,
    });
    // What compressing the embeddings too would save; the part itself compresses only its text.
    for (const [name, compress] of Object.entries({ zstd: zstdCompressSync, gzip: gzipSync })) {
      const seconds = bestSeconds(() => compress(part), 1);
      report({
        what: `${name} over ${embeddingType}`,
        rowsPerSecond: rowsPerPart / seconds,
        bytesPerRow: compress(part).length / rowsPerPart,
      });
    }
  }
  for (const format of exportFormats) {
    const part = encodePart(rows, provenance, { dimension: 2048, topK: 5, embeddingType: 'float32' });
    const to = await mkdtemp(join(tmpdir(), 'lensmill-bench-'));
    try {
      const parts = Array.from({ length: exportedParts }, (_, shard) => ({
        key: `part-${shard}`,
        replaced: [],
        dropped: [],
      }));
      const started = performance.now();
      const manifest = await exportRun({
        run: 'bench',
        store: { read: async () => part },
        parts,
        to,
        format,
        rowsPerFile: 250_000,
      });
      const seconds = (performance.now() - started) / 1000;
      const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
      report({
        what: `export ${format}`,
        rowsPerSecond: manifest.rows / seconds,
        bytesPerRow: bytes / manifest.rows,
      });
    } finally {
      await rm(to, { recursive: true });
    }
  }
}

function bestSeconds(act: () => unknown, times = repeats): number {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < times; i++) {
    const started = performance.now();
    act();
    best = Math.min(best, performance.now() - started);
  }
  return best / 1000;
}

if (import.meta.main) {
  await benchWrite(({ what, rowsPerSecond, bytesPerRow }) => {
    console.log(
      `${what.padEnd(20)} ${rowsPerSecond.toFixed(0).padStart(8)} rows/s ${bytesPerRow.toFixed(0).padStart(8)} B/row`,
    );
  });
}
