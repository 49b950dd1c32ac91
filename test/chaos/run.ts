/**
 * `npm run chaos`: every scenario in its full form, about half an hour on two cores, and a table of what was shown.
 *   --only NAME    this one alone (may be given again)
 *   --short        as `npm test` plays them
 *   --seed N       another course of the same faults; the table says which
 *   --json FILE    the table for programs
 * Exit code 1 where anything failed.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { type S3Server, startRadosgw } from '../helpers/servers.ts';
import { CannotRunHere, openTheatre, type Report, type Scale } from './scenario.ts';
import { scenarios } from './scenarios.ts';

type Row = { scenario: string; title: string; seconds: number } & (
  | ({ verdict: 'held' } & Report)
  | { verdict: 'FAILED' | 'SKIPPED'; why: string }
);

const names = [...scenarios.map(({ name }) => name), 'interleavings'];
const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: names },
    short: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});
const unknown = values.only.find((name) => !names.includes(name));
if (unknown !== undefined) {
  console.error(`no scenario '${unknown}'; there are ${names.join(', ')}`);
  process.exit(2);
}
// An 'exit' handler takes down what a scenario started.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130));

let server: Promise<S3Server & { close(): Promise<void> }> | undefined;
const scale: Scale = values.short ? 'short' : 'full';
const theatre = openTheatre({
  scale,
  seed: Number(values.seed),
  startS3() {
    server ??= startRadosgw();
    return server;
  },
  say: (text) => console.error(`  ${text}`),
});

const acts = [
  ...scenarios.map((scenario) => ({ ...scenario, play: () => theatre.play(scenario) })),
  {
    name: 'interleavings',
    title: 'no interleaving of crashing, stalling and racing workers loses a row or makes a second',
    play: playInterleavings,
  },
];
const rows: Row[] = [];
for (const { name, title, play } of acts) {
  if (!values.only.includes(name)) continue;
  console.error(`${name}: ${title}`);
  const started = performance.now();
  const verdict = await verdictOf(play());
  const seconds = Math.round((performance.now() - started) / 1000);
  rows.push({ scenario: name, title, seconds, ...verdict });
  const account = verdict.verdict === 'held' ? `${verdict.done}; ${verdict.shown}` : verdict.why;
  console.error(`  ${verdict.verdict} (${seconds} s): ${account}`);
}
theatre.close();
await server?.then((one) => one.close());

console.log(`| scenario | what was done (${scale}, seed ${values.seed}) | what was shown | time |`);
console.log('|---|---|---|---|');
for (const row of rows) {
  const [done, shown] =
    row.verdict === 'held' ? [row.done, row.shown] : ['', `${row.verdict}: ${row.why.split('\n', 1)[0]}`];
  console.log(`| ${row.scenario} | ${done} | ${shown} | ${row.seconds} s |`);
}
if (values.json !== undefined)
  writeFileSync(values.json, `${JSON.stringify({ scale, seed: Number(values.seed), rows }, null, 2)}\n`);
process.exit(rows.some(({ verdict }) => verdict === 'FAILED') ? 1 : 0);

async function verdictOf(
  playing: Promise<Report>,
): Promise<({ verdict: 'held' } & Report) | { verdict: 'FAILED' | 'SKIPPED'; why: string }> {
  try {
    return { verdict: 'held', ...(await playing) };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { verdict: error instanceof CannotRunHere ? 'SKIPPED' : 'FAILED', why };
  }
}

/** The random interleavings of planners, workers and finalizers: test files of their own, which have a long form. */
async function playInterleavings(): Promise<Report> {
  const { exitCode, stdout, stderr } = await execa(
    'npx',
    ['vitest', 'run', 'test/commit-protocol.test.ts', 'test/plan-protocol.test.ts'],
    {
      cwd: join(import.meta.dirname, '../..'),
      env: { LENSMILL_CHAOS: scale },
      reject: false,
    },
  );
  if (exitCode !== 0) throw new Error(`an interleaving fails:\n${stdout.slice(-2_000)}${stderr}`);
  // helpers/interleaving.ts prints them, a line a test.
  const counts = [...stdout.matchAll(/(\d+) interleavings (.*)/g)].map(([, count]) => Number(count));
  const total = counts.reduce((sum, count) => sum + count, 0);
  return {
    done: `${total.toLocaleString('en-US')} random interleavings of planners, workers and finalizers that crash, stall, fail and lose replies`,
    shown: 'after each, one whole run: no row lost, none doubled, no object changed',
  };
}
