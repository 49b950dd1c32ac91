/** What runs the model: plain values, what ONNX Runtime must be told and what suits the device. */

export interface Device {
  /** Goes into provenance: 'cpu', 'cuda'. */
  readonly kind: string;
  /** For people: 'cpu', 'cuda:0'. */
  readonly name: string;
  /** ONNX Runtime's execution provider; it alone may run the graph. */
  readonly provider: { name: string; deviceId?: number };
  /** Images per step. */
  readonly batch: number;
  /** Sessions side by side, each in a thread of its own; they share the device's cores, but not its memory. */
  readonly sessions: number;
  /** Threads that fetch and decode, per core of the machine; at least two are started. */
  readonly lanesPerCore: number;
}
