/** A run request and its model, for tests in which neither is the point. */
import { identify } from '../../src/models/identity.ts';
import { imagenetPreprocessing } from '../../src/models/presets.ts';
import type { RunRequest } from '../../src/runs/run.ts';
import { version } from '../../src/version.ts';

export function makeRequest(run: string, changes: Partial<RunRequest> = {}): RunRequest {
  return {
    v: 1,
    run,
    since: null,
    reuse: false,
    source: {
      uris: ['file:///nowhere'],
      include: null,
      exclude: [],
      archives: false,
      list: { uri: null, id: null, keep: [] },
    },
    model: identify({
      ref: 'random:0:1-1-1-1',
      architecture: 'resnet-1-1-1-1',
      weights: '0'.repeat(64),
      untrained: true,
      preprocessing: imagenetPreprocessing,
      resizeMode: 'exact',
      precision: 'fp32',
      calibration: null,
      dimension: 2048,
      classes: 1000,
    }),
    weightsKey: null,
    calibrationKey: null,
    topK: 5,
    embedding: 'float32',
    shardSize: 4,
    maxPixels: 1_000_000,
    maxBytes: 1_000_000,
    lensmill: version,
    retryOf: null,
    createdAt: '2026-01-01T00:00:00.000Z',
    ...changes,
  };
}
