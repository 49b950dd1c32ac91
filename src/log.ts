/** Logging: JSON lines, a line a shard, never a line an image. The CLI makes them readable on a terminal. */
import { pino } from 'pino';

export type Logger = pino.Logger;
export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

export function openLog(level: LogLevel, write: (line: string) => void): Logger {
  const formatters = { level: (label: string) => ({ level: label }) };
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters }, { write });
}

export const silentLog: Logger = pino({ level: 'silent' });
