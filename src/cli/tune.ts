/** `lensmill tune`: finds the batch size and the number of sessions that are fastest here, and keeps them for workers. */
import { availableParallelism } from 'node:os';
import type { Command } from 'commander';
import { openArrangement } from '../../workers/arrangement.ts';
import { type Device, requirePrecision } from '../devices/device.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { requireRealDevice } from '../devices/sleep.ts';
import { ConfigError } from '../errors.ts';
import { buildOnnx, type Model } from '../models/model.ts';
import { loadModel } from '../producer/choose-model.ts';
import {
  type Arrangement,
  findArrangement,
  type Sweep,
  type Trial,
  type TuningSpace,
  tuningSpaceOf,
} from '../tune.ts';
import { type Tuning, tuningPath, tuningSubject, writeTuning } from '../tuning.ts';
import { addCommand, exitCodes } from './command.ts';

/** Long enough for some batches of the largest size on the slowest device, short enough that a sweep takes a minute. */
const trialMs = 2_500;

export function addTuneCommand(program: Command): void {
  addCommand(program, 'tune', {
    summary:
      'find the batch size and the number of sessions that are fastest on a device, and keep them for its workers',
    settings: ['model', 'precision', 'calibration', 'resize', 'topK', 'device', 'threads', 'cacheDir'],
    examples: [
      'lensmill tune --device cuda:0',
      'lensmill tune --model timm/resnet152.tv_in1k --device cpu --json',
    ],
    async act(context) {
      const { settings, log, terminal, print, interrupted: signal } = context;
      const { cacheDir, topK } = settings;
      const { device, reason } = resolveDevice(settings.device);
      if (reason) log.info({ device: device.name, reason }, 'device chosen');
      const model = await loadModel(context);
      const threads = settings.threads || availableParallelism();
      const onTrial = (trial: Trial): void => {
        terminal.show(`tuning ${device.name}: ${trialText(trial)}`);
        log.info({ device: device.name, ...trial }, 'tried');
      };
      try {
        const space = tuningSpaceOf(device, threads);
        const sweep = await tuneModel(model, { device, topK, threads, space, trialMs, onTrial, signal });
        const subject = await tuningSubject(device, model.identity, threads);
        const tuning = await writeTuning(cacheDir, subject, sweep);
        const path = tuningPath(cacheDir, subject);
        terminal.show(undefined);
        print({ ...tuning, path }, tuningText(tuning, { device, model, path }));
      } finally {
        terminal.show(undefined);
      }
      return exitCodes.done;
    },
  });
}

export interface TuneOptions {
  device: Device;
  topK: number;
  /** On a CPU, of all sessions together. */
  threads: number;
  space: TuningSpace;
  /** Each arrangement runs for so long at a time. */
  trialMs: number;
  onTrial?: (trial: Trial) => void;
  signal?: AbortSignal;
}

/** Throws ConfigError 'wrong-device', 'device-failed'. */
export async function tuneModel(model: Model, options: TuneOptions): Promise<Sweep> {
  const { device, topK, threads, space, trialMs, onTrial, signal } = options;
  const { precision, ref, dimension, preprocessing } = model.identity;
  requirePrecision(device, precision);
  requireRealDevice(device, ref);
  const modelPath = await buildOnnx(model, { topK });
  const { crop } = preprocessing;
  let isFirst = true;

  const open = async (arrangement: Arrangement) => {
    try {
      return await openArrangement({ ...arrangement, modelPath, device, crop, dimension, topK, threads });
    } catch (error) {
      // A device that has run the model before fails for want of memory alone.
      if (isFirst || !(error instanceof ConfigError && error.code === 'device-failed')) throw error;
      return undefined;
    }
  };
  return findArrangement(space, async ({ batch, sessions }) => {
    signal?.throwIfAborted();
    const running = await open({ batch, sessions });
    isFirst = false;
    try {
      const pace = await running?.measure(trialMs);
      onTrial?.({ batch, sessions, imagesPerSecond: pace?.imagesPerSecond ?? null });
      return pace?.imagesPerSecond;
    } finally {
      await running?.close();
    }
  });
}

function tuningText(
  { batch, sessions, imagesPerSecond, trials, subject }: Tuning,
  { device, model, path }: { device: Device; model: Model; path: string },
): string {
  const { ref, architecture, precision } = model.identity;
  const isChosen = (trial: Trial): boolean => trial.batch === batch && trial.sessions === sessions;
  const rows = trials.map((trial) => {
    const { batch: images, sessions: count, imagesPerSecond: rate } = trial;
    const cells = [images, count].map((cell) => String(cell).padStart(8)).join('');
    return `${cells}  ${rate === null ? 'too little memory' : formatRate(rate).padStart(10)}${isChosen(trial) ? '  ←' : ''}`;
  });
  return [
    `device  ${device.name}, ${subject.hardware}; ONNX Runtime ${subject.runtime}`,
    `model   ${ref}, ${architecture} ${precision}`,
    '   batch sessions    images/s',
    ...rows,
    `chosen  ${trialText({ batch, sessions, imagesPerSecond })}`,
    `kept    ${path}; workers go by it unless --batch or --sessions is set`,
  ].join('\n');
}

function trialText({ batch, sessions, imagesPerSecond }: Trial): string {
  const rate = imagesPerSecond === null ? 'too little memory' : `${formatRate(imagesPerSecond)} images/s`;
  return `batch ${batch}, ${sessions} ${sessions === 1 ? 'session' : 'sessions'}: ${rate}`;
}

const formatRate = (rate: number): string =>
  rate.toLocaleString('en-US', { maximumFractionDigits: rate < 100 ? 1 : 0 });
