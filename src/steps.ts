/**
 * The named moments of a run's life, published on the diagnostics channel `lensmill:step` before the program goes on.
 * Nobody listens in normal use (telemetry/traces.ts does, where they are on), and then a step costs one comparison. Who wants to see what a run does, or to stop a
 * process at exactly one moment (test/chaos does both), subscribes in a module given to `node --import`.
 */
import { channel } from 'node:diagnostics_channel';

export type Step =
  // plan
  | 'run claimed'
  | 'page listed'
  | 'page items created'
  | 'page created'
  | 'plan created'
  | 'shards enqueued'
  // commit
  | 'shard taken'
  | 'shard embedded'
  | 'part encoded'
  | 'lease checked'
  | 'part created'
  | 'shard marked done'
  | 'finalize enqueued'
  // finalize
  | 'finalize taken'
  | 'parts read'
  | 'success created'
  | 'run closed';

export interface StepMessage {
  step: Step;
  run: string;
  /** Where the step belongs to one. */
  shard?: number;
}

export const stepChannel = 'lensmill:step';
const steps = channel(stepChannel);

export function atStep(step: Step, run: string, shard?: number): void {
  if (steps.hasSubscribers)
    steps.publish({ step, run, ...(shard !== undefined && { shard }) } satisfies StepMessage);
}
