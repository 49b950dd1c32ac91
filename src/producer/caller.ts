/** Whoever has runs planned and done: a command, or a program that uses the library. */

import type { Settings } from '../settings/table.ts';
import type { Logger } from '../telemetry/log.ts';

export interface Caller {
  readonly settings: Settings;
  readonly log: Logger;
  /** A line that a worker process has logged: JSON, or what else it said. */
  writeLine(line: string): void;
  /** For one stretch of work; `what` is what is counted: 'images', 'parts', 'bytes'. To be closed. */
  reportProgress(what: string): ProgressReporter;
  /** Asks to stop in good order: what is done stays, and the run can be resumed. */
  readonly interrupted: AbortSignal;
  /** Asks to stop at once, after that. */
  readonly hurried: AbortSignal;
}

export interface Progress {
  done: number;
  /** Absent where nobody knows yet. */
  total?: number;
  failed?: number;
  /** Where it is known better than by what is done since the start of this call. */
  perSecond?: number;
  /** What limits the speed. */
  limit?: string | undefined;
}

export interface ProgressReporter {
  update(progress: Progress): void;
  close(): void;
}
