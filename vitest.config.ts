import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/helpers/global-setup.ts',
    testTimeout: 120_000,
    hookTimeout: 180_000,
    // Two files at once: the tests start real servers and real networks, and the build machines have two cores.
    maxWorkers: 2,
  },
});
