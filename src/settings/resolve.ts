/**
 * What settings are worth. A value comes from the flag, else the environment (of REDIS_URL: that, or the file that REDIS_URL_FILE names), else
 * `lensmill.yaml`, else the default here.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { z } from 'zod';
import { ConfigError, messageOf } from '../errors.ts';
import { hidePasswords } from '../redis/address.ts';
import { type SettingName, type Settings, settingNames, settingsTable } from './table.ts';

/** From the strongest to the weakest. */
export const origins = ['flag', 'env', 'env-file', 'file', 'default'] as const;
export type Origin = (typeof origins)[number];
export interface ResolvedSettings {
  values: Settings;
  origins: Record<SettingName, Origin>;
}

/**
 * Throws ConfigError 'bad-setting' that names the value, where it came from and what is expected; 'set-twice' where a variable
 * and its _FILE are both set, and 'bad-secret-file' where that file is missing or empty.
 */
export function resolveSettings(
  flags: Partial<Record<SettingName, unknown>>,
  env: NodeJS.ProcessEnv,
  file: Readonly<Record<string, unknown>>,
): ResolvedSettings {
  const values: Partial<Record<SettingName, unknown>> = {};
  const origins: Partial<Record<SettingName, Origin>> = {};
  for (const name of settingNames) {
    const { env: variable, parse, default: byDefault, flag } = settingsTable[name];
    const [raw, origin]: [unknown, Origin] =
      flags[name] !== undefined
        ? [flags[name], 'flag']
        : env[variable] || env[`${variable}_FILE`]
          ? fromEnvironment(env, variable)
          : file[name] !== undefined
            ? [file[name], 'file']
            : [byDefault, 'default'];
    const parsed = parse.safeParse(raw);
    if (!parsed.success) {
      const where = {
        flag: flag.split(' ')[0],
        env: variable,
        'env-file': `${variable}_FILE`,
        file: `${name} in the settings file`,
        default: name,
      }[origin];
      throw new ConfigError(
        'bad-setting',
        `${where}: ${parsed.error.issues[0]?.message} (got ${JSON.stringify(shownSetting(name, raw))})`,
      );
    }
    values[name] = parsed.data;
    origins[name] = origin;
  }
  // Every name of the table was set above.
  return { values: values as Settings, origins: origins as Record<SettingName, Origin> };
}

/**
 * As Compose, Kubernetes and systemd hand secrets over: what stands in a file is not in `docker inspect`, in /proc/PID/environ, or
 * in what a process hands down to its children.
 */
function fromEnvironment(env: NodeJS.ProcessEnv, variable: string): [string, Origin] {
  const value = env[variable];
  const path = env[`${variable}_FILE`];
  if (!path) return [value ?? '', 'env'];
  if (value) throw new ConfigError('set-twice', `${variable} and ${variable}_FILE are both set; unset one`);
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigError(
      'bad-secret-file',
      `${variable}_FILE: '${path}' cannot be read (${messageOf(error)}); it names the file that holds ${variable}`,
    );
  }
  // An editor and `echo` end it with a newline.
  const text = content.replace(/[\r\n]+$/, '');
  if (text === '')
    throw new ConfigError(
      'bad-secret-file',
      `${variable}_FILE: '${path}' is empty; it should hold ${variable}`,
    );
  return [text, 'env-file'];
}

/** 60 ms that a process without a settings file does without, and every worker. */
function loadYaml(): typeof import('yaml') {
  return createRequire(import.meta.url)('yaml');
}

/** Reads `lensmill.yaml`; unknown names are an error, so that a typing mistake is not a silent default. */
export function readSettingsFile(path: string, required: boolean): Record<string, unknown> {
  if (!existsSync(path)) {
    if (required) throw new ConfigError('no-settings-file', `no settings file at ${path}`);
    return {};
  }
  let content: unknown;
  try {
    content = loadYaml().parse(readFileSync(path, 'utf8')) ?? {};
  } catch (error) {
    throw new ConfigError('bad-settings-file', `${path}: ${messageOf(error)}`);
  }
  const table = z.record(z.string(), z.unknown()).safeParse(content);
  if (!table.success)
    throw new ConfigError('bad-settings-file', `${path}: expected lines of the form "name: value"`);
  const unknown = Object.keys(table.data).find((name) => !(name in settingsTable));
  if (unknown !== undefined) {
    throw new ConfigError(
      'unknown-setting',
      `${path}: no setting '${unknown}'; there are ${settingNames.join(', ')}`,
    );
  }
  return table.data;
}

/** For printing. */
export function shownSetting(name: SettingName, value: unknown): unknown {
  const { secret } = settingsTable[name];
  if (secret === 'whole') return value === undefined ? value : '***';
  return secret === 'password' ? hideSecrets(value) : value;
}

/** For printing: passwords in URLs become `***`. */
export function hideSecrets(value: unknown): unknown {
  return typeof value === 'string' ? hidePasswords(value) : value;
}

/** A setting that a caller cannot do without. Throws ConfigError 'missing-setting'. */
export function required<Name extends SettingName>(
  settings: Settings,
  name: Name,
): NonNullable<Settings[Name]> {
  const value = settings[name];
  if (value !== undefined && value !== null) return value;
  const { flag, env } = settingsTable[name];
  throw new ConfigError(
    'missing-setting',
    `${flag.split(' ')[0]} is missing: ${settingsTable[name].help} (or set ${env})`,
  );
}
