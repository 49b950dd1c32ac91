/** What every command shares: settings from flags, environment and file; a log; results; exit codes. */
import { type Command, Option } from 'commander';
import { ConfigError, messageOf } from '../errors.ts';
import type { Caller } from '../producer/caller.ts';
import { explainRedisReply } from '../redis/errors.ts';
import { type ResolvedSettings, readSettingsFile, resolveSettings } from '../settings/resolve.ts';
import { type SettingName, type Settings, settingsTable } from '../settings/table.ts';
import { openLog } from '../telemetry/log.ts';
import { startTraces, stopTraces } from '../telemetry/traces.ts';
import { reportProgress } from './progress.ts';
import { openTerminal, type Terminal } from './terminal.ts';

export const exitCodes = {
  done: 0,
  failed: 1,
  /** Wrong usage or configuration: the operator must change something. */
  config: 2,
  /** Done, and some images are failed rows. */
  someFailed: 3,
  /** Stopped before the end; `lensmill resume` goes on. */
  resumable: 4,
  interrupted: 130,
} as const;
export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes];

/** As `--help` and docs/commands.md tell them. */
export const exitMeanings: Record<keyof typeof exitCodes, string> = {
  done: 'done',
  failed: 'failed',
  config: 'usage or configuration: the message says what to change',
  someFailed: 'done, and some images are failed rows, or could not be compared',
  resumable: 'stopped; `lensmill resume` goes on',
  interrupted: 'interrupted',
};

export interface Context extends Caller {
  settings: Settings;
  origins: ResolvedSettings['origins'];
  terminal: Terminal;
  /** Prints a result on stdout: `text` for people, or `result` as one line of JSON with --json. */
  print(result: unknown, text: string): void;
  /** Aborts at the first SIGINT or SIGTERM; `reason` is the signal's name. A command that does not use it just ends. */
  readonly interrupted: AbortSignal;
  /** Aborts at the second signal, for a command that can then stop at once in good order; else the second ends it. */
  readonly hurried: AbortSignal;
  readonly wasInterrupted: boolean;
}

const commonSettings: readonly SettingName[] = ['logLevel', 'json'];
const defaultFile = 'lensmill.yaml';

export interface CommandOptions {
  summary: string;
  /** `<source>`, `[run]`: as commander takes them. */
  arguments?: readonly [string, string][];
  settings: readonly SettingName[];
  /** Options of this command alone: [flag, help]. */
  options?: readonly [string, string][];
  examples: readonly string[];
  act(context: Context, args: readonly string[], options: Record<string, unknown>): Promise<ExitCode>;
}

const described = new WeakMap<Command, CommandOptions>();

/** What a command was added with: what is known of it beyond commander's own. */
export function describedOptions(command: Command): CommandOptions {
  const options = described.get(command);
  if (!options) throw new Error(`${command.name()} was not added by addCommand: this is a bug`);
  return options;
}

/** The settings that a command takes, those of every command last. */
export function settingsOf(command: Command): SettingName[] {
  return [...describedOptions(command).settings, ...commonSettings];
}

/** Adds a command to a program. What its action throws becomes one line on stderr and an exit code. */
export function addCommand(program: Command, name: string, options: CommandOptions): void {
  const command = program.command(name).summary(options.summary).description(options.summary);
  for (const [argument, help] of options.arguments ?? []) command.argument(argument, help);
  for (const [flag, help] of options.options ?? []) command.option(flag, help);
  described.set(command, options);
  const settingOptions = settingsOf(command).map((setting) => {
    const { flag, help, default: byDefault, env } = settingsTable[setting];
    const option = new Option(
      flag,
      `${help} (${byDefault && byDefault !== 'false' ? `default ${byDefault}, ` : ''}env ${env})`,
    );
    command.addOption(option);
    return { setting, attribute: option.attributeName() };
  });
  command.option('--config <file>', `settings file (default ./${defaultFile})`);
  command.addHelpText(
    'after',
    `\nExamples:\n${options.examples.map((example) => `  $ ${example}`).join('\n')}`,
  );
  command.action(async (...actionArguments: unknown[]) => {
    const flags = command.opts<Record<string, unknown>>();
    // As declared above; a variadic one is an array.
    const args = actionArguments.slice(0, command.registeredArguments.length).flat() as string[];
    let context: Context | undefined;
    try {
      const file = typeof flags.config === 'string' ? flags.config : undefined;
      const chosen = Object.fromEntries(
        settingOptions.map(({ setting, attribute }) => [setting, flags[attribute]]),
      );
      context = openContext(
        resolveSettings(chosen, process.env, readSettingsFile(file ?? defaultFile, file !== undefined)),
      );
      await startTraces(process.env, context.log);
      process.exitCode = await options.act(context, args, flags);
    } catch (error) {
      process.exitCode = reportError(error, context);
    } finally {
      await stopTraces();
    }
  });
}

function reportError(thrown: unknown, context: Context | undefined): ExitCode {
  const error = explainRedisReply(thrown, context?.settings.redis ?? 'its private socket');
  if (context?.wasInterrupted) {
    process.stderr.write('lensmill: interrupted\n');
    return interruptedCode(context.interrupted);
  }
  process.stderr.write(`lensmill: ${messageOf(error)}\n`);
  if (error instanceof ConfigError) return exitCodes.config;
  if (context?.settings.logLevel === 'debug' && error instanceof Error)
    process.stderr.write(`${error.stack}\n`);
  return exitCodes.failed;
}

function openContext({ values, origins }: ResolvedSettings): Context {
  const terminal = openTerminal(process.stderr);
  // On a terminal the live line tells the same, unless somebody asked for the log.
  if (terminal.isLive && origins.logLevel === 'default') values.logLevel = 'warn';
  let signals: Signals | undefined;
  const listen = (): Signals => {
    signals ??= listenForSignals();
    return signals;
  };
  const log = openLog(values.logLevel, terminal.writeLine);
  return {
    settings: values,
    origins,
    log,
    terminal,
    writeLine: terminal.writeLine,
    reportProgress: (what) => reportProgress(what, { terminal, log }),
    print: (result, text) => void process.stdout.write(`${values.json ? JSON.stringify(result) : text}\n`),
    get interrupted() {
      return listen().interrupted.signal;
    },
    get hurried() {
      listen().canHurry = true;
      return listen().hurried.signal;
    },
    get wasInterrupted() {
      return signals?.interrupted.signal.aborted ?? false;
    },
  };
}

interface Signals {
  interrupted: AbortController;
  hurried: AbortController;
  canHurry: boolean;
}

/** The first signal asks the command to stop, the second one to hurry, and the next one ends it. */
function listenForSignals(): Signals {
  const signals: Signals = {
    interrupted: new AbortController(),
    hurried: new AbortController(),
    canHurry: false,
  };
  const { interrupted, hurried } = signals;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (!interrupted.signal.aborted) interrupted.abort(signal);
    else if (signals.canHurry && !hurried.signal.aborted) hurried.abort(signal);
    else process.exit(exitCodes.interrupted);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  return signals;
}

/** The exit code of work that a signal ended. */
export function interruptedCode(signal: AbortSignal): ExitCode {
  return signal.reason === 'SIGINT' ? exitCodes.interrupted : exitCodes.resumable;
}
