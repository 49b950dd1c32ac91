/** What a precision certificate says, and when there is none. */
import { appendFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { readCertificates } from '../src/certificate.ts';
import { measureAgreement, type Rows, shareOf, shortfallsOf } from '../src/certify.ts';
import { certificateText } from '../src/cli/certificate.ts';
import type { Context } from '../src/cli/command.ts';
import { certifyRun, certifySource } from '../src/cli/trial.ts';
import { sampleItems } from '../src/sample.ts';
import type { SettingName } from '../src/settings/table.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { uniform } from '../src/uniform.ts';
import { lensmill, smallModel } from './helpers/cli.ts';
import { contextOf as contextWith } from './helpers/context.ts';
import { itemsOf, listerOf } from './helpers/finished-run.ts';
import { indexHere } from './helpers/index-here.ts';
import { photographs } from './helpers/photographs.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { tempFolder } from './helpers/temp.ts';

const thresholds = { cosine: 0.99, top1: 0.95, recall: 0.9 };

/** An embedding each, and the same labels for all. */
function rowsOf(embeddings: readonly (readonly number[])[], topK = 2): Rows {
  return {
    embeddings: Float32Array.from(embeddings.flat()),
    labels: Int32Array.from(embeddings.flatMap(() => Array.from({ length: topK }, (_, label) => label))),
  };
}

async function measure(reference: Rows, candidate: Rows, topK = 2) {
  const dimension = (reference.embeddings.length * topK) / reference.labels.length;
  return measureAgreement(reference, candidate, { dimension, topK });
}

/** Directions in a plane, in degrees. */
const compass = (degrees: readonly number[]): number[][] =>
  degrees.map((degree) => [Math.cos((degree * Math.PI) / 180), Math.sin((degree * Math.PI) / 180)]);

/** Thirty directions, each farther from the one before it than that one is from its own. */
const fan = Array.from({ length: 30 }, (_, n) => (n * (n + 9)) / 10);

describe('figures', () => {
  test('a model agrees with itself wholly', async () => {
    const rows = rowsOf(compass(fan));
    const { agreement } = await measure(rows, rows);
    expect(agreement).toMatchObject({
      images: 30,
      notFinite: 0,
      top1: { count: 30, share: 1, high: 1 },
      labels: { k: 2, overlap: 1 },
      nearest: { count: 30 },
      recall: { k: 10, share: 1 },
    });
    expect(agreement.cosine.least).toBeCloseTo(1, 6);
    expect(shortfallsOf(agreement, thresholds)).toEqual([]);
  });

  test('embeddings that all turn alike are found as before, and their cosine says how far they turned', async () => {
    const turned = fan.map((degree) => degree + 10);
    const { agreement } = await measure(rowsOf(compass(fan)), rowsOf(compass(turned)));
    expect(agreement.cosine.median).toBeCloseTo(Math.cos((10 * Math.PI) / 180), 6);
    expect(agreement).toMatchObject({ nearest: { share: 1 }, recall: { share: 1 } });
    expect(shortfallsOf(agreement, thresholds)).toEqual(['the median cosine is 0.9848, less than 0.99']);
  });

  test('one image that is elsewhere is the least, and its neighbours miss it', async () => {
    const moved = fan.with(0, 180);
    const { agreement, cosines } = await measure(rowsOf(compass(fan)), rowsOf(compass(moved)));
    expect(agreement.cosine).toMatchObject({ least: expect.closeTo(-1), p1: expect.closeTo(-1) });
    expect(agreement.cosine.median).toBeCloseTo(1, 6);
    expect(cosines[0]).toBe(agreement.cosine.least);
    // Image 0 finds others, and image 1 now finds 2.
    expect(agreement.nearest.count).toBe(28);
  });

  test('of two pictures that look the same, either may be found', async () => {
    const twins = fan.with(1, fan[0] as number);
    // The candidate tells the twins apart and image 2, next to both, finds the other one.
    const parted = twins.with(0, (twins[0] as number) + 0.1);
    const { agreement } = await measure(rowsOf(compass(twins)), rowsOf(compass(parted)));
    expect(agreement.nearest.count).toBe(30);
    expect(agreement.recall.share).toBe(1);
  });

  test('a model that maps everything to one direction fails by recall, however near it is', async () => {
    const wide = fan.map((degree) => degree / 100);
    const blind = fan.map(() => 0.5);
    const { agreement } = await measure(rowsOf(compass(wide)), rowsOf(compass(blind)));
    expect(agreement.cosine.median).toBeGreaterThan(0.999);
    expect(shortfallsOf(agreement, thresholds)).toEqual([expect.stringContaining('recall@10')]);
  });

  test('an embedding that overflows agrees with nothing, and is a shortfall by itself', async () => {
    const broken = compass(fan).with(3, [Number.POSITIVE_INFINITY, 1]).with(4, [Number.NaN, 1]);
    const { agreement } = await measure(rowsOf(compass(fan)), rowsOf(broken));
    expect(agreement).toMatchObject({ notFinite: 2, cosine: { least: 0 }, nearest: { count: 27 } });
    // The two, and the one that should have found the second.
    const lenient = { cosine: 0, top1: 0, recall: 0 };
    expect(shortfallsOf(agreement, lenient)).toEqual([expect.stringContaining('2 embeddings')]);
  });

  test('a label counts as the first, and as one of several in any order', async () => {
    const reference = rowsOf(compass(fan));
    const candidate = rowsOf(compass(fan));
    candidate.labels.set([1, 0, 0, 7, 8, 9]); // swapped; the second is another; both are others
    const { agreement } = await measure(reference, candidate);
    expect(agreement.top1.count).toBe(28);
    expect(agreement.labels.overlap).toBeCloseTo((2 + 1 + 0 + 27 * 2) / 60);
    expect(shortfallsOf(agreement, thresholds)).toEqual([expect.stringContaining('top-1')]);
  });

  test.each([
    [95, 100, 0.8882, 0.9785],
    [0, 10, 0, 0.2775],
    [10, 10, 0.7225, 1],
  ])("%i of %i have Wilson's interval", (count, of, low, high) => {
    const share = shareOf(count, of);
    expect([share.low, share.high]).toEqual([expect.closeTo(low, 4), expect.closeTo(high, 4)]);
  });

  test('neighbours are those that plain arithmetic finds, whatever the sizes', async () => {
    const sizes = {
      seed: fc.integer(),
      images: fc.integer({ min: 20, max: 75 }),
      dimension: fc.integer({ min: 2, max: 9 }),
    };
    await fc.assert(
      fc.asyncProperty(fc.record(sizes), async ({ seed, images, dimension }) => {
        const random = uniform(seed);
        const drawRows = (): number[][] =>
          Array.from({ length: images }, () => Array.from({ length: dimension }, () => random() - 0.2));
        const [reference, candidate] = [drawRows(), drawRows()];
        const { agreement } = await measure(rowsOf(reference), rowsOf(candidate));
        const plain = plainNeighbours(reference, candidate);
        expect(agreement.nearest.count).toBe(plain.nearest);
        expect(agreement.recall.share).toBeCloseTo(plain.recall, 9);
      }),
      { numRuns: 25 },
    );
  });
});

function plainNeighbours(reference: number[][], candidate: number[][]) {
  const cosine = (a: number[], b: number[]): number => {
    const dot = (p: number[], q: number[]): number =>
      p.reduce((sum, value, at) => sum + value * (q[at] ?? 0), 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  };
  const nearestTo = (rows: number[][], self: number): number[] =>
    rows
      .map((row, at) => ({ at, near: at === self ? -2 : cosine(rows[self] ?? [], row) }))
      .sort((a, b) => b.near - a.near)
      .slice(0, 10)
      .map(({ at }) => at);
  let [nearest, recall] = [0, 0];
  for (const self of reference.keys()) {
    const [wanted, found] = [nearestTo(reference, self), nearestTo(candidate, self)];
    const byReference = (at = 0): number => cosine(reference[self] ?? [], reference[at] ?? []);
    if (byReference(found[0]) >= byReference(wanted[0]) - 1e-6) nearest += 1;
    recall += found.filter((at) => byReference(at) >= byReference(wanted[9]) - 1e-6).length / 10;
  }
  return { nearest, recall: recall / reference.length };
}

describe('a sample of a source', () => {
  const ids = Array.from({ length: 500 }, (_, n) => `photo-${String(n).padStart(3, '0')}.jpg`);
  const draw = async (from: readonly string[], count: number, name = 'certify') =>
    (await sampleItems(listerOf(itemsOf(from)), { count, name })).map(({ id }) => id);

  test('is the same each time, ordered by id, and of another name another', async () => {
    const sample = await draw(ids, 40);
    expect(sample).toHaveLength(40);
    expect(sample).toEqual([...new Set(sample)].sort());
    expect(await draw(ids, 40)).toEqual(sample);
    expect(await draw(ids, 40, 'other')).not.toEqual(sample);
  });

  test('holds every smaller one, and an image more or less changes at most one of it', async () => {
    const sample = await draw(ids, 40);
    expect(await draw(ids, 60)).toEqual(expect.arrayContaining(sample));
    const grown = await draw([...ids, 'photo-999.jpg'], 40);
    expect(grown.filter((id) => !sample.includes(id)).length).toBeLessThanOrEqual(1);
    expect(await draw(ids.slice(0, 7), 40)).toEqual(ids.slice(0, 7));
  });

  test('has no image of one that it is to be kept apart from', async () => {
    const without = { count: 100, name: 'other' };
    const others = await draw(ids, 100, 'other');
    const source = listerOf(itemsOf(ids));
    const sample = await sampleItems(source, { count: 450, name: 'certificate', without });
    expect(sample.map(({ id }) => id)).toEqual(ids.filter((id) => !others.includes(id)));
    expect(await sampleItems(source, { count: 40, name: 'certificate', without })).toHaveLength(40);
  });

  test('is drawn from all of the listing alike', async () => {
    const sample = await draw(ids, 100);
    const perFifth = [0, 1, 2, 3, 4].map(
      (fifth) => sample.filter((id) => Math.floor(ids.indexOf(id) / 100) === fifth).length,
    );
    // Twenty each, give or take four standard deviations.
    for (const count of perFifth) expect(Math.abs(count - 20)).toBeLessThan(16);
  });
});

describe('on photographs', () => {
  const photos = join(tempFolder(), 'photos');
  const cache = tempFolder();

  beforeAll(async () => {
    // Windows of one photograph, each its own JPEG.
    mkdirSync(join(photos, 'part-0'), { recursive: true });
    const [photograph = ''] = await photographs();
    const scene = await sharp(photograph).resize(700, 500).removeAlpha().png().toBuffer();
    for (let n = 0; n < 30; n++) {
      const window = { left: (n % 6) * 60, top: Math.floor(n / 6) * 50, width: 400, height: 300 };
      const file = join(photos, `part-0/${String(n).padStart(5, '0')}.jpg`);
      await sharp(scene).extract(window).jpeg().toFile(file);
    }
    const first = readFileSync(join(photos, 'part-0/00000.jpg'));
    writeFileSync(join(photos, 'part-0/twin.jpg'), first);
    writeFileSync(join(photos, 'part-0/half.jpg'), first.subarray(0, 9000));
  });

  function contextOf(flags: Partial<Record<SettingName, unknown>>): Context {
    return contextWith({
      model: smallModel,
      device: 'cpu',
      lanes: 1,
      sessions: 1,
      cacheDir: cache,
      ...flags,
    });
  }

  async function newStore(): Promise<Store> {
    const store = openStore(tempFolder(), s3Defaults);
    await store.probe();
    return store;
  }

  test('what a run has stored is held against fp32; an image that changed since is left out', async () => {
    const folder = join(tempFolder(), 'photos');
    cpSync(photos, folder, { recursive: true });
    const store = await newStore();
    const context = contextOf({ model: 'null', precision: 'fp16', embedding: 'float16' });
    const { model } = await indexHere(context, store, { id: 'night', sources: [folder] });
    appendFileSync(join(folder, 'part-0/00007.jpg'), 'more');
    const made = await certifyRun(context, store, 'night');
    expect(made).toMatchObject({
      candidate: { model, device: 'cpu', run: 'night', embedding: 'float16' },
      sample: {
        heldOut: null,
        drawn: 32,
        twice: 1,
        unusable: [
          { id: 'part-0/00007.jpg', why: expect.stringMatching(/^changed: /) },
          { id: 'part-0/half.jpg', why: 'failed in the run: truncated' },
        ],
      },
      agreement: { images: 29 },
      imagesPerSecond: null,
      shortfalls: [],
    });
  });

  test('int8 is measured on images that it was not calibrated on; what falls short is told by the exit code', async () => {
    const output = tempFolder();
    const flags = ['--model', smallModel, '--output', output, '--cache', cache, '--lanes', '1'];
    const strict = ['--min-cosine', '1', '--min-top1', '0', '--min-recall', '0'];
    const int8 = ['--precision', 'int8', '--calibration-images', '8'];
    const { exitCode, stdout } = await lensmill(['certify', photos, ...flags, ...int8, ...strict, '--json']);
    expect(exitCode).toBe(1);
    const { passed, stored, ...made } = JSON.parse(stdout);
    expect(passed).toBe(false);
    expect(made).toMatchObject({
      candidate: { model: { precision: 'int8', untrained: true }, device: 'cpu', run: null },
      reference: { model: { precision: 'fp32' }, device: 'cpu' },
      sample: { heldOut: 8, drawn: 24 },
      shortfalls: [expect.stringContaining('the median cosine')],
    });
    const { images, cosine } = made.agreement;
    expect(images).toBe(24 - made.sample.twice - made.sample.unusable.length);
    // A byte a number, of a network of four blocks.
    expect(cosine.least).toBeGreaterThan(0.99);
    expect(cosine.median).toBeLessThan(1);
    expect(made.worst[0].cosine).toBe(cosine.least);

    const store = openStore(output, s3Defaults);
    const [kept, ...others] = await readCertificates(store, made.candidate.model.fingerprint);
    expect(others).toEqual([]);
    expect(kept).toEqual({ ...made, key: expect.any(String) });
    expect(stored).toBe(`${store.uri}/${kept?.key}`);
    expect(certificateText(made)).toMatch(
      /UNTRAINED[\s\S]*int8 against fp32: NOT PASSED[\s\S]*none of the 8 for calibration/,
    );
  });

  test('an interrupted one ends between two batches', async () => {
    const stop = new AbortController();
    const show = (line = ''): void => {
      if (line.includes('/32 images')) stop.abort(new Error('stopped here'));
    };
    const terminal = { isLive: true, writeLine: () => {}, show };
    const context = {
      ...contextOf({ model: 'null', precision: 'fp16' }),
      terminal,
      interrupted: stop.signal,
    };
    await expect(certifySource(context, [photos])).rejects.toThrow('stopped here');
  });

  test.each([
    ['fp32 against itself', { precision: 'fp32' }, 'nothing-to-certify'],
    ['of too few images', { precision: 'fp16', include: ['**/0000*.jpg'] }, 'sample-too-small'],
  ])('there is no certificate %s', async (_, flags, code) => {
    await expect(certifySource(contextOf(flags), [photos])).rejects.toMatchObject({ code });
  });
});
