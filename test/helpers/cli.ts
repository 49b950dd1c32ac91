/** Runs `lensmill` as a user does: a process of its own, its exit code, what it prints. */
import { join } from 'node:path';
import { execa } from 'execa';

const main = join(import.meta.dirname, '../../src/cli/main.ts');

/** Small and quick, and a ResNet all the same. */
export const smallModel = 'random:0:1-1-1-1';

export type CliProcess = ReturnType<typeof lensmill>;

/**
 * Does not reject: look at `exitCode`. Variables of the test's own environment that lensmill reads are left out. `prefix`: words
 * that run it elsewhere (chaos/netns.ts).
 */
export function lensmill(
  args: readonly string[],
  env: Record<string, string> = {},
  prefix: readonly string[] = [],
) {
  const cleared = {
    REDIS_URL: undefined,
    LENSMILL_OUTPUT: undefined,
    npm_lifecycle_event: undefined,
    AWS_REGION: undefined,
  };
  const all: NodeJS.ProcessEnv = { ...cleared, LENSMILL_DEVICE: 'cpu', ...env };
  const [command = '', ...words] = [...prefix, process.execPath, main, ...args];
  return execa(command, words, { reject: false, env: all });
}

/** Resolves when the process has logged `count` lines with this message; rejects when it ends before. */
export function logged(process: CliProcess, message: string, count = 1): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let text = '';
  process.stderr?.on('data', (chunk) => {
    text += chunk;
    if (text.split(`"msg":"${message}"`).length > count) resolve();
  });
  process.then(() => reject(new Error(`ended before '${message}':\n${text}`)));
  return promise;
}
