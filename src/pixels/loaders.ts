/**
 * Which of libvips's loaders are on is a matter of the whole process, chosen by turning all off and some on again. A thread
 * that does so while another decodes lets that one fail, of a sound picture. So it is done once, before any decodes.
 */
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads';

const key = 'lensmill: loaders';
const [untouched, choosing, chosen] = [0, 1, 2];

/** To be called before threads are started that decode: whichever of them is first then chooses for all. */
export function shareLoaders(): void {
  if (!getEnvironmentData(key)) setEnvironmentData(key, new SharedArrayBuffer(4));
}

/** Runs `choose` unless another thread has; waits for it while it does. */
export function chooseLoaders(choose: () => void): void {
  const shared = getEnvironmentData(key);
  const state = new Int32Array(shared instanceof SharedArrayBuffer ? shared : new SharedArrayBuffer(4));
  if (Atomics.compareExchange(state, 0, untouched, choosing) === untouched) {
    choose();
    Atomics.store(state, 0, chosen);
    Atomics.notify(state, 0);
  } else {
    Atomics.wait(state, 0, choosing);
  }
}
