/** `lensmill probe train | apply | info`. */
import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import { exportParts } from '../export.ts';
import { openMatrices } from '../infer.ts';
import { writeWhole } from '../models/files.ts';
import { encodeHead, type Head, type HeadRecord, throwIfOtherModel } from '../models/head.ts';
import { openObjects } from '../objects/open-objects.ts';
import { collectExamples } from '../probe/examples.ts';
import { readLabels } from '../probe/labels.ts';
import { predictionFormats, predictionWriter } from '../probe/predictions.ts';
import { openProducts } from '../probe/products.ts';
import { type Trained, trainProbe } from '../probe/train.ts';
import { readHead } from '../producer/head.ts';
import { readRequest } from '../runs/run.ts';
import { openTable, runOf, tableParts } from '../runs/table.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import { number, readOption, whole } from '../settings/values.ts';
import { sourceUri } from '../sources/open-source.ts';
import { version } from '../version.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { headLines, trainedText } from './probe-report.ts';
import { reportProgress } from './progress.ts';

export function addProbeCommands(program: Command): void {
  const probe = program
    .command('probe')
    .description('classifiers for classes of your own, fitted on the embeddings of an output');

  addCommand(probe, 'train', {
    summary: 'fit a linear classifier on the embeddings of labelled images, and say how good it is',
    arguments: [
      ['<output>', 'where the runs are'],
      ['<labels>', 'a list (csv, tsv, jsonl, parquet) with a column id or uri, and one label'],
    ],
    settings: ['threads', ...placeSettings],
    options: [
      ['--to <file>', 'where the head goes: a small .onnx'],
      ['--run <id>', 'which run; not needed where there is but one'],
      ['--id-column <name>', 'column that holds ids or URIs (default: id, uri, url, path or file)'],
      ['--label-column <name>', 'column that holds the classes (default label)'],
      ['--held-out <share>', 'part of each class that it is judged by (default 0.2)'],
      ['--l2 <x>', 'how much large weights cost; auto: what predicts best (default auto)'],
      ['--seed <n>', 'another choice of what is held out (default 0)'],
    ],
    examples: [
      'lensmill probe train ./index labels.csv --to head.onnx',
      'lensmill probe train s3://indexes/photos labels.parquet --label-column kind --to kinds.onnx --json',
    ],
    async act(context, [output = '', list = ''], options) {
      const { settings, interrupted } = context;
      const to = fileOption(options.to, 'head.onnx');
      const asked = trainOptions(options);
      const store = await openForReading({ ...settings, output });
      const objects = openObjects(sourceOptionsOf(settings));
      const progress = reportProgress('rows', context);
      const fits = reportProgress('fits', context);
      const products = await openProducts(settings.threads || availableParallelism());
      try {
        const run = await runOf(store, options.run);
        const table = await openTable(store, run);
        const { model } = await readRequest(store, run);
        const labels = await readLabels(sourceUri(list), objects, {
          idColumn: options.idColumn as string | undefined, // commander's own type, as the next
          labelColumn: (options.labelColumn as string | undefined) ?? 'label',
          signal: interrupted,
        });
        let read = 0;
        const { examples, pictures, counts } = await collectExamples(
          store,
          tableParts(store, table),
          labels,
          {
            dimension: model.dimension,
            fingerprint: model.fingerprint,
            signal: interrupted,
            onProgress: (rows) => {
              read += rows;
              progress.update({ done: read, total: table.rows });
            },
          },
        );
        progress.close();
        const { classes } = labels;
        const trained = await trainProbe(examples, pictures, {
          ...asked,
          products,
          classes,
          signal: interrupted,
          onProgress: (done) => fits.update(done),
        });
        fits.close();
        const head = headOf(trained, { classes, model, run, seed: asked.seed });
        const bytes = encodeHead(head);
        await writeWhole(to, [bytes]);
        const { record } = head;
        const sha256 = createHash('sha256').update(bytes).digest('hex');
        const { report } = trained;
        const told = { file: to, bytes: bytes.length, sha256, record, labels: counts, ...report };
        context.print(told, trainedText(told));
        return exitCodes.done;
      } finally {
        progress.close();
        fits.close();
        await Promise.all([products.close(), objects.close(), store.close()]);
      }
    },
  });

  addCommand(probe, 'apply', {
    summary: 'write what a head says of every image of an output; no image is read for it',
    arguments: [
      ['<output>', 'where the runs are'],
      ['<head>', 'an .onnx by `lensmill probe train`'],
    ],
    settings: ['topK', 'threads', ...placeSettings],
    options: [
      ['--to <folder>', 'new or empty folder'],
      ['--format <format>', `${predictionFormats.join(', ')} (default parquet)`],
      ['--run <id>', 'which run; not needed where there is but one'],
      ['--rows-per-file <n>', 'cut files between parts so that none has more rows (default 1000000)'],
    ],
    examples: [
      'lensmill probe apply ./index head.onnx --to ./predictions',
      'lensmill probe apply s3://indexes/photos kinds.onnx --to ./kinds --format csv',
    ],
    async act(context, [output = '', file = ''], options) {
      const { settings } = context;
      const to = fileOption(options.to, './predictions');
      const format = readOption('--format', options.format, formats) ?? 'parquet';
      const rowsPerFile = readOption('--rows-per-file', options.rowsPerFile, whole(1)) ?? 1_000_000;
      const { bytes, head } = await readHead(file);
      const store = await openForReading({ ...settings, output });
      const progress = reportProgress('rows', context);
      const matrices = await openMatrices(bytes, settings.threads || availableParallelism());
      try {
        const run = await runOf(store, options.run);
        const table = await openTable(store, run);
        throwIfOtherModel(head, (await readRequest(store, run)).model, { file, of: `run ${run}` });
        const { record } = head;
        const topK = Math.min(settings.topK, record.classes.length);
        const said = {
          format,
          head: { ...record, sha256: createHash('sha256').update(bytes).digest('hex') },
        };
        const manifest = await exportParts(
          {
            store,
            run,
            parts: tableParts(store, table),
            to,
            rowsPerFile,
            signal: context.interrupted,
            onProgress: ({ rows }) => progress.update({ done: rows, total: table.rows }),
          },
          predictionWriter(format, { matrices, record, topK }),
          said,
        );
        progress.close();
        const { rows, ok, failed, files } = manifest;
        context.print(
          manifest,
          [
            `${rows} rows (${ok} predicted, ${failed} failed) of run ${run} as ${format} in ${to}:`,
            ...files.map(({ name }) => `  ${name}`),
          ].join('\n'),
        );
        return exitCodes.done;
      } finally {
        progress.close();
        await Promise.all([matrices.release(), store.close()]);
      }
    },
  });

  addCommand(probe, 'info', {
    summary: 'describe a head: its classes, what it fits, how good it was',
    arguments: [['<head>', 'an .onnx by `lensmill probe train`']],
    settings: [],
    examples: ['lensmill probe info head.onnx', 'lensmill probe info head.onnx --json'],
    async act(context, [file = '']) {
      const { bytes, head } = await readHead(file);
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const { record } = head;
      context.print(
        { file, bytes: bytes.length, sha256, ...record },
        headLines({ file, bytes: bytes.length, sha256, record }).join('\n'),
      );
      return exitCodes.done;
    },
  });
}

