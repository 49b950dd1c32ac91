/** What `index` and `enqueue` are alike: both plan a run of the sources that they are given, and go on with it. */
import { type NewRunOptions, planNewRun } from '../producer/plan-run.ts';
import type { Run } from '../runs/run.ts';
import type { SettingName, Settings } from '../settings/table.ts';
import type { Store } from '../stores/store.ts';
import type { CommandOptions, Context, ExitCode } from './command.ts';
import { keepHeapSmall } from './heap.ts';
import { placeSettings, planSettings, queueSettings, readSettings } from './option-groups.ts';
import { openOutput } from './output.ts';

interface NewRun {
  /** Settings of this command beside those that both have. */
  settings: readonly SettingName[];
  /** Throws ConfigError where the settings will not do, before anything is touched. */
  check(settings: Settings): void;
  goOn(context: Context, store: Store, run: Run): Promise<ExitCode>;
}

export function ofNewRun({
  settings,
  check,
  goOn,
}: NewRun): Pick<CommandOptions, 'arguments' | 'settings' | 'options' | 'act'> {
  return {
    arguments: [
      [
        '<source...>',
        'a folder, s3://bucket/prefix, a tar, zip or list (csv, jsonl, parquet) there or on the web',
      ],
    ],
    settings: [...planSettings, ...settings, ...readSettings, ...queueSettings, ...placeSettings],
    options: [
      ['--run <id>', 'name of the run (default: the time)'],
      [
        '--since <run>',
        'only what is new, changed or gone since that run; `latest`: the newest of this source and model',
      ],
      ['--build-index', 'bring the retrieval index up to date when the run is finished'],
    ],
    async act(context, sources, options) {
      check(context.settings);
      const store = await openOutput(context.settings);
      try {
        keepHeapSmall();
        const run = await planNewRun(context, store, sources, options as NewRunOptions); // commander's own types
        return await goOn(context, store, run);
      } finally {
        await store.close();
      }
    },
  };
}
