/** ONNX Runtime, loaded as we load it, keeps no id of this machine and asks the network for nothing. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import { tempFolder } from './helpers/temp.ts';

const root = join(import.meta.dirname, '..');
/** Its environment is made as it is loaded; CI and NODE_ENV would keep it quiet by themselves. */
const load = (script: string, home: string, env: Record<string, string> = {}) =>
  execa('node', ['--eval', script], {
    cwd: root,
    preferLocal: true,
    extendEnv: false,
    env: { PATH: process.env.PATH ?? '', HOME: home, ...env },
  });

// It makes its environment for any model, and then finds that this one is not there.
const options = `{ modelPath: 'none.onnx', device: { name: 'cpu', kind: 'cpu', provider: { name: 'cpu' } }, batch: 1, crop: 224, threads: 1, slots: [] }`;
const here = `import { openSession } from './src/infer.ts';
await openSession(${options}).catch(() => undefined);`;
const inThread = `import { openThread } from './workers/thread.ts';
const inference = openThread('inference', ${options});
await inference.call({ kind: 'open' }).catch(() => undefined);
await inference.close();`;

test.each([
  ['in the main thread', here],
  ['in a thread of inference', inThread],
])('loaded %s, it writes nothing into the home of its user', async (_, script) => {
  const home = tempFolder();
  await load(script, home);
  expect(readdirSync(home)).toEqual([]);
  // Asked to, it does.
  await load(script, home, { ORT_DISABLE_TELEMETRY: '0' });
  expect(existsSync(join(home, '.cache/Microsoft'))).toBe(true);
});
