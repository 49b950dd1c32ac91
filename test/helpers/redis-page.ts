/** The ACL rules that docs/redis.md tells operators to set. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const page = readFileSync(join(import.meta.dirname, '../../docs/redis.md'), 'utf8');

/** The words of the line `user lensmill …`, with this password. */
export function userRule(password: string): string[] {
  const [, line] = /^user lensmill ((?:.*\\\n)*.*)$/m.exec(page) ?? [];
  if (line === undefined) throw new Error('docs/redis.md has no line `user lensmill …`');
  return line.replaceAll('\\\n', ' ').replace('PASSWORD', password).trim().split(/\s+/);
}

/** What is to be added to it on the nodes of a Cluster. */
export function clusterRule(): string[] {
  return rulesOf(/In a Cluster, [^.]*/);
}

/** What the user of a Sentinel needs. */
export function sentinelRule(): string[] {
  return rulesOf(/For a Sentinel, [^.]*/);
}

/** The words that look like rules, of a sentence. */
function rulesOf(sentence: RegExp): string[] {
  const [text = ''] = sentence.exec(page) ?? [];
  const rules = [...text.matchAll(/`([^`]*)`/g)].flatMap(([, quoted = '']) => quoted.split(/\s+/));
  const found = rules.filter((word) => /^[+&]/.test(word));
  if (found.length === 0) throw new Error(`docs/redis.md has no ${sentence}`);
  return found;
}
