/** ONNX Runtime's own CPU kernels. */
import type { Device } from './device.ts';

export const cpu: Device = {
  kind: 'cpu',
  name: 'cpu',
  provider: { name: 'cpu' },
  batch: 8,
  // When a lane takes a core, the threads of one session wait for each other, and the other session does not: 0.97
  // against 0.91–0.94 of raw `session.run` on two cores (test/bench/overhead.ts).
  sessions: 2,
  // The model wants every core, and one lane decodes what sixteen can embed.
  lanesPerCore: 1 / 16,
};
