/** How many GPUs CUDA would show this process: counted without CUDA, for whoever starts a process for each. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

/** At least 1: that there is a GPU was found otherwise (cuda.ts). They are cuda:0, cuda:1, … */
export function countVisibleGpus(): number {
  return Math.max(1, countShown(process.env.CUDA_VISIBLE_DEVICES, countInstalled()));
}

/** Why CUDA shows no GPU, whatever there is; or `undefined`. */
export function whyAllHidden(visible = process.env.CUDA_VISIBLE_DEVICES): string | undefined {
  if (countShown(visible, Number.POSITIVE_INFINITY) > 0) return undefined;
  return `CUDA_VISIBLE_DEVICES is '${visible}', which hides every GPU: unset it, or name GPUs in it`;
}

/**
 * `visible`: CUDA_VISIBLE_DEVICES. CUDA takes its entries up to the first that is no GPU, and of MIG instances only the first
 * (https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables, and the MIG user guide's "CUDA Visible Devices").
 */
export function countShown(visible: string | undefined, installed: number): number {
  if (visible === undefined) return Number.isFinite(installed) ? installed : 1;
  const entries = visible.split(',').map((entry) => entry.trim());
  const end = entries.findIndex((entry) => !isGpu(entry, installed));
  const shown = end < 0 ? entries : entries.slice(0, end);
  return shown.some((entry) => entry.startsWith('MIG-')) ? 1 : shown.length;
}

function isGpu(entry: string, installed: number): boolean {
  return /^(GPU|MIG)-/.test(entry) || (/^[0-9]+$/.test(entry) && Number(entry) < installed);
}

/** In a container, those that it was given. */
function countInstalled(): number {
  const { stdout } = spawnSync('nvidia-smi', ['--list-gpus'], { encoding: 'utf8', timeout: 30_000 });
  const listed = countListed(stdout ?? '');
  if (listed > 0) return listed;
  try {
    return readdirSync('/dev').filter((name) => /^nvidia[0-9]+$/.test(name)).length;
  } catch {
    return 0;
  }
}

/** A line a GPU, and below it one for each of its MIG instances. */
export function countListed(listing: string): number {
  return listing.split('\n').filter((line) => /^GPU [0-9]+:/.test(line)).length;
}
