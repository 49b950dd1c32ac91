import { setTimeout as sleep } from 'node:timers/promises';

/** Asks again until it is so: for what tells no event, such as another process, or a server whose time is its own. */
export async function until(isSo: () => Promise<boolean> | boolean, everyMs = 10): Promise<void> {
  while (!(await isSo())) await sleep(everyMs);
}
