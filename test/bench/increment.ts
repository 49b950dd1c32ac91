/**
 * What a rerun costs: `node test/bench/increment.ts [--items 100000] [--latency 20]`. An S3 server in a process of its own
 * lists objects that nobody stored, each page `latency` ms late; a finished run has rows of all of them.
 *
 *   unchanged   `--since` that run over the same archive: nothing to do is found by listing alone
 *   changed     one object in a hundred has other bytes, one is gone, one is new
 *
 * Exits with 1 where the plan is another, or anything but lists was asked of the source.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { ArchiveState, Incremented, Role, Served } from './increment-process.ts';

export async function benchIncrement(options: { items: number; latencyMs: number }): Promise<void> {
  const { items, latencyMs } = options;
  const output = mkdtempSync(join(tmpdir(), 'lensmill-bench-'));
  const servers: ChildProcess[] = [];
  try {
    for (const state of ['unchanged', 'changed'] satisfies ArchiveState[]) {
      const server = start('serve', state, items, latencyMs);
      servers.push(server);
      const served = async (): Promise<Served> => {
        server.send('served');
        return (await once(server, 'message'))[0];
      };
      const [{ endpoint }] = (await once(server, 'message')) as [Served];
      if (state === 'unchanged') await resultOf(start('base', endpoint, output));
      const before = await served();
      const { run, seconds, megabytes, storeReads, storeBytes } = await resultOf<Incremented>(
        start('increment', endpoint, output, state),
      );
      const lists = (await served()).lists - before.lists;
      const others = (await served()).others - before.others;

      const { replaced, gone, kept } = run;
      const plan = { new: run.items - replaced, changed: replaced - gone, gone, kept };
      console.log(
        `${state}: ${items} rows against the listing in ${seconds.toFixed(1)} s, ${Math.round(items / seconds).toLocaleString('en')} a second`,
      );
      console.log(`  source: ${lists} lists, ${others} other requests`);
      console.log(`  store: ${storeReads} reads, ${(storeBytes / 1e6).toFixed(1)} MB`);
      console.log(`  memory: at most ${megabytes} MB`);
      console.log(`  plan: ${JSON.stringify(plan)}`);
      const some = state === 'changed' ? items / 100 : 0;
      const wanted = { new: some, changed: some, gone: some, kept: items - 2 * some };
      if (JSON.stringify(plan) !== JSON.stringify(wanted))
        fail(`planned should be ${JSON.stringify(wanted)}`);
      if (others > 0) fail('more than lists was asked of the source');
    }
  } finally {
    for (const server of servers) server.kill();
    rmSync(output, { recursive: true, force: true });
  }
}

function start(role: Role, ...args: (string | number)[]): ChildProcess {
  const env = { ...process.env, AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: 'any' };
  return fork(join(import.meta.dirname, 'increment-process.ts'), [role, ...args.map(String)], { env });
}

async function resultOf<T>(child: ChildProcess): Promise<T> {
  const exited = once(child, 'exit');
  const [result] = await Promise.race([once(child, 'message'), exited.then(() => [])]);
  const [code] = await exited;
  if (code !== 0 || result === undefined) throw new Error('a process of this bench failed');
  return result as T;
}

function fail(message: string): void {
  console.error(message);
  process.exitCode = 1;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { items: { type: 'string', default: '100000' }, latency: { type: 'string', default: '20' } },
  });
  // Whole hundreds: one in a hundred changes.
  const items = Math.max(1, Math.round(Number(values.items) / 100)) * 100;
  await benchIncrement({ items, latencyMs: Number(values.latency) });
}
