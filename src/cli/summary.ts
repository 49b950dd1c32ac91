/** What a finished run tells its user. */
import pc from 'picocolors';
import { type Run, type Success, sourceName } from '../runs/run.ts';
import type { Settings } from '../settings/table.ts';
import type { Store } from '../stores/store.ts';
import type { Measures } from '../telemetry/measures.ts';
import { reportThroughput } from '../telemetry/throughput.ts';
import { type ExitCode, exitCodes } from './command.ts';
import { formatSeconds } from './progress.ts';
import { throughputLines } from './speed.ts';

/** Where there is no room for the banner. */
export function untrainedLine({ ref, untrained }: Run['model']): string | undefined {
  return untrained ? `Untrained weights (${ref}): labels, scores and neighbours mean nothing.` : undefined;
}

/** Random weights make numbers that look like any others: nobody may miss that they mean nothing. */
export function untrainedBanner(run: Pick<Run, 'model'>): string {
  if (!run.model.untrained) return '';
  const lines = [`UNTRAINED WEIGHTS (${run.model.ref})`, 'Labels, scores and neighbours below mean nothing.'];
  const width = Math.max(...lines.map((line) => line.length)) + 4;
  const framed = ['━'.repeat(width), ...lines.map((line) => `  ${line}`.padEnd(width)), '━'.repeat(width)];
  return `${framed.map((line) => pc.bold(pc.yellow(line))).join('\n')}\n`;
}

/** `work`: by this command, where it did any. */
export function summarize(
  store: Store,
  run: Run,
  success: Success,
  work?: { elapsedMs: number; device: string; measures: Measures },
  { pricePerHour }: Partial<Pick<Settings, 'pricePerHour'>> = {},
): { json: object; text: string } {
  const { items, ok, failed, gone, reused, failures } = success;
  const { replaced, kept, since } = run;
  const seconds = work && work.elapsedMs / 1000;
  const throughput = work && reportThroughput(work.measures, { pricePerHour });
  const imagesPerSecond = throughput && seconds && throughput.images / seconds;
  const reasons = Object.entries(failures)
    .toSorted(([, a], [, b]) => b - a)
    .map(([code, count]) => `${count} ${code}`)
    .join(', ');
  const because = failed ? ` (${reasons})` : '';
  const number = (value: number): string => value.toLocaleString('en-US');
  const lines = [
    `run     ${run.run}`,
    ...(run.retryOf === null
      ? [`images  ${number(items - gone)}: ${number(ok)} embedded, ${number(failed)} failed${because}`]
      : [
          `retried ${number(items)} failed images of run ${run.retryOf}: ${number(ok)} mended, ${number(failed)} failed again${because}`,
        ]),
    ...(since === null
      ? []
      : [
          `since   ${since}: ${number(items - replaced)} new, ${number(replaced - gone)} changed, ${number(gone)} gone, ${number(kept)} as they were`,
        ]),
    ...(reused > 0 ? [`reused  ${number(reused)} whose bytes were known already`] : []),
    ...(seconds === undefined
      ? []
      : [
          `time    ${formatSeconds(seconds)}${imagesPerSecond ? `, ${imagesPerSecond.toFixed(1)} images/s` : ''}`,
        ]),
    ...(throughput ? throughputLines(throughput) : []),
    `model   ${run.model.ref} ${run.model.precision}${work ? ` on ${work.device}` : ''}, fingerprint ${run.model.fingerprint.slice(0, 12)}`,
    `output  ${store.uri}/runs/${run.run}`,
    ...(run.skipped > 0
      ? [`skipped ${number(run.skipped)} that are no files, or that no --include matches`]
      : []),
  ];
  return {
    json: {
      run: run.run,
      ...(run.retryOf !== null && { retryOf: run.retryOf, mended: ok }),
      output: store.uri,
      source: sourceName(run),
      model: run.model.ref,
      fingerprint: run.model.fingerprint,
      untrained: run.model.untrained,
      items,
      ok,
      failed,
      failures,
      reused,
      ...(since !== null && { since, new: items - replaced, changed: replaced - gone, gone, kept }),
      skipped: run.skipped,
      ...(work && { device: work.device, seconds }),
      ...(throughput && { imagesPerSecond, throughput }),
    },
    text: `${untrainedBanner(run)}${lines.join('\n')}`,
  };
}

export function codeOf(success: Success): ExitCode {
  return success.failed > 0 ? exitCodes.someFailed : exitCodes.done;
}
