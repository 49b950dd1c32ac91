/**
 * Do changed copies of photographs find their original? Each photograph is indexed as it is, by `lensmill index`; then
 * copies of it, cropped, mirrored, recompressed and so on, are embedded as `lensmill search` does, and searched for.
 *
 * recall@k: the share of the photographs whose original is among the k that are found first. By chance, k / photographs.
 * node test/bench/quality.ts FOLDER… [--model REF] [--json]      at least 200 photographs, of which no two are alike
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import sharp, { type Sharp } from 'sharp';
import { resolveDevice } from '../../src/devices/resolve-device.ts';
import { readRun } from '../../src/runs/run.ts';
import { buildIndex } from '../../src/search/build.ts';
import { openIndex } from '../../src/search/open-index.ts';
import { s3OptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';
import { openStore } from '../../src/stores/open-store.ts';
import { pathOfUri } from '../../src/uri.ts';
import { openEmbedder } from '../../workers/embedder.ts';
import { cosine } from '../helpers/graphs.ts';
import { main, median } from './timing.ts';

/** What becomes of a photograph. Where none is named, it is saved as a JPEG of quality 90 after that. */
interface Change {
  name: string;
  make(picture: Sharp, size: { width: number; height: number }): Sharp;
}

const cropped = (name: string, share: number, place: number): Change => ({
  name,
  make(picture, { width, height }) {
    const cut = { width: Math.round(width * share), height: Math.round(height * share) };
    const left = Math.round((width - cut.width) * place);
    const top = Math.round((height - cut.height) * place);
    return picture.extract({ left, top, ...cut });
  },
});

const scaled = (share: number): Change => ({
  name: `scaled to ${share * 100} %`,
  make: (picture, { width }) => picture.resize(Math.max(1, Math.round(width * share))),
});

const changes: readonly Change[] = [
  { name: 'JPEG, quality 90', make: (picture) => picture },
  { name: 'JPEG, quality 50', make: (picture) => picture.jpeg({ quality: 50 }) },
  { name: 'JPEG, quality 15', make: (picture) => picture.jpeg({ quality: 15 }) },
  { name: 'WebP, quality 75', make: (picture) => picture.webp({ quality: 75 }) },
  scaled(0.5),
  scaled(0.25),
  cropped('centre crop, 90 % a side', 0.9, 0.5),
  cropped('centre crop, 70 % a side', 0.7, 0.5),
  cropped('corner crop, 80 % a side', 0.8, 0),
  { name: 'mirrored', make: (picture) => picture.flop() },
  { name: 'turned by 5 degrees', make: (picture) => picture.rotate(5, { background: 'white' }) },
  { name: 'grey', make: (picture) => picture.greyscale() },
  { name: 'brighter by 30 %', make: (picture) => picture.modulate({ brightness: 1.3 }) },
];

const leastPhotographs = 200;
const deepest = 10;

export async function benchQuality(
  folders: readonly string[],
  options: { model: string; json: boolean },
): Promise<void> {
  const output = mkdtempSync(join(tmpdir(), 'lensmill-quality-'));
  const { values: settings } = resolveSettings({ model: options.model, logLevel: 'warn' }, process.env, {});
  const store = openStore(output, s3OptionsOf(settings));
  try {
    await store.probe();
    const flags = ['--model', options.model, '--output', output, '--run', 'originals'];
    // Rejects where a picture fails, for it could not be found.
    await execa(process.execPath, [main, 'index', ...folders, ...flags], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const run = await readRun(store, 'originals');
    const s3 = s3OptionsOf(settings);
    await buildIndex(store, { fingerprint: run.model.fingerprint, s3 });
    const index = await openIndex(store, { s3 });
    const { device } = resolveDevice(settings.device);
    const embedder = await openEmbedder(store, run, { device, settings, onNotice: console.error });
    try {
      const photographs = await index.list({ limit: 10_000 });
      if (photographs.length < leastPhotographs)
        throw new Error(`${photographs.length} photographs say little: give ${leastPhotographs}`);
      const vectors = await index.vectorsOf(photographs.map(({ key }) => key));
      const table: Record<string, Record<string, string>> = {};
      for (const change of changes) {
        let [first, among] = [0, 0];
        const cosines: number[] = [];
        for (const [at, { key, uri }] of photographs.entries()) {
          const original = await readFile(pathOfUri(uri));
          const [result] = await embedder.embed([{ content: await changeOf(original, change) }]);
          if (!result || 'error' in result) throw new Error(`${uri}, ${change.name}: ${result?.message}`);
          const hits = await index.search({ vectors: [result.embedding], k: deepest, exact: true });
          if (hits[0]?.key === key) first += 1;
          if (hits.some((hit) => hit.key === key)) among += 1;
          cosines.push(cosine(result.embedding, vectors[at] as Float32Array)); // one for each
        }
        const percent = (count: number): string => `${((100 * count) / photographs.length).toFixed(1)} %`;
        table[change.name] = {
          'recall@1': percent(first),
          'recall@10': percent(among),
          'cosine to the original, median': median(cosines).toFixed(3),
        };
        console.error(`${change.name}: ${percent(first)}`);
      }
      const { model } = index.record;
      const weights = model.untrained ? 'UNTRAINED random weights' : 'trained weights';
      const heading = `${model.ref} (${model.architecture}, ${model.precision}, ${weights}), ${photographs.length} photographs; by chance recall@1 is ${(100 / photographs.length).toFixed(1)} %`;
      if (options.json) console.log(JSON.stringify({ heading, table }));
      else {
        console.log(heading);
        console.table(table);
      }
    } finally {
      await Promise.all([index.close(), embedder.close()]);
    }
  } finally {
    await store.close();
    rmSync(output, { recursive: true, force: true });
  }
}

async function changeOf(original: Uint8Array, { make }: Change): Promise<Uint8Array> {
  // Upright first: what is cut and turned is what one sees.
  const { data, info } = await sharp(original)
    .autoOrient()
    .removeAlpha()
    .toBuffer({ resolveWithObject: true });
  const changed = await make(sharp(data), info).toBuffer({ resolveWithObject: true });
  const isSaved = ['jpeg', 'webp'].includes(changed.info.format);
  return isSaved ? changed.data : sharp(changed.data).jpeg({ quality: 90 }).toBuffer();
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: { model: { type: 'string', default: 'random:0' }, json: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  if (positionals.length === 0) throw new Error('give folders of photographs');
  await benchQuality(positionals, values);
}
