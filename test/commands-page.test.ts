import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { commandsPage, writeReference } from '../docs/generate.ts';

test('docs/commands.md is what the commands and settings are: on failure, type `npm run docs` and commit it', async () => {
  expect(readFileSync(commandsPage, 'utf8')).toBe(await writeReference());
});
