/** Logging: JSON lines, a line a shard, never a line an image. The CLI makes them readable on a terminal. */
import { pino } from 'pino';

export type Logger = pino.Logger;
export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** `fields`: of every line. */
export function openLog(
  level: LogLevel,
  write: (line: string) => void,
  fields: Readonly<Record<string, unknown>> = {},
): Logger {
  const formatters = { level: (label: string) => ({ level: label }) };
  return pino({ level, base: fields, timestamp: pino.stdTimeFunctions.isoTime, formatters }, { write });
}

export const silentLog: Logger = pino({ level: 'silent' });
