/** `lensmill export`: a finished run as files that other tools read. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import { exportFormats, exportRun } from '../export.ts';
import { labelsOf } from '../models/labels.ts';
import { readRequest } from '../runs/run.ts';
import { openTable, runOf, tableParts } from '../runs/table.ts';
import { readOption, whole } from '../settings/values.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { reportProgress } from './progress.ts';

export function addExportCommand(program: Command): void {
  addCommand(program, 'export', {
    summary:
      "write a finished run's rows, with those of its retries, as npy (clip-retrieval, autofaiss), jsonl or one parquet dataset",
    arguments: [['[output]', 'where the runs are (or --output)']],
    settings: ['output', ...placeSettings],
    options: [
      ['--to <folder>', 'new or empty folder'],
      ['--format <format>', `${exportFormats.join(', ')} (default parquet)`],
      ['--run <id>', 'which run; not needed where there is but one'],
      ['--rows-per-file <n>', 'cut files between parts so that none has more rows (default 1000000)'],
    ],
    examples: [
      'lensmill export ./index --to ./npy --format npy',
      'lensmill export s3://indexes/photos --run 20261124-091233-3fa2 --to ./rows --format jsonl',
    ],
    async act(context, [output], options) {
      const to = options.to;
      if (typeof to !== 'string')
        throw new ConfigError('missing-option', '--to is missing: a new or empty folder');
      const format = readOption('--format', options.format, formats) ?? 'parquet';
      const rowsPerFile = readOption('--rows-per-file', options.rowsPerFile, whole(1)) ?? 1_000_000;
      const store = await openForReading({ ...context.settings, output: output ?? context.settings.output });
      const progress = reportProgress('rows', context);
      try {
        const id = await runOf(store, options.run);
        const table = await openTable(store, id);
        const { classes } = (await readRequest(store, id)).model;
        const manifest = await exportRun({
          store,
          run: id,
          parts: tableParts(store, table),
          to: resolve(to),
          format,
          rowsPerFile,
          labelNames: labelsOf(classes),
          signal: context.interrupted,
          onProgress: ({ rows }) => progress.update({ done: rows, total: table.rows }),
        });
        progress.close();
        const { rows, ok, failed, files } = manifest;
        const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
        context.print(
          manifest,
          [
            `${rows} rows (${ok} ok, ${failed} failed) of run ${manifest.run} as ${format} in ${resolve(to)}, ${(bytes / 1e6).toFixed(1)} MB:`,
            ...files.map((file) => `  ${file.name}`),
            ...table.views
              .flatMap(({ unfinished }) => unfinished)
              .map((retry) => `without ${retry}, which is not finished`),
          ].join('\n'),
        );
        return exitCodes.done;
      } finally {
        progress.close();
        await store.close();
      }
    },
  });
}

const formats = z.enum(exportFormats, `there are ${exportFormats.join(', ')}`);
