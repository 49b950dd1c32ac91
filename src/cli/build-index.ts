/** `lensmill build-index`: the retrieval index of an output, brought up to date, and how much of the truth it finds. */
import type { Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { type RunRequest, readRequest } from '../runs/run.ts';
import { type Build, buildIndex } from '../search/build.ts';
import { spoiling } from '../search/index-run.ts';
import { openIndex } from '../search/open-index.ts';
import { type Check, checkIndex, promisedRecall } from '../search/recall.ts';
import { finishedRuns } from '../search/record.ts';
import type { IndexRecord } from '../search/search-index.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { readOption, whole } from '../settings/values.ts';
import type { Store } from '../stores/store.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { placeSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { formatSeconds, withProgress } from './progress.ts';

export function addBuildIndexCommand(program: Command): void {
  addCommand(program, 'build-index', {
    summary: 'bring the retrieval index of an output up to date with its finished runs, one for each model',
    arguments: [['[output]', 'where the runs are (or --output)']],
    settings: ['output', ...placeSettings],
    options: [
      ['--run <id>', 'only the index that holds the rows of this run'],
      ['--fingerprint <start>', 'only the index of the model whose fingerprint starts like this'],
      ['--rebuild', 'from the parts of all runs, whatever index there is'],
      [
        '--check [n]',
        `then search for n of its images (default 200) with the index and by comparing all; exits with 1 where recall@10 is below ${promisedRecall}`,
      ],
    ],
    examples: [
      'lensmill build-index ./index',
      'lensmill build-index s3://indexes/photos --check',
      'lensmill build-index ./index --run 20261124-091233-3fa2 --rebuild',
    ],
    async act(context, [output], options) {
      const queries = options.check === true ? 200 : (readOption('--check', options.check, whole(1)) ?? 0);
      const settings = { ...context.settings, output: output ?? context.settings.output };
      const s3 = s3OptionsOf(settings);
      const store = await openOutput(settings);
      try {
        if (!store.conditional) context.log.warn({ output: store.uri }, spoiling);
        const found: Found[] = [];
        for (const fingerprint of await chooseModels(store, options)) {
          const startedAt = performance.now();
          const rebuild = options.rebuild === true;
          const build = await withProgress(context, (update) =>
            buildIndex(store, {
              fingerprint,
              s3,
              rebuild,
              signal: context.interrupted,
              onUntidied: (notice) => context.log.warn({ notice }, 'index not tidied'),
              onProgress: ({ what, ...progress }) => update(what, progress),
            }),
          );
          const seconds = (performance.now() - startedAt) / 1000;
          const check = queries > 0 ? await checkBuilt(context, store, fingerprint, queries) : undefined;
          found.push({ ...build, seconds, check });
        }
        context.print({ indexes: found.map(resultOf) }, found.flatMap(linesOf).join('\n'));
        return found.every(({ check }) => !check || check.recallAt10 >= promisedRecall)
          ? exitCodes.done
          : exitCodes.failed;
      } finally {
        await store.close();
      }
    },
  });

  async function checkBuilt(
    context: Context,
    store: Store,
    fingerprint: string,
    queries: number,
  ): Promise<Check> {
    const index = await openIndex(store, { s3: s3OptionsOf(context.settings), fingerprint });
    try {
      return await withProgress(context, (update) =>
        checkIndex(index, {
          queries,
          signal: context.interrupted,
          onProgress: (done, total) => update('searches', { done, total }),
        }),
      );
    } finally {
      await index.close();
    }
  }
}

interface Found extends Build {
  seconds: number;
  check: Check | undefined;
}

/** Fingerprints of the finished runs that are meant. Throws ConfigError 'no-run'. */
async function chooseModels(store: Store, { run, fingerprint }: Record<string, unknown>): Promise<string[]> {
  if (typeof run === 'string' && fingerprint !== undefined)
    throw new ConfigError('bad-option', 'give --run or --fingerprint, not both');
  const start = typeof run === 'string' ? (await readRequest(store, run)).model.fingerprint : fingerprint;
  const isMeant = ({ model }: RunRequest): boolean =>
    typeof start !== 'string' || model.fingerprint.startsWith(start);
  const chosen = new Set((await finishedRuns(store)).filter(isMeant).map(({ model }) => model.fingerprint));
  if (chosen.size > 0) return [...chosen];
  const of = start === undefined ? '' : ` of the model ${start}`;
  throw new ConfigError(
    'no-run',
    `no finished run${of} in ${store.uri}: \`lensmill status --output ${store.uri}\` lists its runs`,
  );
}

function resultOf({ record, changed, how, seconds, check }: Found): unknown {
  return { ...record, changed, how, seconds: Number(seconds.toFixed(1)), ...(check && { check }) };
}

function linesOf({ record, how, seconds, check }: Found): string[] {
  const { model, images, runs, leftOut } = record;
  const untrained = model.untrained ? ', random weights' : '';
  const name = `${model.fingerprint.slice(0, 8)} (${model.ref}, ${model.precision}${untrained})`;
  const amount = `${images.toLocaleString('en-US')} images of ${runs.length} ${runs.length === 1 ? 'run' : 'runs'}`;
  const done = how === 'unchanged' ? 'up to date' : `${how} in ${formatSeconds(seconds)}`;
  const without = Object.entries(leftOut).filter(([, rows]) => rows > 0);
  return [
    `index ${name}: ${amount}, ${done}`,
    `  ${kindText(record)}`,
    ...without.map(
      ([run, rows]) => `  without ${rows} images of run ${run}: their embeddings are zero or not finite`,
    ),
    ...(check ? [checkText(check)] : []),
  ];
}

function kindText({ kind, parameters }: IndexRecord): string {
  const { partitions, bits, nprobes, refineFactor = 1, recall = 0, trainedFor } = parameters;
  if (kind === 'exact') {
    return trainedFor === undefined
      ? 'exact: so few that every search compares all of them'
      : 'exact: every search compares all of them, for no index finds what is close among these embeddings';
  }
  return `${kind}: codes of ${bits} bit in ${partitions} partitions, ${nprobes} looked into, ${refineFactor * 10} images compared for ten hits; recall@10 ${recall.toFixed(4)} when it was built`;
}

function checkText({ queries, recallAt1, recallAt10, ...ms }: Check): string {
  const index = `${ms.p50Ms.toFixed(1)} ms (p99 ${ms.p99Ms.toFixed(1)})`;
  const exact = `${ms.exactP50Ms.toFixed(1)} ms (p99 ${ms.exactP99Ms.toFixed(1)})`;
  const verdict =
    recallAt10 >= promisedRecall ? '' : `; BELOW ${promisedRecall}: \`--rebuild\` trains it anew`;
  return `  ${queries} of its images searched for: recall@10 ${recallAt10.toFixed(4)}, recall@1 ${recallAt1.toFixed(4)}; a search takes ${index}, comparing all ${exact}${verdict}`;
}
