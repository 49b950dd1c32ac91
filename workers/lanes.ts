/** The lanes of a worker, or of a command that reads images as one does. */
import { availableParallelism } from 'node:os';
import type { Device } from '../src/devices/device.ts';
import { makeGate } from '../src/objects/host-gate.ts';
import { sourceOptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import type { InferenceReply, InferenceRequest } from './inference.ts';
import type { LaneOptions, LaneReply, LaneRequest } from './lane.ts';
import type { Slot } from './slot.ts';
import { openThreads, type Threads } from './thread.ts';

export type LaneSettings = Parameters<typeof sourceOptionsOf>[0] &
  Pick<Settings, 'lanes' | 'reads' | 'readTimeoutMs' | 'decoder'>;

const leastLanes = 2;

/** As the user says, else as many as suit the device. */
export function countLanes(
  { lanesPerCore }: Device,
  { lanes }: Pick<Settings, 'lanes'>,
  cores = availableParallelism(),
): number {
  return lanes || Math.max(leastLanes, Math.floor(cores * lanesPerCore));
}

/** They are polite to the web's hosts together. 'embed' needs the `sessions`, which are to be closed after them. */
export function openLanes(
  count: number,
  slots: readonly Slot[],
  settings: LaneSettings,
  sessions?: Threads<InferenceRequest, InferenceReply>,
): Threads<LaneRequest, LaneReply> {
  const { reads, readTimeoutMs, decoder } = settings;
  const sources = sourceOptionsOf(settings);
  sources.web.gate = makeGate();
  const pixels = slots.map((slot) => slot.pixels);
  const sessionCalls = new SharedArrayBuffer((sessions?.count ?? 0) * Int32Array.BYTES_PER_ELEMENT);
  const options: LaneOptions = { slots: pixels, reads, readTimeoutMs, decoder, sources, sessionCalls };
  const lanes = openThreads<LaneRequest, LaneReply>('lane', count, options);
  if (sessions) lanes.connectTo(sessions);
  return lanes;
}
