/** What `lensmill probe` tells people. */
import type { HeadRecord } from '../models/head.ts';
import type { LabelCounts } from '../probe/examples.ts';
import type { TrainReport } from '../probe/train.ts';

interface HeadFile {
  file: string;
  bytes: number;
  sha256: string;
  record: HeadRecord;
}

export type Told = HeadFile & TrainReport & { labels: LabelCounts };

/** Classes up to which all are shown against all. */
const shownConfusion = 12;
const shownNames = 12;

export function trainedText(told: Told): string {
  const { record, labels, training, heldOut, l2, tried, temperature } = told;
  const { classes } = record;
  const { accuracy, baseline, calibration } = heldOut;
  const common = classes[baseline.label] ?? '';
  const choice = tried.length > 1 ? `, of ${tried.map((one) => one.l2).join(', ')}` : '';
  const { unknownNames: names } = labels;
  return [
    ...headLines(told),
    `labels       ${labels.labels}: ${labels.used} of rows with an embedding, ${labels.failed} of failed rows, ${labels.unknown} of no row`,
    ...(names.length > 0
      ? [`  no row     ${names.join(', ')}${labels.unknown > names.length ? ' …' : ''}`]
      : []),
    ...(labels.copies > 0
      ? [
          `  copies     ${labels.copies} have the bytes of another one${labels.contradictions > 0 ? `, and ${labels.contradictions} of these another label` : ''}`,
        ]
      : []),
    `fitted on    ${training.examples}, judged by the ${heldOut.examples} held out; l2 ${l2}${choice}; temperature ${temperature.toFixed(3)}`,
    '',
    `accuracy     ${percent(accuracy.share)}, 95 %: ${percent(accuracy.low)} to ${percent(accuracy.high)}; always '${common}': ${percent(baseline.share)}`,
    `calibration  error ${calibration.after.error.toFixed(3)} (${calibration.before.error.toFixed(3)} before the temperature), −log ${calibration.after.loss.toFixed(3)} (${calibration.before.loss.toFixed(3)})`,
    '',
    ...table([
      ['class', 'fitted on', 'held out', 'precision', 'recall'],
      ...heldOut.classes.map(({ examples, precision, recall }, label) => [
        classes[label] ?? '',
        `${training.classes[label]}`,
        `${examples}`,
        precision === null ? '–' : percent(precision),
        percent(recall),
      ]),
    ]),
    '',
    ...confusionLines(heldOut.confusion, classes),
    '',
    ...table([
      ['said with', 'images', 'were right'],
      ...calibration.after.bins.map(({ from, to, examples, accuracy: right }) => [
        `${Math.round(from * 100)} to ${Math.round(to * 100)} %`,
        `${examples}`,
        percent(right),
      ]),
    ]),
  ].join('\n');
}

/** Of a head alone. */
export function headLines({ file, bytes, sha256, record }: HeadFile): string[] {
  const { classes, model, training, run } = record;
  const shown = classes.slice(0, shownNames).join(', ');
  return [
    `head         ${file}, ${(bytes / 1e3).toFixed(1)} kB`,
    `classes      ${classes.length}: ${shown}${classes.length > shownNames ? ' …' : ''}`,
    `fits         embeddings of ${model.dimension} by ${model.ref}, fingerprint ${model.fingerprint.slice(0, 12)}${model.untrained ? '  (UNTRAINED: they know little of what is in a picture)' : ''}`,
    `made         by lensmill ${record.lensmill} of run ${run}: ${training.examples} examples, ${percent(training.accuracy.share)} of ${training.heldOut} others right`,
    `sha256       ${sha256}`,
  ];
}

/** All against all where there is room, else the mistakes made most often. */
function confusionLines(confusion: readonly number[][], classes: readonly string[]): string[] {
  if (classes.length <= shownConfusion) {
    return table([
      ['is \\ said', ...classes],
      ...confusion.map((counts, label) => [classes[label] ?? '', ...counts.map(String)]),
    ]);
  }
  const mistakes = confusion.flatMap((counts, is) =>
    counts.flatMap((count, said) => (said !== is && count > 0 ? [{ is, said, count }] : [])),
  );
  const most = mistakes.toSorted((a, b) => b.count - a.count).slice(0, shownConfusion);
  return table([
    ['is', 'said', 'images'],
    ...most.map(({ is, said, count }) => [classes[is] ?? '', classes[said] ?? '', `${count}`]),
  ]);
}

/** Columns of a width, text to the left and figures to the right. */
function table(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}
