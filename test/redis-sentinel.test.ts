/** Redis behind Sentinels: three of them, a primary and a replica, all real. */
import { expect, test } from 'vitest';
import { lensmill, logged } from './helpers/cli.ts';
import { sentinelRule, userRule } from './helpers/redis-page.ts';
import { startSentinels } from './helpers/redis-servers.ts';
import { tempFolder } from './helpers/temp.ts';
import { makeTinyArchive } from './helpers/tiny-archive.ts';

test('a primary that is killed in the middle of a run is followed by its replica, and the run is whole', async () => {
  const images = 40;
  const output = tempFolder();
  const { primary, replica, sentinels } = await startSentinels('secret');
  const places = sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
  const login = 'sentinel-user=watch&sentinel-password=of-the-watcher';
  const user = ['ACL', 'SETUSER', 'lensmill', ...userRule('of-the-user')] as const;
  const watcher = ['ACL', 'SETUSER', 'watch', 'on', '>of-the-watcher', ...sentinelRule()] as const;
  for (const { client } of [primary, replica]) await client({ password: 'secret' }).call(...user);
  for (const { client } of sentinels) await client().call(...watcher);
  const run = lensmill([
    ...['index', await makeTinyArchive(images), '--output', output, '--run', 'r', '--json'],
    ...['--redis', `redis-sentinel://lensmill:of-the-user@${places}/main?${login}`, '--reuse', 'off'],
    ...['--model', 'null', '--device', 'sleep:100', '--batch', '1', '--shard-size', '1'],
  ]);
  await logged(run, 'shard done', 3);
  await primary.kill();
  const { exitCode, stdout, stderr } = await run;
  expect(exitCode, stderr).toBe(0);
  expect(stderr).not.toMatch(/secret|of-the/);
  for (const { client } of sentinels) expect(await client().acl('LOG')).toEqual([]);
  expect(JSON.parse(stdout)).toMatchObject({ items: images, ok: images, failed: 0 });
  expect((await replica.client({ password: 'secret' }).role())[0]).toBe('master');
  const verified = await lensmill(['verify', 'r', '--output', output, '--json']);
  expect(JSON.parse(verified.stdout)).toMatchObject({ sound: true, items: images });
});
