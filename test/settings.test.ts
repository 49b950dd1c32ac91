import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { hideSecrets, readSettingsFile, resolveSettings, shownSetting } from '../src/settings/resolve.ts';
import { settingNames, settingsTable } from '../src/settings/table.ts';
import { tempFolder } from './helpers/temp.ts';

test('a flag goes before the environment, that before the file, that before the default', () => {
  const file = { topK: 3, shardSize: 100, batch: 16 };
  const env = { LENSMILL_TOP_K: '2', LENSMILL_SHARD_SIZE: '200' };
  const { values, origins } = resolveSettings({ topK: '1' }, env, file);
  expect([values.topK, values.shardSize, values.batch, values.lanes]).toEqual([1, 200, 16, 0]);
  expect([origins.topK, origins.shardSize, origins.batch, origins.lanes]).toEqual([
    'flag',
    'env',
    'file',
    'default',
  ]);
});

test('a variable with _FILE names a file that holds the value, and the two together are a mistake', () => {
  const path = join(tempFolder(), 'token');
  writeFileSync(path, 'a-token-of-my-own\n');
  const fromFile = { LENSMILL_TOKEN_FILE: path };
  const { values, origins } = resolveSettings({}, fromFile, { token: 'another-of-the-file' });
  expect([values.token, origins.token]).toEqual(['a-token-of-my-own', 'env-file']);
  expect(resolveSettings({ token: 'a-token-by-its-flag' }, fromFile, {}).origins.token).toBe('flag');
  expect(resolveSettings({}, { LENSMILL_TOKEN_FILE: '' }, {}).origins.token).toBe('default');
  // Of every setting, secret or not.
  writeFileSync(path, '12');
  expect(resolveSettings({}, { LENSMILL_BATCH_FILE: path }, {}).values.batch).toBe(12);

  const thrownBy = (env: NodeJS.ProcessEnv): unknown => {
    try {
      return resolveSettings({}, env, {});
    } catch (error) {
      return error;
    }
  };
  expect(thrownBy({ ...fromFile, LENSMILL_TOKEN: 'a-token-of-my-own' })).toMatchObject({ code: 'set-twice' });
  const missing = thrownBy({ REDIS_URL_FILE: `${path}-none` });
  expect(missing).toMatchObject({
    code: 'bad-secret-file',
    message: expect.stringMatching(/^REDIS_URL_FILE: .*token-none'.*ENOENT/),
  });
  writeFileSync(path, '\n');
  expect(thrownBy(fromFile)).toMatchObject({
    code: 'bad-secret-file',
    message: expect.stringContaining(path),
  });
  writeFileSync(path, 'too short\n');
  expect(thrownBy(fromFile)).toMatchObject({
    code: 'bad-setting',
    message: expect.stringMatching(/^LENSMILL_TOKEN_FILE: ((?!too short).)*$/),
  });
});

test('sizes and times are written with their units', () => {
  const { values } = resolveSettings({ maxBytes: '1.5MB', readTimeoutMs: '2m', graceMs: '500ms' }, {}, {});
  expect([values.maxBytes, values.readTimeoutMs, values.graceMs]).toEqual([1_500_000, 120_000, 500]);
});

test('a list from the environment has commas between its members, and a glob may have its own', () => {
  const env = { LENSMILL_EXCLUDE: '*.{tmp,bak}, thumbs/**,*.{a,b}' };
  expect(resolveSettings({}, env, {}).values.exclude).toEqual(['*.{tmp,bak}', 'thumbs/**', '*.{a,b}']);
});

test.each([
  [{ topK: '0' }, '--top-k'],
  [{ precision: 'fp8' }, '--precision'],
  [{ device: 'gpu' }, '--device'],
  [{ maxBytes: 'many' }, '--max-bytes'],
  [{ readTimeoutMs: '10' }, '--read-timeout'],
  [{ s3Endpoint: 'localhost' }, '--s3-endpoint'],
  // A host with its port reads as a URL whose scheme is the host.
  [{ s3Endpoint: 'localhost:9000' }, '--s3-endpoint'],
  // JavaScript takes what is blank, and YAML's null, for 0: any precision would be certified.
  [{ minCosine: '' }, '--min-cosine'],
  [{ metricsPort: null }, '--metrics-port'],
  [{ batch: ' ' }, '--batch'],
  [{ batch: true }, '--batch'],
  // A run that was claimed with these could not be read again.
  [{ maxBytes: '0' }, '--max-bytes'],
  [{ maxBytes: '.' }, '--max-bytes'],
  [{ maxBytes: '1e9GB' }, '--max-bytes'],
  [{ maxBytes: '9999999999GB' }, '--max-bytes'],
  [{ readTimeoutMs: '1.2.3s' }, '--read-timeout'],
  // A timer of Node that is set to more ends at once.
  [{ readTimeoutMs: '50000m' }, '--read-timeout'],
  [{ graceMs: 1e12 }, '--grace'],
])('a wrong value names its flag: %o', (flags, name) => {
  expect(() => resolveSettings(flags, {}, {})).toThrow(name);
});

test('every default fits its own setting, and no two settings share a flag or a variable', () => {
  expect(() => resolveSettings({}, {}, {})).not.toThrow();
  const all = settingNames.map((name) => settingsTable[name]);
  expect(new Set(all.map(({ flag }) => flag.split(' ')[0])).size).toBe(all.length);
  expect(new Set(all.flatMap(({ env }) => [env, `${env}_FILE`])).size).toBe(2 * all.length);
});

test('a settings file with an unknown name is refused: a typing mistake is no silent default', () => {
  const path = join(tempFolder(), 'lensmill.yaml');
  writeFileSync(path, 'topk: 3\n');
  expect(() => readSettingsFile(path, true)).toThrow("no setting 'topk'");
  writeFileSync(path, 'topK: 3\ninclude: ["**/*.jpg"]\n');
  expect(readSettingsFile(path, true)).toEqual({ topK: 3, include: ['**/*.jpg'] });
  writeFileSync(path, '- topK\n');
  expect(() => readSettingsFile(path, true)).toThrow('name: value');
});

test('passwords are not printed', () => {
  expect(hideSecrets('rediss://user:s3cret@host:6379/1')).toBe('rediss://user:***@host:6379/1');
  expect(hideSecrets('/tmp/redis.sock')).toBe('/tmp/redis.sock');
  expect(shownSetting('token', 'a-token-of-my-own')).toBe('***');
  expect(shownSetting('token', undefined)).toBeUndefined();
  expect(() => resolveSettings({}, { LENSMILL_TOKEN: 'too short' }, {})).toThrow(/^((?!too short).)*$/);
});
