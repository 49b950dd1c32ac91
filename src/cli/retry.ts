/** `lensmill retry`: does a run's failed images again, as a run of its own whose rows replace the failed ones. */
import type { Command } from 'commander';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError } from '../errors.ts';
import { retryId, retryNumber } from '../layout.ts';
import { completePlan } from '../producer/plan-run.ts';
import { failedItems } from '../retry.ts';
import { claimRun, type RunRequest, readRequest } from '../runs/run.ts';
import { openView, type View } from '../runs/view.ts';
import { atStep } from '../steps.ts';
import type { Store } from '../stores/store.ts';
import { version } from '../version.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { keepHeapSmall } from './heap.ts';
import { finishRun } from './index.ts';
import { placeSettings, queueSettings, readSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';

export function addRetryCommand(program: Command): void {
  addCommand(program, 'retry', {
    summary:
      "do a finished run's failed images again, as they are now; their new rows replace the failed ones",
    arguments: [['<run>', 'id of the run']],
    settings: ['output', ...workSettings, ...readSettings, ...queueSettings, ...placeSettings],
    options: [
      ['--failed', 'the failed images: the only ones that can be done again'],
      ['--code <codes...>', 'only those that failed by one of these: timeout, read-failed …'],
    ],
    examples: [
      'lensmill retry 20261124-091233-3fa2 --failed --output ./index',
      'lensmill retry 20261124-091233-3fa2 --failed --code timeout read-failed --output s3://indexes/photos',
    ],
    async act(context, [id = ''], { failed, code }) {
      const codes = code as string[] | undefined; // commander's own type
      if (failed !== true) {
        throw new ConfigError(
          'missing-option',
          `--failed is missing: \`lensmill retry ${id} --failed\` does the failed images again; for a whole run again there is \`lensmill index\``,
        );
      }
      const store = await openOutput(context.settings);
      try {
        const request = await claimRetry(context, store, id, codes);
        keepHeapSmall();
        if (request) return await finishRun(context, store, await completePlan(context, store, request));
        const what = `no image of run ${id} fails${codes ? ` by ${codes.join(' or ')}` : ''}`;
        context.print({ run: id, retry: null, items: 0 }, `${what}: nothing is left to do`);
        return exitCodes.done;
      } finally {
        await store.close();
      }
    },
  });
}

/**
 * Claims the next retry of a run; `undefined` where no image is left to do again. Throws ConfigError: 'no-run',
 * 'not-finished', 'retry-of-retry', 'retry-unfinished', 'unknown-code', and those of the device.
 */
async function claimRetry(
  context: Context,
  store: Store,
  id: string,
  codes: string[] | undefined,
): Promise<RunRequest | undefined> {
  const base = await readRequest(store, id);
  if (base.retryOf !== null) {
    throw new ConfigError(
      'retry-of-retry',
      `${id} is itself a retry: \`lensmill retry ${base.retryOf} --failed\` does what still fails`,
    );
  }
  resolveDevice(context.settings.device);
  const view = await openView(store, id);
  // Each retry does what the one before left: were two under way, both would do the same images.
  const [unfinished] = view.unfinished;
  if (unfinished) throw retryUnfinished(store, unfinished);
  throwIfUnknown(codes, view);

  const last = view.retries.at(-1);
  const request: RunRequest = {
    ...base,
    run: retryId(id, last ? (retryNumber(id, last.run.run) ?? 0) + 1 : 1),
    lensmill: version,
    retryOf: id,
    since: null,
    ...(codes && { retryCodes: codes }),
    createdAt: new Date().toISOString(),
  };
  if (view.failed === 0 || !(await hasItems(store, view, codes))) return undefined;
  await claimRun(store, request).catch((error) => {
    const isTaken = error instanceof ConfigError && error.code === 'run-exists';
    throw isTaken ? retryUnfinished(store, request.run) : error;
  });
  atStep('run claimed', request.run);
  context.log.info({ run: request.run, of: id, output: store.uri, codes }, 'run start');
  return request;
}

function retryUnfinished(store: Store, retry: string): ConfigError {
  return new ConfigError(
    'retry-unfinished',
    `${retry} is not finished: \`lensmill resume ${retry} --output ${store.uri}\` first, or give it up by deleting ${store.uri}/runs/${retry}`,
  );
}

function throwIfUnknown(codes: readonly string[] | undefined, { run, success, retries }: View): void {
  const known = new Set(
    [success, ...retries.map((retry) => retry.success)].flatMap(({ failures }) => Object.keys(failures)),
  );
  const unknown = codes?.find((code) => !known.has(code));
  if (unknown === undefined) return;
  throw new ConfigError(
    'unknown-code',
    `no image of run ${run.run} failed by '${unknown}'; ${known.size > 0 ? `there are ${[...known].sort().join(', ')}` : 'none failed'}`,
  );
}

async function hasItems(store: Store, view: View, codes: readonly string[] | undefined): Promise<boolean> {
  for await (const _ of failedItems(store, view, {}, codes).list()) return true;
  return false;
}
