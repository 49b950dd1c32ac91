import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openFileObjects } from '../src/objects/file.ts';
import { openPatience } from '../src/objects/patience.ts';
import { fileUri } from '../src/uri.ts';
import { tempFolder } from './helpers/temp.ts';

const whole = { etag: '', maxBytes: 1e9 };

function learned(path: string) {
  const patience = openPatience();
  patience.learn('folder', path, statSync(path, { bigint: true }).dev);
  return patience;
}

test('no folder is read by blocking calls before it is known where it lies', () => {
  const patience = learned(tempFolder());
  expect([patience.isGiven('folder'), patience.isGiven('another')]).toEqual([true, false]);
});

test('a file system that is not on a disk of this machine is never waited for', () => {
  expect(learned('/proc/self').isGiven('folder')).toBe(false);
});

test('after slow reads none blocks for a while, and after more of them for longer', () => {
  const patience = learned(tempFolder());
  const rests = Array.from({ length: 3 }, () => {
    while (patience.isGiven('folder')) patience.took(5);
    let rest = 1;
    while (!patience.isGiven('folder')) rest += 1;
    return rest;
  });
  expect(rests).toEqual([16, 32, 64]);
});

test('a thread that was preempted now and then is no slow disk', () => {
  const patience = learned(tempFolder());
  for (let n = 0; n < 1000; n++) patience.took(n % 20 === 0 ? 4 : 0.15);
  expect(patience.isGiven('folder')).toBe(true);
});

test('the second file of a folder is read, or refused, as the first was', async () => {
  const folder = tempFolder();
  const uriOf = (name: string): string => fileUri(join(folder, name));
  const contents = { a: 'first', b: 'second', empty: '', large: 'x'.repeat(2 ** 20 + 1) };
  for (const [name, content] of Object.entries(contents)) writeFileSync(join(folder, name), content);
  const objects = openFileObjects();
  for (const [name, content] of Object.entries(contents))
    expect(Buffer.from(await objects.read(uriOf(name), whole)).toString()).toBe(content);
  const range = await objects.readRange(uriOf('b'), { etag: '', first: 2, count: 9 });
  expect(Buffer.from(range).toString()).toBe('cond');
  await expect(objects.read(uriOf('b'), { ...whole, etag: '1-1' })).rejects.toMatchObject({
    code: 'changed',
  });
  await expect(objects.read(uriOf('b'), { ...whole, maxBytes: 5 })).rejects.toMatchObject({
    code: 'too-many-bytes',
  });
  await expect(objects.read(uriOf('none'), whole)).rejects.toMatchObject({ code: 'not-found' });
  await expect(objects.read(fileUri(folder), whole)).rejects.toMatchObject({ code: 'not-found' });
});
