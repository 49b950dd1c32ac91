/** `npm run bench [NAME …]`: every bench, or those named. Each prints its own table; figures of one run are compared, never of two. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const benches = [
  'read',
  'decode',
  'write',
  'model',
  'overhead',
  'plan',
  'increment',
  'queue',
  'lanes',
  'scale',
  'peers',
  'search',
];

const asked = process.argv.slice(2);
const unknown = asked.find((name) => !benches.includes(name));
if (unknown !== undefined) {
  console.error(`no bench '${unknown}'; there are ${benches.join(', ')}`);
  process.exit(2);
}
for (const name of asked.length > 0 ? asked : benches) {
  console.log(`\n── ${name} ──`);
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, `${name}.ts`)], {
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
