/** What rows may hold beside what all do: features from within the network, and what a head says. */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { calibrate } from '../src/calibrate.ts';
import { compareRow } from '../src/checks/compare.ts';
import { verifyDeep } from '../src/cli/deep.ts';
import { exportRun } from '../src/export.ts';
import { openMatrices } from '../src/infer.ts';
import { partKey } from '../src/layout.ts';
import { encodeHead, type Head } from '../src/models/head.ts';
import {
  type Model,
  quantiseModel,
  type ResolveOptions,
  resolveModel,
  writeOnnx,
} from '../src/models/model.ts';
import { widenGraph } from '../src/models/widen.ts';
import { encodePart, readPart, readStoredPart } from '../src/parts/part.ts';
import { numbersAt, type RowExtras, type RowNumbers, rowShape } from '../src/parts/row-extras.ts';
import { planNewRun } from '../src/producer/plan-run.ts';
import { findRequest, needsOf, type Run } from '../src/runs/run.ts';
import { openView, viewParts } from '../src/runs/view.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import type { ShardRows } from '../src/types.ts';
import { verifyRun } from '../src/verify.ts';
import { smallModel } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { embeddingValue, forgePart, itemsOf, makeFinishedRun } from './helpers/finished-run.ts';
import { paintPixels, relativeError, runGraph } from './helpers/graphs.ts';
import { indexHere } from './helpers/index-here.ts';
import { makePhotoArchive } from './helpers/photo-archive.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { makeProvenance, makeShardRows } from './helpers/shard-rows.ts';
import { tempFolder } from './helpers/temp.ts';

const side = 64;
const options: ResolveOptions = {
  cacheDir: join(tempFolder(), 'cache'),
  resizeMode: 'exact',
  preprocessing: { resize: side, crop: side },
};
const pixels = paintPixels(2, side);
const features = [
  { layer: 'layer1', length: 256 },
  { layer: 'layer3', length: 1024 },
] as const;

let floats: Model;

beforeAll(async () => {
  floats = await resolveModel(smallModel, options);
});

/** Three classes, by numbers that are spread about. */
function headFor({ identity }: Pick<Model, 'identity'>): Head {
  const { ref, fingerprint, untrained, dimension } = identity;
  const accuracy = { share: 0.5, low: 0.2, high: 0.8 };
  const training = {
    examples: 20,
    heldOut: 5,
    seed: 0,
    l2: 1,
    temperature: 1,
    accuracy,
    baseline: 0.4,
    calibrationError: 0,
  };
  return {
    record: {
      v: 1,
      lensmill: '0.1.0',
      classes: ['a', 'b', 'c'],
      model: { ref, fingerprint, untrained, dimension },
      run: 'r',
      training,
    },
    weights: Float32Array.from({ length: 3 * dimension }, (_, at) => Math.sin(at) / 50),
    biases: Float32Array.of(0.1, 0, -0.1),
  };
}

function widen(model: Model, extras: { head?: Head; features?: readonly (typeof features)[number][] }) {
  const { ref, dimension } = model.identity;
  return widenGraph(model.build(5), {
    ref,
    dimension,
    topK: 5,
    head: extras.head && { head: extras.head, topK: 2 },
    features: extras.features ?? [],
  });
}

