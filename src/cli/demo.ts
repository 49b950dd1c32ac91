/** `npm run demo`: real photographs in, labels and neighbours out, on a machine that had nothing. */
import { createHash } from 'node:crypto';
import { basename, join } from 'node:path';
import type { Command } from 'commander';
import pc from 'picocolors';
import { ConfigError } from '../errors.ts';
import { labelsOf } from '../models/labels.ts';
import { presets } from '../models/presets.ts';
import { readPart } from '../parts/part.ts';
import { loadModel } from '../producer/choose-model.ts';
import { driveRun } from '../producer/drive.ts';
import { completePlan, planNewRun } from '../producer/plan-run.ts';
import { findRequest, findSuccess, type Run, type Success, sourceName } from '../runs/run.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import { openSource, sourceUri } from '../sources/open-source.ts';
import type { Store } from '../stores/store.ts';
import { dot, toUnit } from '../vectors.ts';
import { verifyRun } from '../verify.ts';
import { addCommand, type Context, interruptedCode } from './command.ts';
import { keepHeapSmall } from './heap.ts';
import { placeSettings, planSettings, queueSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { codeOf, summarize, untrainedBanner } from './summary.ts';

const neighbours = 3;
const topLabels = 3;
/** Rows printed; the rest are in the parts. */
const shownRows = 40;
/** Rows among which neighbours are sought, all against all. */
const comparedRows = 5_000;

export function addDemoCommand(program: Command): void {
  addCommand(program, 'demo', {
    summary: 'index some photographs and show what was found (`npm run demo`)',
    arguments: [
      ['[folder]', 'your own pictures; without it, the photographs that deploy/bootstrap.sh unpacks'],
    ],
    settings: [...planSettings, ...workSettings, ...queueSettings, ...placeSettings],
    examples: ['npm run demo', 'npm run demo -- ~/Pictures'],
    async act(context, [folder]) {
      const { settings } = context;
      settings.output ??= 'demo-output';
      settings.model ??= await chooseModel(context);
      const store = await openOutput(settings);
      try {
        const run = await planOnce(context, store, folder ?? join(settings.cacheDir, 'photographs'));
        const earlier = await findSuccess(store, run.run);
        const driven = earlier ? undefined : await driveRun(context, store, run);
        if (driven && driven.how !== 'done') return interruptedCode(context.interrupted);
        const success = earlier ?? driven?.success;
        if (!success) throw new Error('a run is done or was done: this is a bug');
        const { problems } = await verifyRun(store, run, success);
        if (problems.length > 0) throw new Error(`verify: ${problems.join('; ')}`);
        const { json, text } = summarize(store, run, success, driven, settings);
        context.print(
          { ...json, verified: true },
          [
            await showResults(store, run, success),
            text.slice(untrainedBanner(run).length),
            'verify  every image is exactly one row, every part is undamaged',
            '',
            nextSteps(settings.output, run),
          ].join('\n'),
        );
        return codeOf(success);
      } finally {
        await store.close();
      }
    },
  });
}

/** The default preset where it can be had; else random weights, loudly. */
async function chooseModel(context: Context): Promise<string> {
  try {
    await loadModel(context, { retries: 1, precision: 'fp32' }); // in int8 it could not be loaded before it is calibrated
    return presets[0].name;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    context.log.warn(
      { error: error.message },
      'the pretrained weights cannot be had; the demo goes on with random ones',
    );
    return 'random:0';
  }
}

/** The same pictures and settings are the same run: a second demo has nothing left to do. */
async function planOnce(context: Context, store: Store, folder: string): Promise<Run> {
  const { settings } = context;
  const source = openSource(
    {
      uris: [sourceUri(folder)],
      include: null,
      exclude: [],
      archives: false,
      list: { uri: null, id: null, keep: [] },
    },
    sourceOptionsOf(settings),
  );
  const hash = createHash('sha256').update(
    JSON.stringify([settings.model, settings.precision, settings.resize, settings.topK]),
  );
  try {
    await source.probe();
    for await (const { items } of source.list())
      for (const { uri, etag } of items) hash.update(`${uri} ${etag}\n`);
  } finally {
    await source.close();
  }
  keepHeapSmall();
  const id = `demo-${hash.digest('hex').slice(0, 8)}`;
  const request = await findRequest(store, id);
  return request ? completePlan(context, store, request) : planNewRun(context, store, [folder], { run: id });
}

/** A table: per image its best labels and the images that look most like it. */
async function showResults(store: Store, run: Run, success: Success): Promise<string> {
  const rows: { name: string; labels: Int32Array; scores: Float32Array; unit: Float32Array }[] = [];
  const failed: string[] = [];
  for (const { key } of success.parts) {
    if (rows.length >= comparedRows) break;
    const bytes = await store.read(key);
    if (!bytes) throw new Error(`${key} is missing`);
    const part = readPart(bytes, key);
    const { topK, model } = part.footer;
    for (const [row, id] of part.ids.entries()) {
      if (part.statuses[row] === 'failed') {
        failed.push(`${id}: ${part.errors[row]}, ${part.messages[row]}`);
        continue;
      }
      const unit = part.embeddings.slice(row * model.dimension, (row + 1) * model.dimension);
      toUnit(unit);
      rows.push({
        name: basename(id),
        labels: part.labels.subarray(row * topK, (row + 1) * topK),
        scores: part.scores.subarray(row * topK, (row + 1) * topK),
        unit,
      });
    }
  }
  const names = labelsOf(run.model.classes);
  const shown = rows.slice(0, shownRows);
  const nameWidth = Math.min(30, Math.max(5, ...shown.map(({ name }) => name.length)));
  const lines = shown.map(({ name, labels, scores, unit }) => {
    const best = Array.from(
      labels.subarray(0, topLabels),
      (label, at) => `${names[label]} ${(scores[at] ?? 0).toFixed(2)}`,
    );
    const near = rows
      .filter((other) => other.unit !== unit)
      .map((other) => ({ name: other.name, cosine: dot(unit, other.unit) }))
      .toSorted((a, b) => b.cosine - a.cosine)
      .slice(0, neighbours)
      .map((other) => `${other.name} ${other.cosine.toFixed(2)}`);
    return `${pc.bold(name.slice(0, nameWidth).padEnd(nameWidth))}  ${best.join(', ')}\n${' '.repeat(nameWidth)}  ${pc.dim(`like ${near.join(', ') || 'nothing else here'}`)}`;
  });
  return [
    untrainedBanner(run) + lines.join('\n'),
    ...(rows.length > shown.length ? [`… and ${success.ok - shown.length} more`] : []),
    ...failed.slice(0, shownRows).map((line) => pc.red(line)),
    '',
  ].join('\n');
}

function nextSteps(output: string, run: Run): string {
  return [
    'Next:',
    ...(run.model.untrained
      ? [
          '  npm run demo                                          # again, with a network: pretrained weights',
        ]
      : []),
    `  npm run -s lensmill -- build-index ${output}        # then look at it in a browser, and search it:`,
    `  npm run -s lensmill -- serve ${output}`,
    '  npm run -s lensmill -- index FOLDER --output ./index --build-index    # your own pictures',
    `  npm run -s lensmill -- export ${output} --run ${run.run} --to ./rows --format jsonl`,
    `  npm run -s lensmill -- verify ${run.run} --output ${output}`,
    `The pictures are in ${sourceName(run)}`,
  ].join('\n');
}
