/** ONNX Runtime's own CPU kernels. */
import type { Device } from './device.ts';

export const cpu: Device = {
  kind: 'cpu',
  name: 'cpu',
  provider: { name: 'cpu' },
  batch: 8,
  // The model wants every core, and one lane decodes what sixteen can embed.
  lanesPerCore: 1 / 16,
};
