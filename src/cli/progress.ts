/** Progress of long work: a live line on a terminal, elsewhere a log line every ten seconds. */

import type { ProgressReporter } from '../producer/caller.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Terminal } from './terminal.ts';

const logEveryMs = 10_000;

/** As `Caller.reportProgress`. */
export function reportProgress(
  what: string,
  { terminal, log }: { terminal: Terminal; log: Logger },
): ProgressReporter {
  const started = performance.now();
  let atStart: number | undefined;
  let lastLog = started;
  return {
    update({ done, total, failed, limit, ...given }) {
      atStart ??= done;
      const now = performance.now();
      const perSecond = given.perSecond ?? ((done - atStart) * 1_000) / Math.max(1, now - started);
      const eta = perSecond > 0 && total !== undefined ? (total - done) / perSecond : undefined;
      if (terminal.isLive) {
        const parts = [
          total === undefined
            ? `${amount(done, what)} ${what}`
            : `${bar(total > 0 ? done / total : 0)} ${amount(done, what)}/${amount(total, what)} ${what}`,
          `${amount(perSecond, what)}/s`,
          ...(failed ? [`${failed} failed`] : []),
          ...(eta === undefined ? [] : [`${formatSeconds(eta)} left`]),
          ...(limit === undefined ? [] : [`limited by ${limit}`]),
        ];
        terminal.show(parts.join('  '));
      } else if (now - lastLog >= logEveryMs) {
        lastLog = now;
        const etaSeconds = eta === undefined ? undefined : Math.round(eta);
        log.info(
          { what, done, total, failed, perSecond: Number(perSecond.toFixed(1)), etaSeconds, limit },
          'progress',
        );
      }
    },
    close: () => terminal.show(undefined),
  };
}

/** Progress of work in which what is counted changes on the way. */
export async function withProgress<T>(
  context: { terminal: Terminal; log: Logger },
  act: (update: (what: string, progress: { done: number; total: number }) => void) => Promise<T>,
): Promise<T> {
  let shown: { what: string; reporter: ProgressReporter } | undefined;
  try {
    return await act((what, progress) => {
      if (shown?.what !== what) {
        shown?.reporter.close();
        shown = { what, reporter: reportProgress(what, context) };
      }
      shown.reporter.update(progress);
    });
  } finally {
    shown?.reporter.close();
  }
}

/** '42 s', '3 min 05 s', '2 h 10 min'. */
export function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  const pad = (value: number): string => String(value).padStart(2, '0');
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`;
}

function amount(value: number, what: string): string {
  if (what === 'bytes') return `${(value / 1e6).toFixed(1)} MB`;
  return value < 100 && !Number.isInteger(value)
    ? value.toFixed(1)
    : Math.round(value).toLocaleString('en-US');
}

function bar(share: number): string {
  const width = 20;
  const full = Math.min(width, Math.round(share * width));
  return `${'█'.repeat(full)}${'░'.repeat(width - full)}`;
}
