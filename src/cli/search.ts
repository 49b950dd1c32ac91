/** `lensmill search`: images of an output that look like one, or like several together. */
import { basename } from 'node:path';
import type { Command } from 'commander';
import { type Embedder, openEmbedder } from '../../workers/embedder.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { labelsOf } from '../models/labels.ts';
import { readRun } from '../runs/run.ts';
import { openIndex } from '../search/open-index.ts';
import { embedQueries, type ResolvedQuery } from '../search/queries.ts';
import { unindexedRuns } from '../search/record.ts';
import type { Hit, SearchIndex } from '../search/search-index.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { number, readOption, whole } from '../settings/values.ts';
import type { Store } from '../stores/store.ts';
import { hitReply, namedLabels } from '../web/replies.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { filterOf, filterOptions, indexOptions } from './filters.ts';
import { placeSettings, readSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { findQuery } from './queries.ts';
import { cardOf, writeSheet } from './sheet.ts';
import { untrainedBanner, untrainedLine } from './summary.ts';
import { columnsOf } from './text-table.ts';

const usualHits = 20;

export function addSearchCommand(program: Command): void {
  addCommand(program, 'search', {
    summary: 'find the images of an output that look like a picture, or like several together',
    arguments: [
      ['<output>', 'where the index is: a folder or s3://bucket/prefix'],
      [
        '<query...>',
        'a file, a URL, s3://…, or an indexed image by id, uri or key; file:… and id:… say which',
      ],
    ],
    settings: ['device', 'threads', 'decoder', 'readTimeoutMs', ...readSettings, ...placeSettings],
    options: [
      ['-k <n>', `hits (default ${usualHits}, at most 1000)`],
      ...filterOptions,
      ['--min-score <cosine>', 'only hits that are as near, -1 to 1'],
      ['--exact', 'compare with every image, whatever index there is'],
      ...indexOptions,
      ['--html <file>', 'a contact sheet of the hits: one file that holds its pictures'],
    ],
    examples: [
      'lensmill search ./index holiday.jpg',
      "lensmill search s3://indexes/photos 'part-0/00012.jpg' 'part-0/00044.jpg' -k 50 --html cranes.html",
      'lensmill search ./index https://example.org/cat.jpg --label tabby --min-side 800 --json',
    ],
    async act(context, [output = '', ...words], options) {
      const { settings, log, interrupted: signal } = context;
      const k = readOption('-k', options.k, whole(1, 1000)) ?? usualHits;
      const minScore = readOption('--min-score', options.minScore, cosine);
      const store = await openForReading({ ...settings, output });
      let index: SearchIndex | undefined;
      try {
        const s3 = s3OptionsOf(settings);
        index = await openIndex(store, { s3, ...fingerprintOf(options) });
        const { record } = index;
        const filter = filterOf(options, record, (notice) => log.warn(notice));
        const queries = [];
        for (const word of words) queries.push(await findQuery(index, word));
        const found = await embedQueries(index, queries, embedOnce(context, store, index), signal);
        const request = {
          vectors: found.map(({ vector }) => vector),
          k,
          filter,
          without: found.flatMap(({ image }) => image?.key ?? []),
          exact: options.exact === true,
          signal,
        };
        const nearest = await index.search(minScore === undefined ? request : { ...request, minScore });
        await warnOfUnindexed(context, store, index);
        const result = { found, nearest, index };
        const html =
          typeof options.html === 'string'
            ? await writeHits(context, store, options.html, result)
            : undefined;
        const json = { ...jsonOf(result), k, filter, ...(minScore !== undefined && { minScore }) };
        context.print({ ...json, ...(html && { html }) }, textOf(result, html));
        return exitCodes.done;
      } finally {
        await index?.close();
        await store.close();
      }
    },
  });
}

export const cosine = number(-1, 1);

export function fingerprintOf({ fingerprint }: Record<string, unknown>): { fingerprint?: string } {
  return typeof fingerprint === 'string' ? { fingerprint } : {};
}

/** By the model that made the index: any of its runs tells where its weights are. */
function embedOnce({ settings, log }: Context, store: Store, { record }: SearchIndex): Embedder['embed'] {
  return async (pictures, options) => {
    const run = record.runs.at(-1);
    if (run === undefined) throw new Error('an index without runs: this is a bug');
    const { device, reason } = resolveDevice(settings.device);
    if (reason) log.info({ device: device.name, reason }, 'device chosen');
    const onNotice = (notice: string): void => log.warn(notice);
    const embedder = await openEmbedder(store, await readRun(store, run), { device, settings, onNotice });
    try {
      return await embedder.embed(pictures, options);
    } finally {
      await embedder.close();
    }
  };
}

/** Finished runs that nobody finds anything of. */
export async function warnOfUnindexed({ log }: Context, store: Store, index: SearchIndex): Promise<void> {
  const runs = await unindexedRuns(store, index.record);
  if (runs.length > 0)
    log.warn({ runs }, `not in the index yet: \`lensmill build-index ${store.uri}\` puts them in`);
}

interface Found {
  found: readonly ResolvedQuery[];
  nearest: readonly Hit[];
  index: SearchIndex;
}

/** What of an index a result is of. */
export function indexFacts({ record }: SearchIndex): object {
  const { model, images, builtAt } = record;
  const { ref, fingerprint, untrained } = model;
  return { model: ref, fingerprint, untrained, images, builtAt };
}

/** As the API shows images. */
function jsonOf({ found, nearest, index }: Found): object {
  const names = labelsOf(index.record.model.classes);
  return {
    query: found.map((query) => ({
      name: query.name,
      key: query.image?.key ?? null,
      labels: namedLabels(query, names),
    })),
    index: indexFacts(index),
    hits: nearest.map((hit) => hitReply(hit, names)),
  };
}

function textOf({ found, nearest, index }: Found, html: string | undefined): string {
  const { model, images } = index.record;
  const names = labelsOf(model.classes);
  const rows = nearest.map((hit, at) => [
    String(at + 1),
    hit.score.toFixed(4),
    names[hit.labels[0] ?? -1] ?? '',
    hit.id,
    hit.run,
    `${hit.width}×${hit.height}`,
  ]);
  const lines = [
    ...found.map((query) => `query  ${query.name}: ${labelLine(query, names)}`),
    `found  ${nearest.length} of ${images.toLocaleString('en-US')} images`,
    ...(nearest.length === 0
      ? []
      : ['', ...columnsOf(['rank', 'score', 'label', 'id', 'run', 'size'], rows, { flexible: 3 })]),
    ...(html ? ['', `sheet  ${html}`] : []),
  ];
  return `${untrainedBanner({ model })}${lines.join('\n')}`;
}

const labelsShown = 3;

function labelLine(image: { labels: number[]; scores: number[] }, names: readonly string[]): string {
  return namedLabels(image, names)
    .slice(0, labelsShown)
    .map(({ name, score }) => `${name} ${score.toFixed(2)}`)
    .join(', ');
}

function writeHits(
  context: Context,
  store: Store,
  file: string,
  { found, nearest, index }: Found,
): Promise<string> {
  const { model, images, builtAt } = index.record;
  const names = labelsOf(model.classes);
  return writeSheet(context, store, file, {
    title: `Images like ${found.map(({ name }) => basename(name)).join(', ')}`,
    facts: [
      `${nearest.length} of ${images.toLocaleString('en-US')} images`,
      store.uri,
      `${model.ref}, ${model.precision}`,
      `index of ${builtAt.slice(0, 16).replace('T', ' ')} UTC`,
    ],
    warning: untrainedLine(model),
    sections: [
      {
        heading: 'Searched by',
        subjects: found.map(({ name, image, content, ...query }) => {
          const card = { label: labelLine(query, names), details: [] };
          return image
            ? { ...cardOf(image, names), ...card }
            : { name, ...card, ...(content && { content }) };
        }),
      },
      {
        heading: 'Found',
        subjects: nearest.map((hit, at) => ({
          ...cardOf(hit, names),
          mark: String(at + 1),
          score: hit.score,
        })),
      },
    ],
  });
}
