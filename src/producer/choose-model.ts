/** The model that is asked for: downloaded, built, and quantised where it has to be. */
import { resolveDevice } from '../devices/resolve-device.ts';
import { readCalibration } from '../models/calibration.ts';
import { type Model, quantiseModel, type ResolveOptions, resolveModel } from '../models/model.ts';
import { presets } from '../models/presets.ts';
import type { RunRequest } from '../runs/run.ts';
import type { Settings } from '../settings/table.ts';
import type { Store } from '../stores/store.ts';
import type { Precision } from '../types.ts';
import { findCalibration } from './calibrate.ts';
import type { Caller } from './caller.ts';

/**
 * The model of the settings, or `ref`, downloaded where it has to be; the options say how eagerly. In int8 it is quantised by
 * the file of `--calibration`.
 */
export async function loadModel(
  caller: Caller,
  options: { ref?: string } & Partial<Pick<ResolveOptions, 'hub' | 'retries' | 'precision'>> = {},
): Promise<Model> {
  const { settings, log, interrupted: signal } = caller;
  const { ref = modelRef(settings), precision = choosePrecision(settings, ref), ...pull } = options;
  const { calibration: file } = settings;
  const progress = caller.reportProgress('bytes');
  try {
    return await resolveModel(ref, {
      cacheDir: settings.cacheDir,
      resizeMode: settings.resize,
      ...(precision && { precision }),
      ...(precision === 'int8' && file !== undefined && { calibration: await readCalibration(file) }),
      ...pull,
      signal,
      onProgress: (done, total = done) => progress.update({ done, total }),
      onNotice: (notice) => log.warn(notice),
    });
  } finally {
    progress.close();
  }
}

/** The model of the settings for a run over a source; in int8 calibrated as `findCalibration` does it. */
export async function loadRunModel(
  caller: Caller,
  place: { source: RunRequest['source']; store?: Store | undefined },
): Promise<Model> {
  const ref = modelRef(caller.settings);
  const isOnFloats = choosePrecision(caller.settings, ref) !== 'int8';
  // In an .onnx the ranges are baked in, and a null model has none.
  if (isOnFloats || ref.endsWith('.onnx') || ref === 'null') return loadModel(caller);
  const floats = await loadModel(caller, { precision: 'fp32' });
  return quantiseModel(floats, await findCalibration(caller, floats, place));
}

function modelRef({ model }: Settings): string {
  return model ?? presets[0].name;
}

/** An .onnx has a precision of its own; 'auto' is that, and of all else what suits the device. */
function choosePrecision({ precision, device }: Settings, ref: string): Precision | undefined {
  if (precision !== 'auto') return precision;
  return ref.endsWith('.onnx') ? undefined : resolveDevice(device).device.precision;
}
