/** Starts the process that builds a run's index, and waits for it. */
import type { IndexerRequest } from './indexer.ts';
import { forkEntry } from './thread.ts';

/** Longest wait for a build that was told to stop: until then it hands on its lease. */
const stopMs = 10_000;

/** Resolves when it is done, or has told why not. Throws where it died, and the signal's reason. */
export async function indexAside(request: IndexerRequest, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const child = forkEntry('indexer', { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const stop = (): void => {
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), stopMs).unref();
  };
  signal.addEventListener('abort', stop);
  try {
    const ended = new Promise<string | undefined>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, ending) =>
        resolve(code === 0 ? undefined : String(ending ?? `code ${code}`)),
      );
    });
    child.send(request);
    const ending = await ended;
    signal.throwIfAborted();
    if (ending)
      throw new Error(`the process that builds the index of run ${request.run} ended with ${ending}`);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
