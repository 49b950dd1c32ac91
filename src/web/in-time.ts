/** For who asks Redis while somebody waits for a reply: it answers in a millisecond, and one that is away is told, not waited for. */
import { setTimeout as sleep } from 'node:timers/promises';

/** The answer, or `undefined` where it takes longer than `patienceMs`; one that comes too late is dropped, and so is its failure. */
export async function inTime<T extends object>(
  answer: Promise<T>,
  patienceMs: number,
): Promise<T | undefined> {
  answer.catch(() => undefined);
  const tooLate = new AbortController();
  try {
    return await Promise.race([answer, sleep(patienceMs, undefined, { signal: tooLate.signal, ref: false })]);
  } finally {
    tooLate.abort();
  }
}
