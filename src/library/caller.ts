/** A program that calls the library, as the producer and the steps know whoever calls them. */
import { ConfigError } from '../errors.ts';
import type { Caller } from '../producer/caller.ts';
import { resolveSettings } from '../settings/resolve.ts';
import { type Settings, settingNames } from '../settings/table.ts';
import { openLog, silentLog } from '../telemetry/log.ts';
import type { Given, Logging, Watching } from './types.ts';

/** What calls take beside settings. */
const ownOptions: readonly string[] = [
  ...['run', 'since', 'buildIndex', 'fingerprint', 'rebuild'],
  ...['signal', 'onProgress', 'onLog'],
];

/** Options as given go before the environment, that before the defaults. Throws ConfigError 'unknown-setting', 'bad-setting'. */
export function settingsOf(options: object): Settings {
  const given = Object.entries(options).filter(
    ([name, value]) => value !== undefined && !ownOptions.includes(name),
  );
  const names: readonly string[] = settingNames;
  const unknown = given.find(([name]) => !names.includes(name));
  if (unknown)
    throw new ConfigError('unknown-setting', `no option '${unknown[0]}'; settings are ${names.join(', ')}`);
  return resolveSettings(Object.fromEntries(given), process.env, {}).values;
}

/** `options` as a call takes them: settings, and how to watch it. */
export function callerOf(options: Given<Watching & Logging>): Caller {
  const settings = settingsOf(options);
  const { signal = new AbortController().signal, onProgress, onLog } = options;
  const writeLine = (line: string): void => onLog?.(line.trimEnd());
  return {
    settings,
    log: onLog ? openLog(settings.logLevel, writeLine) : silentLog,
    writeLine,
    reportProgress: (what) => ({
      update({ done, total, failed }) {
        onProgress?.({
          what,
          done,
          ...(total !== undefined && { total }),
          ...(failed !== undefined && { failed }),
        });
      },
      close: () => undefined,
    }),
    interrupted: signal,
    // Who aborts wants it in good order; what hurries is the end of the process.
    hurried: new AbortController().signal,
  };
}
