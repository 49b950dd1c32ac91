/** docs/deploy.md says what docker-compose.yml and the program do. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseEnv } from 'node:util';
import { expect, test } from 'vitest';
import { resolveSettings } from '../src/settings/resolve.ts';
import { root } from './helpers/compose.ts';
import { makeSecrets } from './helpers/made-secrets.ts';
import { parseCommand } from './helpers/pods.ts';

const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const page = read('docs/deploy.md').replaceAll(/ \\\n\s*/g, ' ');
const typed = [...page.matchAll(/^\$ (.*?)(?: +#.*)?$/gm)].map(([, line = '']) => line);
const lines = [
  ...typed,
  ...[...page.matchAll(/`(docker compose run [^`]*)`/g)].map(([, line = '']) => line.replaceAll('\n', ' ')),
];

test('types commands that lensmill has', async () => {
  const commands = lines.flatMap((line) => {
    const [, service = '', args = ''] =
      /^docker compose (?:run|exec) (?:--\S+ (?:"\S+ )?)*(\w+) (.*)$/.exec(line) ?? [];
    const [, own = ''] = /^docker run .* lensmill:cuda (.*)$/.exec(line) ?? [];
    if (service !== '') return `${service === 'index' ? 'enqueue ' : ''}${args.replace(/^lensmill /, '')}`;
    return own === '' ? [] : own;
  });
  expect(commands.length).toBeGreaterThan(7);
  for (const command of commands)
    await expect(parseCommand(command.split(' ')), command).resolves.toBeDefined();
});

test('starts a worker elsewhere as Compose does here, with files that the script makes', async () => {
  const [start = ''] = lines.filter((line) => line.startsWith('docker run --detach'));
  for (const hardening of [
    '--init',
    '--read-only',
    '--tmpfs /tmp',
    '--cap-drop ALL',
    '--security-opt no-new-privileges',
  ])
    expect(start).toContain(hardening);
  const grace = resolveSettings({}, {}, {}).values.graceMs;
  expect(Number(/--stop-timeout (\d+)/.exec(start)?.[1]) * 1_000).toBeGreaterThan(grace + 10_000);
  const { folder, make } = await makeSecrets('10.0.0.1');
  expect(page).toContain(await make());
  const made = (name: string): string => join(folder, 'secrets/worker', name);
  const [, variables = ''] = /--env-file (\S+)/.exec(start) ?? [];
  const named = Object.values(parseEnv(readFileSync(made(variables), 'utf8'))).filter((value) =>
    value?.startsWith('/run/secrets'),
  );
  const mounted = [...start.matchAll(/"\$PWD\/(\S+?):(\S+?):ro"/g)].map(([, name = '', path]) => [
    existsSync(made(name)),
    path,
  ]);
  expect(mounted.toSorted()).toEqual(named.map((path) => [true, path]).toSorted());
});

test('names every limit, as it is', () => {
  const told = [...page.matchAll(/^\| (`[A-Z_`, ]+`) \| (\w[^|]*) \|/gm)].flatMap(
    ([, names = '', defaults = '']) => {
      const values = defaults.split(', ').map((value) => value.replace(/: .*/, '').replace('never', ''));
      return names
        .replaceAll('`', '')
        .split(', ')
        .map((name, at) => [name, values[at]]);
    },
  );
  const limits = [...read('docker-compose.yml').matchAll(/\$\{(\w*(?:MEMORY|RETENTION)):-([^}]*)\}/g)];
  expect(told.toSorted()).toEqual(limits.map(([, name, value]) => [name, value]).toSorted());
});
