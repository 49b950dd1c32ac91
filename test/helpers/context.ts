/** What a command gets, for tests that call what it calls. */
import type { Context } from '../../src/cli/command.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import type { SettingName } from '../../src/settings/table.ts';
import { openLog } from '../../src/telemetry/log.ts';

/** Settings as typed; `lines` gets what is logged. */
export function contextOf(flags: Partial<Record<SettingName, unknown>>, lines: string[] = []): Context {
  const { values, origins } = resolveSettings(flags, {}, {});
  const { signal } = new AbortController();
  return {
    settings: values,
    origins,
    log: openLog('info', (line) => void lines.push(line)),
    writeLine: (line) => void lines.push(line),
    reportProgress: () => ({ update: () => undefined, close: () => undefined }),
    terminal: { isLive: false, writeLine: () => undefined, show: () => undefined },
    print: () => undefined,
    interrupted: signal,
    hurried: signal,
    wasInterrupted: false,
  };
}
