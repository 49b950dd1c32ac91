/** `--device` or `--devices` of `lensmill work` → a device for each of its processes. */
import { ConfigError } from '../errors.ts';
import { resolveDevice } from './resolve-device.ts';
import { countVisibleGpus } from './visible-gpus.ts';

/** What one process works on. */
export interface WorkerDevice {
  /** For people and metrics, of one process alone: 'cuda:1', 'cpu', and 'cpu/0' where there are several. */
  name: string;
  /** As `resolveDevice` takes it. */
  device: string;
}

/** For tests: what a machine has. */
const thisMachine = { resolveDevice, countGpus: countVisibleGpus };

/**
 * `wanted`: as the settings `device` and `devices` have them; a GPU without a number stands for all that are visible. Throws
 * ConfigError 'no-cuda' and 'no-tensorrt' for what is not here.
 */
export function listDevices(wanted: readonly string[], machine = thisMachine): WorkerDevice[] {
  let gpus: number | undefined;
  const devices = wanted.flatMap((one): string[] => {
    const [kind = '', first, second] = one.split(':');
    if (kind === 'cpu') return Array(Number(first ?? 1)).fill('cpu');
    if (kind === 'sleep') return Array(Number(second ?? 1)).fill(`sleep:${first}`);
    const { device } = machine.resolveDevice(one);
    // It says why when it is opened.
    if (device.provider.deviceId === undefined) return [one];
    gpus ??= machine.countGpus();
    if (first === undefined) return Array.from({ length: gpus }, (_, n) => `${device.kind}:${n}`);
    if (Number(first) < gpus) return [one];
    const visible =
      gpus === 1
        ? `one GPU is visible, ${kind}:0`
        : `${gpus} GPUs are visible, ${kind}:0 to ${kind}:${gpus - 1}`;
    throw new ConfigError(
      `no-${kind}`,
      `--device ${one}: ${visible} (CUDA_VISIBLE_DEVICES decides, and numbers them)`,
    );
  });
  const names = devices.map((device) => (device === 'auto' ? 'cpu' : device));
  return devices.map((device, at) => {
    const name = names[at] ?? device;
    const isAlone = names.indexOf(name) === names.lastIndexOf(name);
    const before = names.slice(0, at).filter((other) => other === name).length;
    return { device, name: isAlone ? name : `${name}/${before}` };
  });
}
