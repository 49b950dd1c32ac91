/** ONNX Runtime's provider libraries: whether one is here, and whether the system has what it is linked with. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);

/** Of ONNX Runtime, read without loading it: '1.30.0'. */
export const runtimeVersion: string = require('onnxruntime-node/package.json').version;

const folder = join(
  dirname(require.resolve('onnxruntime-node/package.json')),
  'bin/napi-v6',
  process.platform,
  process.arch,
);

/**
 * Why 'cuda' or 'tensorrt' cannot be used here, or `undefined`. Looks only; whether it works, a session tells. `path` is for
 * tests; by default it is where ONNX Runtime's own install script puts the provider.
 */
export function whyNoProvider(
  provider: 'cuda' | 'tensorrt',
  path = join(folder, `libonnxruntime_providers_${provider}.so`),
): string | undefined {
  if (!existsSync(path)) {
    const script = join('node_modules', 'onnxruntime-node', 'script', 'install.js');
    const title = { cuda: 'CUDA', tensorrt: 'TensorRT' }[provider];
    return `ONNX Runtime's ${title} library is not installed: \`ONNXRUNTIME_NODE_INSTALL=true node ${script}\``;
  }
  const missing = missingLibraries(path);
  if (missing.length === 0) return undefined;
  return `the system's loader finds no ${missing.join(', no ')}: install what has them, or put their folder on LD_LIBRARY_PATH`;
}

/** By path; a process asks several times, and a disk that is cold takes a second. */
const known = new Map<string, string[]>();

/**
 * Asks the loader, as ONNX Runtime would, but runs nothing of the library: one that is loaded by another than ONNX Runtime
 * ends the process. Where there is no `ldd`, none is missing.
 */
function missingLibraries(path: string): string[] {
  const found = known.get(path) ?? parseLdd(spawnSync('ldd', [path], { encoding: 'utf8' }).stdout ?? '');
  known.set(path, found);
  return found;
}

/** What `ldd` printed → the names that were not found. */
export function parseLdd(text: string): string[] {
  return [...text.matchAll(/^\s*(\S+) => not found/gm)].map(([, name = '']) => name);
}