function headOf(
  { weights, biases, report }: Trained,
  about: { classes: string[]; model: HeadRecord['model']; run: string; seed: number },
): Head {
  const { heldOut, training, l2, temperature } = report;
  const { ref, fingerprint, untrained, dimension } = about.model;
  const { share, low, high } = heldOut.accuracy;
  const record: HeadRecord = {
    v: 1,
    lensmill: version,
    classes: about.classes,
    model: { ref, fingerprint, untrained, dimension },
    run: about.run,
    training: {
      examples: training.examples,
      heldOut: heldOut.examples,
      seed: about.seed,
      l2,
      temperature,
      accuracy: { share, low, high },
      baseline: heldOut.baseline.share,
      calibrationError: heldOut.calibration.after.error,
    },
  };
  return { record, weights, biases };
}

function trainOptions(options: Record<string, unknown>): {
  heldOut: number;
  l2: number | 'auto';
  seed: number;
} {
  return {
    heldOut: readOption('--held-out', options.heldOut, share) ?? 0.2,
    l2: readOption('--l2', options.l2, penalty) ?? 'auto',
    seed: readOption('--seed', options.seed, whole(0)) ?? 0,
  };
}

const share = number(0, 1).refine((value) => value > 0 && value < 1, 'expected a share above 0 and below 1');
const penalty = z.union(
  [z.literal('auto'), number(0).refine((value) => value > 0)],
  'expected auto, or a number above 0',
);
const formats = z.enum(predictionFormats, `there are ${predictionFormats.join(', ')}`);

function fileOption(to: unknown, example: string): string {
  if (typeof to === 'string') return resolve(to);
  throw new ConfigError('missing-option', `say where it goes: --to ${example}`);
}
