/** The chaos scenarios in their short forms, but for the long ones; `npm run chaos` plays all, in full. */
import pLimit from 'p-limit';
import { afterAll, describe, test } from 'vitest';
import { CannotRunHere, openTheatre } from './chaos/scenario.ts';
import { scenarios } from './chaos/scenarios.ts';
import { useRadosgw } from './helpers/servers.ts';

const theatre = openTheatre({ scale: 'short', seed: 1, startS3: useRadosgw, say: () => undefined });
afterAll(() => theatre.close());

// Half of a scenario's time is a wait for a lease to run out; more than two at once would wait for the cores.
const twoAtOnce = pLimit(2);

describe.concurrent('chaos', () => {
  for (const scenario of scenarios.filter(({ isLong }) => !isLong)) {
    test(scenario.title, { timeout: 400_000 }, async (context) => {
      try {
        await twoAtOnce(() => theatre.play(scenario));
      } catch (error) {
        if (!(error instanceof CannotRunHere)) throw error;
        console.warn(`SKIPPED: ${scenario.name}: ${error.message}`);
        context.skip(error.message);
      }
    });
  }
});
