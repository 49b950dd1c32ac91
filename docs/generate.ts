/**
 * Writes docs/commands.md from the commands and settings themselves: `npm run docs`. test/commands-page.test.ts holds the page to what
 * this would write.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { describedOptions, exitCodes, exitMeanings, settingsOf } from '../src/cli/command.ts';
import { addCommands } from '../src/cli/commands.ts';
import { type SettingName, settingNames, settingsTable } from '../src/settings/table.ts';

export const commandsPage = join(import.meta.dirname, 'commands.md');

/** The page. */
export async function writeReference(): Promise<string> {
  const program = new Command('lensmill');
  await addCommands(program);
  const commands = program.commands.flatMap((one) => (one.commands.length > 0 ? one.commands : [one]));
  return [
    '# Commands and settings',
    '<!-- Written by `npm run docs` from src/cli and src/settings: change those. -->',
    `${commands.map((command) => `[${nameOf(command)}](#${anchorOf(nameOf(command))})`).join(' · ')}\n· [settings](#settings) · [exit codes](#exit-codes)`,
    'From a clone, `npm run -s lensmill -- …`; installed, `lensmill …`. `lensmill COMMAND --help` says the same.',
    ...commands.flatMap(sectionOf),
    ...settingsSection(),
    ...exitCodeSection(),
    '',
  ]
    .join('\n\n')
    .trimEnd()
    .concat('\n');
}

function sectionOf(command: Command): string[] {
  const { summary, arguments: args = [], options = [], examples } = describedOptions(command);
  const settings = settingsOf(command).map((name) => `[\`${flagOf(name)}\`](#${anchorOf(name)})`);
  return [
    `## lensmill ${nameOf(command)}`,
    `${sentence(summary)}.`,
    block('', [`lensmill ${nameOf(command)} ${command.usage()}`]),
    ...(args.length === 0
      ? []
      : [
          table(
            ['argument', ''],
            args.map(([name, help]) => [code(name), help]),
          ),
        ]),
    ...(options.length === 0
      ? []
      : [
          table(
            ['option', ''],
            options.map(([flag, help]) => [code(flag), help]),
          ),
        ]),
    `Settings: ${settings.join(', ')}; \`--config <file>\` names another file than \`lensmill.yaml\`.`,
    block(
      'console',
      examples.map((example) => `$ ${example}`),
    ),
  ];
}

function settingsSection(): string[] {
  const rows = settingNames.map((name) => {
    const { flag, env, help } = settingsTable[name];
    return [`<a id="${anchorOf(name)}"></a>${code(flag)}`, code(env), code(name), defaultOf(name), help];
  });
  return [
    '## Settings',
    [
      'A flag goes before the environment, that before `lensmill.yaml` (`topK: 5`), that before the default. Each variable may have',
      '`_FILE` at its end and then names a file that holds the value, as secrets are handed over:',
      '`REDIS_URL_FILE=/run/secrets/redis-url`. `lensmill doctor` prints all settings and where each came from.',
    ].join('\n'),
    table(['flag', 'environment', 'file', 'default', ''], rows),
  ];
}

function exitCodeSection(): string[] {
  const rows = Object.entries(exitCodes).map(([how, exitCode]) => [
    String(exitCode),
    exitMeanings[how as keyof typeof exitCodes], // its own keys
  ]);
  return ['## Exit codes', table(['code', 'means'], rows)];
}

/** Other machines have other home folders. */
function defaultOf(name: SettingName): string {
  return name === 'cacheDir' ? '~/.cache/lensmill' : (settingsTable[name].default ?? '');
}

function nameOf(command: Command): string {
  return command.parent?.parent ? `${nameOf(command.parent)} ${command.name()}` : command.name();
}

const flagOf = (name: SettingName): string => settingsTable[name].flag.split(' ')[0] ?? '';
/** As GitHub makes them of headings; a setting's is its name in the file. */
const anchorOf = (name: string): string =>
  settingNames.includes(name as SettingName) ? name : `lensmill-${name.replaceAll(' ', '-')}`;
const code = (text: string): string => `\`${text}\``;
const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

function block(language: string, lines: readonly string[]): string {
  return [`\`\`\`${language}`, ...lines, '```'].join('\n');
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(heads), `|${'---|'.repeat(heads.length)}`, ...rows.map(line)].join('\n');
}

if (import.meta.main) await writeFile(commandsPage, await writeReference());
