/** `lensmill index`: plan, local worker, progress and finalize in one. */
import type { Command } from 'commander';
import type { Run } from '../run.ts';
import type { SettingName } from '../settings.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type Context, type ExitCode, exitCodes, interruptedCode } from './command.ts';
import { driveRun } from './drive.ts';
import { type NewRunOptions, openOutput, planNewRun } from './prepare.ts';
import { codeOf, summarize } from './summary.ts';

/** What decides a run's rows. */
export const planSettings: readonly SettingName[] = [
  'output',
  'model',
  'precision',
  'resize',
  'topK',
  'embedding',
  'include',
  'exclude',
  'archives',
  'uriColumn',
  'idColumn',
  'columns',
  'reuse',
  'shardSize',
  'maxPixels',
  'maxBytes',
];
/** What decides how fast they are made. */
export const workSettings: readonly SettingName[] = [
  'device',
  'batch',
  'threads',
  'sessions',
  'lanes',
  'reads',
  'readTimeoutMs',
  'graceMs',
];
export const queueSettings: readonly SettingName[] = ['redis', 'queue', 'highWater', 'attempts'];
/** What the process that reads images may do. */
export const readSettings: readonly SettingName[] = [
  'allowFiles',
  'allowHosts',
  'webPerHost',
  'webPerSecond',
];
export const placeSettings: readonly SettingName[] = ['cacheDir', 's3Endpoint', 's3Region'];

export function addIndexCommand(program: Command): void {
  addCommand(program, 'index', {
    summary: 'index a source: plan it, embed every image here, and finish the run',
    arguments: sourceArguments,
    settings: [...planSettings, ...workSettings, ...readSettings, ...queueSettings, ...placeSettings],
    options: runOptions,
    examples: [
      'lensmill index ~/Pictures --output ./index',
      'lensmill index s3://photos/2024/ --output s3://indexes/photos --device cuda',
      'lensmill index shards/*.tar --output ./index',
      'lensmill index urls.csv --columns caption --output ./index',
      'lensmill index s3://photos/2024/ --since latest --output s3://indexes/photos',
      "lensmill index ./archive --output ./index --model ./resnet152.safetensors --exclude 'thumbs/**'",
    ],
    async act(context, sources, options) {
      const store = await openOutput(context.settings);
      try {
        const run = await planNewRun(context, store, sources, options as NewRunOptions); // commander's own types
        return await finishRun(context, store, run);
      } finally {
        await store.close();
      }
    },
  });
}

export const sourceArguments: readonly [string, string][] = [
  [
    '<source...>',
    'a folder, s3://bucket/prefix, a tar, zip or list (csv, jsonl, parquet) there or on the web',
  ],
];
export const runOptions: readonly [string, string][] = [
  ['--run <id>', 'name of the run (default: the time)'],
  [
    '--since <run>',
    'only what is new, changed or gone since that run; `latest`: the newest of this source and model',
  ],
];

/** Drives a planned run to its end and reports it. */
export async function finishRun(context: Context, store: Store, run: Run): Promise<ExitCode> {
  const driven = await driveRun(context, store, run);
  if (driven.how !== 'done') {
    const what = driven.how === 'cancelled' ? `run ${run.run} was cancelled` : 'stopped';
    process.stderr.write(`${what}; go on with: lensmill resume ${run.run} --output ${store.uri}\n`);
    return driven.how === 'cancelled' ? exitCodes.resumable : interruptedCode(context.interrupted);
  }
  const { json, text } = summarize(store, run, driven.success, driven);
  context.print(json, text);
  return codeOf(driven.success);
}
