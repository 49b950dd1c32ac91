/** Which hardware stands behind a device: what was measured on one says nothing of another. */
import { execFile } from 'node:child_process';
import { availableParallelism, cpus } from 'node:os';
import { promisify } from 'node:util';
import type { Device } from './device.ts';

/** 'AMD EPYC 9R14, 2 cores', 'NVIDIA H100 80GB HBM3, 580.95.05'. */
export async function describeHardware({ kind, name, provider }: Device): Promise<string> {
  if (kind === 'cpu')
    return `${cpus()[0]?.model.trim() ?? 'an unknown CPU'}, ${availableParallelism()} cores`;
  if (provider.deviceId === undefined) return name;
  const query = ['--query-gpu=name,driver_version', '--format=csv,noheader'];
  // Without it, it is not known whether another GPU was put in since.
  const { stdout } = await promisify(execFile)('nvidia-smi', query).catch(() => ({ stdout: '' }));
  return describeGpu(stdout, provider.deviceId);
}

/**
 * `listing`: a GPU a line. nvidia-smi counts by bus, CUDA by speed, and CUDA_VISIBLE_DEVICES as it likes: among unlike GPUs,
 * a number names one only together with all of them.
 */
export function describeGpu(listing: string, deviceId: number): string {
  const gpus = listing.split('\n').flatMap((line) => line.trim() || []);
  const [first = 'an unknown GPU'] = gpus;
  return gpus.every((gpu) => gpu === first) ? first : `GPU ${deviceId} of ${gpus.join('; ')}`;
}
