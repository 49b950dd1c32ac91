/** `lensmill duplicates`: images of an output that look alike, and which of them is best kept. */
import type { Command } from 'commander';
import { labelsOf } from '../models/labels.ts';
import { type DuplicateImage, type Duplicates, findDuplicates } from '../search/duplicates.ts';
import { openIndex } from '../search/open-index.ts';
import { type SearchIndex, usualThreshold } from '../search/search-index.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { readOption, whole } from '../settings/values.ts';
import type { Store } from '../stores/store.ts';
import { hitReply } from '../web/replies.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { filterOf, filterOptions, indexOptions } from './filters.ts';
import { placeSettings, readSettings } from './option-groups.ts';
import { openForReading } from './output.ts';
import { reportProgress } from './progress.ts';
import { cosine, fingerprintOf, indexFacts, warnOfUnindexed } from './search.ts';
import { cardOf, writeSheet } from './sheet.ts';
import { untrainedBanner, untrainedLine } from './summary.ts';
import { columnsOf } from './text-table.ts';

const usualGroups = 100;

export function addDuplicatesCommand(program: Command): void {
  addCommand(program, 'duplicates', {
    summary: 'find groups of images that look alike, and the one of each that is best kept',
    arguments: [['<output>', 'where the index is: a folder or s3://bucket/prefix']],
    settings: ['readTimeoutMs', ...readSettings, ...placeSettings],
    options: [
      ['--threshold <cosine>', `how near an image is to the one that is kept (default ${usualThreshold})`],
      ...filterOptions,
      ['--limit <n>', `groups that are told, largest first (default ${usualGroups})`],
      ...indexOptions,
      ['--html <file>', 'a contact sheet of the groups: one file that holds its pictures'],
    ],
    examples: [
      'lensmill duplicates ./index',
      'lensmill duplicates s3://indexes/photos --threshold 0.99 --min-side 800 --html duplicates.html',
      "lensmill duplicates ./index --json | jq -r '.groups[].images[1:][].id'",
    ],
    async act(context, [output = ''], options) {
      const { settings, log, interrupted: signal } = context;
      const threshold = readOption('--threshold', options.threshold, cosine) ?? usualThreshold;
      const limit = readOption('--limit', options.limit, whole(1)) ?? usualGroups;
      const store = await openForReading({ ...settings, output });
      let index: SearchIndex | undefined;
      try {
        index = await openIndex(store, { s3: s3OptionsOf(settings), ...fingerprintOf(options) });
        const filter = filterOf(options, index.record, (notice) => log.warn(notice));
        const progress = reportProgress('images', context);
        const onProgress = progress.update;
        const found = await findDuplicates(index, { threshold, filter, limit, signal, onProgress }).finally(
          () => progress.close(),
        );
        await warnOfUnindexed(context, store, index);
        const html =
          typeof options.html === 'string'
            ? await writeGroups(context, store, options.html, { found, index })
            : undefined;
        const json = { index: indexFacts(index), filter, ...jsonOf(found, index), ...(html && { html }) };
        context.print(json, textOf(found, index, html));
        return exitCodes.done;
      } finally {
        await index?.close();
        await store.close();
      }
    },
  });
}

function jsonOf({ groups, ...rest }: Duplicates, index: SearchIndex): object {
  const names = labelsOf(index.record.model.classes);
  return {
    ...rest,
    groups: groups.map(({ images }) => ({
      keeper: images[0]?.key,
      images: images.map((image) => ({ ...hitReply(image, names), isCopy: image.isCopy })),
    })),
  };
}

function summaryOf({ images, found, surplus, threshold, groups }: Duplicates): string[] {
  const number = (value: number): string => value.toLocaleString('en-US');
  const told = groups.length < found ? `, the ${number(groups.length)} largest below` : '';
  return [
    `${number(found)} ${found === 1 ? 'group' : 'groups'} among ${number(images)} images${told}`,
    `${number(surplus.images)} images beside those kept, ${(surplus.bytes / 1e6).toFixed(1)} MB`,
    `cosine to the one kept at least ${threshold}`,
  ];
}

function textOf(found: Duplicates, index: SearchIndex, html: string | undefined): string {
  const { model } = index.record;
  const rows = found.groups.flatMap(({ images }, at) => [
    ...(at === 0 ? [] : [[]]),
    ...images.map((image, place) => [
      place === 0 ? String(at + 1) : '',
      verdictOf(image, place),
      image.id,
      image.run,
      `${image.width}×${image.height}`,
      `${Math.ceil(image.bytes / 1000).toLocaleString('en-US')} KB`,
    ]),
  ]);
  const lines = [
    ...summaryOf(found),
    ...(rows.length === 0
      ? []
      : ['', ...columnsOf(['group', 'cosine', 'id', 'run', 'size', 'file'], rows, { flexible: 2 })]),
    ...(html ? ['', `sheet  ${html}`] : []),
  ];
  return `${untrainedBanner({ model })}${lines.join('\n')}`;
}

function verdictOf({ score, isCopy }: DuplicateImage, place: number): string {
  if (place === 0) return 'keep';
  return isCopy ? 'same' : score.toFixed(4);
}

function writeGroups(
  context: Context,
  store: Store,
  file: string,
  { found, index }: { found: Duplicates; index: SearchIndex },
): Promise<string> {
  const { model } = index.record;
  const names = labelsOf(model.classes);
  return writeSheet(context, store, file, {
    title: `Images that look alike`,
    facts: [...summaryOf(found), store.uri, `${model.ref}, ${model.precision}`],
    warning: untrainedLine(model),
    sections: found.groups.map(({ images }, at) => ({
      heading: `${at + 1}. ${images.length} images`,
      subjects: images.map((image, place) => ({
        ...cardOf(image, names),
        ...(place === 0 ? { badge: { text: 'keep', kind: 'good' } as const } : { score: image.score }),
        ...(image.isCopy && { badge: { text: 'same bytes', kind: 'plain' } as const }),
      })),
    })),
  });
}
