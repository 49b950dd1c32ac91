/** lensmill's own version: goes into every part. */
import { readFileSync } from 'node:fs';

// One folder up from src/, two from dist/src/.
const manifest = ['../package.json', '../../package.json'].map((path) => new URL(path, import.meta.url));

export const version: string = readVersion();

function readVersion(): string {
  for (const url of manifest) {
    try {
      const { name, version } = JSON.parse(readFileSync(url, 'utf8'));
      if (name === 'lensmill') return version;
    } catch {
      // The other place has it.
    }
  }
  throw new Error('package.json of lensmill is not where it is installed: this is a bug');
}
