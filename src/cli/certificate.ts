/** What a certificate tells its user. */
import { type Certificate, isPassed } from '../certificate.ts';
import type { Share } from '../certify.ts';
import { labelsOf } from '../models/labels.ts';
import { untrainedBanner } from './summary.ts';

/** Failed images that are named; a certificate has them all. */
const shownFailures = 5;

/** In one line, without its model. */
export function certificateLine(made: Certificate): string {
  const { createdAt, candidate, agreement } = made;
  const { images, cosine, top1, recall } = agreement;
  const figures = `median cosine ${cosine.median.toFixed(4)}, top-1 ${percent(top1.share)}, recall@${recall.k} ${percent(recall.share)}`;
  const verdict = isPassed(made) ? 'passed' : 'NOT passed';
  return `${verdict} on ${createdAt.slice(0, 10)}: ${figures} of ${images} images, on ${candidate.device}`;
}

/** All of it; `stored` is where it stands. */
export function certificateText(made: Certificate, stored?: string): string {
  const { candidate, reference, shortfalls, worst, sample } = made;
  const { model, run, device, embedding } = candidate;
  const names = labelsOf(model.classes);
  const nameOf = (label: number): string => names[label] ?? String(label);
  const lines = [
    `${untrainedBanner({ model })}${model.precision} against fp32: ${isPassed(made) ? 'PASSED' : 'NOT PASSED'}`,
    ...shortfalls.map((shortfall) => `  ${shortfall}`),
    `model       ${model.ref}, fingerprint ${model.fingerprint.slice(0, 12)}`,
    `rows        ${run === null ? 'made' : `of run ${run}, made`} on ${device}${embedding === 'float16' ? ', stored as float16' : ''}; fp32 on ${reference.device}`,
    `images      ${imagesLine(made)}`,
    '',
    ...figureLines(made),
    '',
    ...speedLines(made),
    ...listed(
      'worst',
      worst.map(({ id, cosine, label, referenceLabel }) => {
        const labels = `${nameOf(label)}, by fp32 ${nameOf(referenceLabel)}`;
        return `${cosine.toFixed(5)}  ${id}${label === referenceLabel ? '' : `  ${labels}`}`;
      }),
    ),
    ...listed(
      'failed',
      sample.unusable.slice(0, shownFailures).map(({ id, why }) => `${id}: ${why}`),
    ),
    ...(stored ? [`stored      ${stored}`] : []),
  ];
  return lines.join('\n');
}

function imagesLine({ agreement, sample }: Certificate): string {
  const { source, heldOut, drawn, twice, unusable } = sample;
  const left = [
    ...(heldOut ? [`none of the ${heldOut} for calibration`] : []),
    ...(unusable.length > 0 ? [`${unusable.length} failed`] : []),
    ...(twice > 0 ? [`${twice} there twice`] : []),
  ];
  return `${agreement.images} of ${source}${left.length > 0 ? ` (${drawn} drawn: ${left.join(', ')})` : ''}`;
}

function figureLines({ agreement, thresholds }: Certificate): string[] {
  const { cosine, top1, labels, nearest, recall } = agreement;
  const rows: [figure: string, found: string, interval: string, wanted: string][] = [
    ['', 'found', '95 %', 'wanted'],
    ['cosine, median', cosine.median.toFixed(5), '', String(thresholds.cosine)],
    ['  mean', cosine.mean.toFixed(5), '', ''],
    ['  1 % are below', cosine.p1.toFixed(5), '', ''],
    ['  least', cosine.least.toFixed(5), '', ''],
    ['  of two different images', cosine.apart.toFixed(5), '', ''],
    ['same label', percent(top1.share), interval(top1), percent(thresholds.top1)],
    [`same ${labels.k} labels, in any order`, percent(labels.overlap), '', ''],
    ['same nearest image', percent(nearest.share), interval(nearest), ''],
    [`same ${recall.k} nearest (recall)`, percent(recall.share), '', percent(thresholds.recall)],
  ];
  return rows.map(([figure, found, interval, wanted]) =>
    `${figure.padEnd(28)}${found.padStart(9)}  ${interval.padStart(16)}  ${wanted.padStart(8)}`.trimEnd(),
  );
}

function speedLines({ imagesPerSecond }: Certificate): string[] {
  if (!imagesPerSecond) return [];
  const { candidate, reference } = imagesPerSecond;
  const times = (candidate / reference).toFixed(2);
  return [
    `speed       ${times} times that of fp32 (${candidate} and ${reference} images/s, the models alone)`,
  ];
}

function listed(name: string, lines: readonly string[]): string[] {
  return lines.map((line, at) => `${(at === 0 ? name : '').padEnd(12)}${line}`);
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

function interval({ low, high }: Share): string {
  return `${(low * 100).toFixed(1)} to ${percent(high)}`;
}
