/**
 * What `lensmill tune` found, remembered on its machine. It holds for a device, its hardware, a model's shape and the version
 * of ONNX Runtime; other weights of the same shape are as fast.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { Device } from './devices/device.ts';
import { describeHardware } from './devices/hardware.ts';
import { runtimeVersion } from './devices/libraries.ts';
import { errnoOf } from './errno.ts';
import { ConfigError, messageOf } from './errors.ts';
import { writeWhole } from './models/files.ts';
import { canonicalJson } from './models/identity.ts';
import type { Arrangement, Sweep } from './tune.ts';
import type { ModelIdentity } from './types.ts';

const arrangement = { batch: z.int().positive(), sessions: z.int().positive() };

const tuning = z.object({
  v: z.literal(1),
  /** What it holds for. */
  subject: z.object({
    device: z.string(),
    hardware: z.string(),
    runtime: z.string(),
    /** On a CPU, of all sessions together; null on a GPU. */
    threads: z.int().positive().nullable(),
    architecture: z.string(),
    /** Of a graph from elsewhere, whose shape only its weights tell; else null. */
    weights: z.string().nullable(),
    precision: z.string(),
    crop: z.int().positive(),
    classes: z.int().positive(),
  }),
  ...arrangement,
  imagesPerSecond: z.number(),
  trials: z.array(z.object({ ...arrangement, imagesPerSecond: z.number().nullable() })),
  tunedAt: z.iso.datetime(),
});

export type Tuning = z.output<typeof tuning>;
export type TuningSubject = Tuning['subject'];

/** `threads`: of all sessions together, on a CPU. */
export async function tuningSubject(
  device: Device,
  model: ModelIdentity,
  threads: number,
): Promise<TuningSubject> {
  const { architecture, weights, precision, preprocessing, classes } = model;
  return {
    device: device.kind,
    hardware: await describeHardware(device),
    runtime: runtimeVersion,
    threads: device.kind === 'cpu' ? threads : null,
    architecture,
    weights: architecture === 'onnx' ? weights : null,
    precision,
    crop: preprocessing.crop,
    classes,
  };
}

/** Where it is kept, for people. */
export function tuningPath(cacheDir: string, subject: TuningSubject): string {
  const name = createHash('sha256').update(canonicalJson(subject)).digest('hex').slice(0, 32);
  return join(cacheDir, 'tuning', `${subject.device}-${subject.architecture}-${name}.json`);
}

/** Throws ConfigError 'unwritable'. */
export async function writeTuning(
  cacheDir: string,
  subject: TuningSubject,
  { chosen, trials }: Sweep,
): Promise<Tuning> {
  const made: Tuning = { v: 1, subject, ...chosen, trials, tunedAt: new Date().toISOString() };
  await writeWhole(tuningPath(cacheDir, subject), [Buffer.from(`${JSON.stringify(made, null, 1)}\n`)]);
  return made;
}

/** Undefined where none was made. Throws ConfigError 'bad-tuning' naming the file. */
export async function readTuning(cacheDir: string, subject: TuningSubject): Promise<Tuning | undefined> {
  const path = tuningPath(cacheDir, subject);
  try {
    return tuning.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw new ConfigError(
      'bad-tuning',
      `${path} cannot be used (${messageOf(error)}): delete it, or tune again`,
    );
  }
}

export interface ChosenArrangement extends Arrangement {
  /** The user, the tuning of that time, or nobody. */
  arrangedBy: 'settings' | `tuning of ${string}` | 'default';
}

export interface ArrangementSettings {
  /** 0: what suits the device. */
  batch: number;
  /** 0: what suits the device. */
  sessions: number;
  cacheDir: string;
}

/**
 * What a worker uses. What the user set counts; a tuning is of both numbers together, so it counts where neither is set. On a
 * CPU no session goes without a thread. Throws ConfigError 'bad-tuning'.
 */
export async function chooseArrangement(
  device: Device,
  model: ModelIdentity,
  { settings, threads }: { settings: ArrangementSettings; threads: number },
): Promise<ChosenArrangement> {
  const { batch, sessions, cacheDir } = settings;
  const capped = (count: number): number => Math.min(count, threads);
  if (batch > 0 || sessions > 0)
    return {
      batch: batch || device.batch,
      sessions: capped(sessions || device.sessions),
      arrangedBy: 'settings',
    };
  const made = await readTuning(cacheDir, await tuningSubject(device, model, threads));
  if (made)
    return { batch: made.batch, sessions: capped(made.sessions), arrangedBy: `tuning of ${made.tunedAt}` };
  return { batch: device.batch, sessions: capped(device.sessions), arrangedBy: 'default' };
}
