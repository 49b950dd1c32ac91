/** `lensmill index`: plan, local worker, progress and finalize in one. */
import type { Command } from 'commander';
import { driveRun, requireDevice } from '../producer/drive.ts';
import type { Run } from '../runs/run.ts';
import { s3OptionsOf } from '../settings/options.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type Context, type ExitCode, exitCodes, interruptedCode } from './command.ts';
import { ofNewRun } from './new-run.ts';
import { workSettings } from './option-groups.ts';
import { withProgress } from './progress.ts';
import { codeOf, summarize } from './summary.ts';

export function addIndexCommand(program: Command): void {
  addCommand(program, 'index', {
    summary: 'index a source: plan it, embed every image here, and finish the run',
    ...ofNewRun({ settings: workSettings, check: requireDevice, goOn: finishRun }),
    examples: [
      'lensmill index ~/Pictures --output ./index',
      'lensmill index s3://photos/2024/ --output s3://indexes/photos --device cuda',
      'lensmill index shards/*.tar --output ./index',
      'lensmill index urls.csv --columns caption --output ./index',
      'lensmill index s3://photos/2024/ --since latest --output s3://indexes/photos',
      'lensmill index ~/Pictures --output ./index --precision int8   # on CPUs',
      "lensmill index ./archive --output ./index --model ./resnet152.safetensors --exclude 'thumbs/**'",
    ],
  });
}

/** Drives a planned run to its end and reports it. */
export async function finishRun(context: Context, store: Store, run: Run): Promise<ExitCode> {
  const driven = await driveRun(context, store, run);
  if (driven.how !== 'done') {
    const what = driven.how === 'cancelled' ? `run ${run.run} was cancelled` : 'stopped';
    process.stderr.write(`${what}; go on with: lensmill resume ${run.run} --output ${store.uri}\n`);
    return driven.how === 'cancelled' ? exitCodes.resumable : interruptedCode(context.interrupted);
  }
  const { json, text } = summarize(store, run, driven.success, driven, context.settings);
  context.print(json, text);
  await indexIfAsked(context, store, run);
  return codeOf(driven.success);
}

/** Builds the index that a finished run asked for. */
export async function indexIfAsked(context: Context, store: Store, run: Run): Promise<void> {
  if (!run.buildIndex) return;
  const { indexFinishedRun } = await import('../search/index-run.ts');
  const { log, settings, interrupted } = context;
  await withProgress(context, (update) =>
    indexFinishedRun(store, run, {
      s3: s3OptionsOf(settings),
      log,
      signal: interrupted,
      onProgress: ({ what, ...progress }) => update(what, progress),
    }),
  );
}
