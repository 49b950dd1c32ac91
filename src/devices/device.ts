/** What runs the model: plain values, what ONNX Runtime must be told and what suits the device. */

/** As `--device` takes it. */
export type DeviceName = 'auto' | 'cpu' | `cuda${'' | `:${number}`}`;

export interface Device {
  /** Goes into provenance: 'cpu', 'cuda'. */
  readonly kind: string;
  /** For people: 'cpu', 'cuda:0'. */
  readonly name: string;
  /** ONNX Runtime's execution provider; it alone may run the graph. */
  readonly provider: { name: string; deviceId?: number };
  /** Images per step. */
  readonly batch: number;
  /** Threads that fetch and decode, per core of the machine; at least one is started. */
  readonly lanesPerCore: number;
}
