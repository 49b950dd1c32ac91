/** `lensmill index`: plan, local worker, progress and finalize in one. */
import type { Command } from 'commander';
import type { Run } from '../run.ts';
import type { SettingName } from '../settings.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type Context, type ExitCode, exitCodes, interruptedCode } from './command.ts';
import { driveRun } from './drive.ts';
import { openOutput, planNewRun } from './prepare.ts';
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
export const placeSettings: readonly SettingName[] = ['cacheDir', 's3Endpoint', 's3Region'];

export function addIndexCommand(program: Command): void {
  addCommand(program, 'index', {
    summary: 'index a source: plan it, embed every image here, and finish the run',
    arguments: [['<source>', 'a folder or s3://bucket/prefix']],
    settings: [...planSettings, ...workSettings, ...queueSettings, ...placeSettings],
    options: [['--run <id>', 'name of the run (default: the time)']],
    examples: [
      'lensmill index ~/Pictures --output ./index',
      'lensmill index s3://photos/2024/ --output s3://indexes/photos --device cuda',
      "lensmill index ./archive --output ./index --model ./resnet152.safetensors --exclude 'thumbs/**'",
    ],
    async act(context, [source = ''], { run: id }) {
      const store = await openOutput(context.settings);
      try {
        const run = await planNewRun(context, store, source, id as string | undefined); // commander's own type
        return await finishRun(context, store, run);
      } finally {
        await store.close();
      }
    },
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
  const { json, text } = summarize(store, run, driven.success, driven);
  context.print(json, text);
  return codeOf(driven.success);
}
