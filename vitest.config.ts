import { basename } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** The files that take minutes, the longest first: begun last, one of them would run on alone. */
const longest = ['chaos', 'cli', 'retry', 'parity', 'verify', 'end-to-end'].map((name) => `${name}.test.ts`);

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rankOf = ({ moduleId }: TestSpecification): number =>
      (longest.indexOf(basename(moduleId)) + longest.length + 1) % (longest.length + 1);
    return (await super.sort(files)).toSorted((a, b) => rankOf(a) - rankOf(b));
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/helpers/global-setup.ts',
    testTimeout: 120_000,
    hookTimeout: 180_000,
    // Two files at once: the tests start real servers and real networks, and the build machines have two cores.
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
  },
});