describe('a wider graph', () => {
  test.each(['fp32', 'fp16', 'int8'] as const)(
    'in %s makes what the plain one does, and the rest behind it',
    async (precision) => {
      const model =
        precision === 'int8'
          ? quantiseModel(
              floats,
              await calibrate(
                floats,
                Array.from({ length: 8 }, (_, seed) => paintPixels(1, side, seed + 5)),
                { threads: 1 },
              ),
            )
          : await resolveModel(smallModel, { ...options, precision });
      const head = headFor(model);
      const plain = await runGraph(model.build(5), pixels, side);
      const wide = await runGraph(widen(model, { head, features }), pixels, side);
      const width = 2048 + 256 + 1024;
      expect([wide.embedding?.length, wide.scores?.length, wide.labels?.length]).toEqual([2 * width, 14, 14]);
      for (const row of [0, 1]) {
        expect(wide.embedding?.slice(row * width, row * width + 2048)).toEqual(
          plain.embedding?.slice(row * 2048, (row + 1) * 2048),
        );
        expect(wide.scores?.slice(row * 7, row * 7 + 5)).toEqual(plain.scores?.slice(row * 5, row * 5 + 5));
        expect(wide.labels?.slice(row * 7, row * 7 + 5)).toEqual(plain.labels?.slice(row * 5, row * 5 + 5));
      }
      const matrices = await openMatrices(encodeHead(head), 1);
      const { probabilities } = await matrices.run({
        embedding: { values: plain.embedding as Float32Array, columns: 2048 },
      });
      await matrices.release();
      for (const row of [0, 1]) {
        const best = [0, 1, 2].toSorted(
          (a, b) => (probabilities?.[row * 3 + b] ?? 0) - (probabilities?.[row * 3 + a] ?? 0),
        );
        expect([...(wide.labels?.slice(row * 7 + 5, row * 7 + 7) ?? [])]).toEqual(best.slice(0, 2));
        // Another kernel may round sums of 2048 numbers otherwise.
        expect(wide.scores?.[row * 7 + 5]).toBeCloseTo(probabilities?.[row * 3 + (best[0] ?? 0)] ?? 0, 5);
      }
    },
  );

  test("has the mean over each channel of a stage's last block", async () => {
    // The same nodes, with the block itself as an output: averaged here.
    const graph = floats.build(1);
    const block = 'layer3.0.relu3';
    graph.proto.graph?.output?.push({ name: block });
    const { [block]: made = new Float32Array(0) } = await runGraph(graph, pixels, side);
    const maps = [...made];
    const area = (side / 16) ** 2;
    const means = Float32Array.from(
      { length: 2 * 1024 },
      (_, at) => maps.slice(at * area, (at + 1) * area).reduce((sum, value) => sum + value, 0) / area,
    );
    const [, layer3] = features;
    const wide = await runGraph(widen(floats, { features: [layer3] }), pixels, side);
    const width = 2048 + 1024;
    for (const row of [0, 1])
      expect(
        relativeError(
          wide.embedding?.slice(row * width + 2048, (row + 1) * width) ?? [],
          means.slice(row * 1024, (row + 1) * 1024),
        ),
      ).toBeLessThan(1e-5);
  });

  test('is made of an .onnx of ours too; of a graph without stages only a head', async () => {
    const file = join(tempFolder(), 'own.onnx');
    await writeOnnx(floats, file, { topK: 5 });
    const own = await resolveModel(file, options);
    const wide = await runGraph(widen(own, { features }), pixels, side);
    expect(wide.embedding).toHaveLength(2 * (2048 + 256 + 1024));
    const none = await resolveModel('null', options);
    expect(() => widen(none, { features })).toThrow(expect.objectContaining({ code: 'no-features' }));
    const headed = await runGraph(widen(none, { head: headFor(none) }), pixels, side);
    expect(headed.scores).toHaveLength(14);
  });
});

const extras: RowExtras = {
  head: { sha256: 'a'.repeat(64), classes: ['a', 'b', 'c'], topK: 2 },
  features: [{ layer: 'layer3', length: 1024 }],
};

const shape = { dimension: 2048, topK: 5, embeddingType: 'float32' } as const;

describe('a part', () => {
  test('keeps each in a column of its own, and gives the row again', () => {
    const rows = makeShardRows(20, rowShape({ ...extras, topK: 5, model: { dimension: 2048 } }));
    const part = readPart(encodePart(rows, makeProvenance(extras), shape), 'part');
    expect(part.footer).toMatchObject(extras);
    expect([part.headLabels.length, part.headScores.length, part.features[0]?.length]).toEqual([
      40,
      40,
      20 * 1024,
    ]);
    for (const [row, { status }] of rows.outcomes.entries()) {
      if (status !== 'ok') continue;
      const { embedding, scores, labels } = numbersAt(part, row);
      expect(embedding).toEqual(rows.embeddings.slice(row * 3072, (row + 1) * 3072));
      expect(scores).toEqual(rows.scores.slice(row * 7, (row + 1) * 7));
      expect(labels).toEqual(rows.labels.slice(row * 7, (row + 1) * 7));
    }
  });

  test('of a run that asks for none is what it was before there were any, to the byte', () => {
    const hashes = (['float32', 'float16'] as const).map((embeddingType) => {
      const part = encodePart(makeShardRows(20), makeProvenance(), { ...shape, embeddingType });
      return createHash('sha256').update(part).digest('hex');
    });
    // As commit 2635de9 wrote them.
    expect(hashes).toEqual([
      'db3115fc9c43bbeba93e3b17e513e4d51b26a7699f92da54a600ba1aba220f0d',
      'fd5294ba718fad29aa4ea4d995e0ce3eca247c39ea3cd50b758fdf40a77481c6',
    ]);
  });
});

describe('an image that is done again', () => {
  const making = {
    topK: 1,
    model: { dimension: 2 },
    head: { sha256: '', classes: ['a', 'b'], topK: 2 },
    features: [
      { layer: 'layer1' as const, length: 2 },
      { layer: 'layer3' as const, length: 1 },
    ],
  };
  // Numbers of layer3 are so much larger that those of layer1 would drown beside them.
  const was = {
    embedding: Float32Array.of(1, 2, 0.01, 0.02, 9000),
    scores: Float32Array.of(0.5, 0.7, 0.3),
    labels: Int32Array.of(7, 1, 0),
  };
  const row = { error: null, sha256: 'x', whole: was };
  const outcome = { status: 'ok', sha256: 'x', bytes: 1, width: 1, height: 1, format: 'jpeg' } as const;
  const verdict = (change: Partial<RowNumbers>) =>
    compareRow(row, { outcome, ...was, ...change }, { distance: 1e-3, reason: '' }, making);

  test('is held to each of its features, and to what its head says', () => {
    expect(verdict({})).toEqual({ verdict: 'same', distance: 0 });
    expect(verdict({ embedding: Float32Array.of(1, 2, 0.01, 0.021, 9000) })).toMatchObject({
      verdict: 'differs',
      why: expect.stringMatching(/features of layer1/),
    });
    expect(verdict({ embedding: Float32Array.of(1, 2, 0.01, 0.02, 9100) })).toMatchObject({
      verdict: 'differs',
      why: expect.stringMatching(/features of layer3/),
    });
    expect(verdict({ scores: Float32Array.of(0.5, 0.8, 0.2) })).toMatchObject({
      verdict: 'differs',
      why: expect.stringMatching(/head's label 0/),
    });
  });
});

describe('an output', () => {
  let store: Store;
  beforeAll(async () => {
    store = openStore(tempFolder(), s3Defaults);
    await store.probe();
    await makeFinishedRun(store, 'r', { ends: { a: 'ok', b: 'timeout', c: 'ok' }, request: extras });
  });

  test('with a retry gives its rows with all they have, under their names', async () => {
    await makeFinishedRun(store, 'r.retry-1', { ends: { b: 'ok' }, request: { ...extras, retryOf: 'r' } });
    const to = join(tempFolder(), 'out');
    const view = await openView(store, 'r');
    await exportRun({
      store,
      run: 'r',
      parts: viewParts(store, view),
      to,
      format: 'jsonl',
      rowsPerFile: 100,
    });
    const lines = readFileSync(join(to, 'images-00000.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toHaveLength(3);
    for (const [at, run] of ['r', 'r.retry-1', 'r'].entries()) {
      const row = lines[at];
      const value = embeddingValue(run, row.id);
      expect(row).toMatchObject({
        status: 'ok',
        headLabels: [1, 1],
        headLabelNames: ['b', 'b'],
        headScores: [0.100000001, 0.100000001],
      });
      expect([row.embedding.length, row.features_layer3.length]).toEqual([2048, 1024]);
      expect([row.embedding[0], row.features_layer3[1023]]).toEqual([value, value]);
    }
  });

  test('is not sound where an ok row has no features, or its head says nothing of it', async () => {
    const folder = tempFolder();
    const forged = openStore(folder, s3Defaults);
    await forged.probe();
    const { run } = await makeFinishedRun(forged, 's', { ends: { a: 'ok', b: 'ok' }, request: extras });
    const { footer } = await readStoredPart(forged, partKey('s', 0));
    const problemsWith = async (change: (rows: ShardRows) => void): Promise<string[]> => {
      const rows = makeShardRows(2, { ...rowShape(run), isFailed: () => false });
      change(rows);
      forgePart(folder, 's', 0, encodePart({ ...rows, items: itemsOf(['a', 'b']) }, footer, shape));
      return (await verifyRun(forged, run, (await openView(forged, 's')).success)).problems;
    };
    expect(await problemsWith(() => {})).toEqual([]);
    const found = expect.arrayContaining([expect.stringMatching(/row 1 is ok and has no features/)]);
    expect(await problemsWith(({ embeddings }) => embeddings.fill(0, 3072 + 2048))).toEqual(found);
    expect(await problemsWith(({ scores }) => scores.fill(Number.NaN, 7 + 5))).toEqual(found);
  });

  test('needs workers that make the same', async () => {
    const { run } = await openView(store, 'r');
    const plain = { ...run, head: undefined, features: undefined };
    expect(needsOf(run).model).toBe(`${needsOf(plain).model}, head ${'a'.repeat(64)} top 2, layer3`);
  });
});

describe('a run', () => {
  const photos = join(tempFolder(), 'photos');
  const output = tempFolder();
  const headFile = join(tempFolder(), 'head.onnx');
  let store: Store;
  let run: Run;

  const context = (changes: Record<string, unknown> = {}) =>
    contextOf({
      model: smallModel,
      output,
      cacheDir: options.cacheDir,
      device: 'cpu',
      lanes: 1,
      shardSize: 4,
      ...changes,
    });

  beforeAll(async () => {
    await makePhotoArchive(photos, 6);
    store = openStore(output, s3Defaults);
    await store.probe();
    const model = await resolveModel(smallModel, { cacheDir: options.cacheDir, resizeMode: 'exact' });
    writeFileSync(headFile, encodeHead(headFor(model)));
    run = await indexHere(context({ head: headFile, features: ['layer3', 'layer1'] }), store, {
      id: 'rich',
      sources: [photos],
    });
  }, 60_000);

  test('says what its rows hold, and keeps the head beside the weights', async () => {
    const request = await findRequest(store, 'rich');
    expect(request).toMatchObject({ head: { classes: ['a', 'b', 'c'], topK: 3 }, features });
    expect(await store.head(`models/${request?.head?.sha256}.onnx`)).toBeDefined();
  });

  test('has in its parts what the head says of the embedding that stands there', async () => {
    const [part] = (await openView(store, 'rich')).success.parts;
    const table = await readStoredPart(store, part?.key ?? '');
    const matrices = await openMatrices(encodeHead(headFor({ identity: run.model })), 1);
    const { probabilities } = await matrices.run({ embedding: { values: table.embeddings, columns: 2048 } });
    await matrices.release();
    for (const [row, status] of table.statuses.entries()) {
      if (status !== 'ok') continue;
      for (let at = 0; at < 3; at++) {
        const label = table.headLabels[row * 3 + at] ?? -1;
        expect(table.headScores[row * 3 + at]).toBeCloseTo(probabilities?.[row * 3 + label] ?? -1, 5);
      }
    }
    expect(table.features.map((stage) => stage.length / table.ids.length)).toEqual([256, 1024]);
  });

  test('is sound, and its images give the same again', async () => {
    const report = await verifyRun(store, run, (await openView(store, 'rich')).success);
    expect(report.problems).toEqual([]);
    const deep = await verifyDeep(context(), store, 'rich', { count: 4, seed: 1 });
    expect(deep).toMatchObject({ sampled: 4, same: 4, different: [] });
  });

  test('by another model refuses the head, by a graph without stages the features', async () => {
    const plan = (changes: Record<string, unknown>) =>
      planNewRun(context(changes), store, [photos], { run: 'x' });
    await expect(plan({ model: 'random:1:1-1-1-1', head: headFile })).rejects.toMatchObject({
      code: 'wrong-head',
    });
    await expect(plan({ model: 'null', features: ['layer3'] })).rejects.toMatchObject({
      code: 'no-features',
    });
    await expect(plan({ head: join(output, 'none.onnx') })).rejects.toMatchObject({ code: 'no-head' });
  });

  test('of other extras does not go on from it', async () => {
    const planned = planNewRun(context(), store, [photos], { run: 'y', since: 'rich' });
    await expect(planned).rejects.toMatchObject({
      code: 'other-model',
      message: expect.stringContaining('layer1, layer3'),
    });
  });
});
