/** Probes over an output: labels, the rows that they name, heads, and what a head says of all rows. */
import { readFileSync, writeFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DuckDBInstance } from '@duckdb/node-api';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exportParts } from '../src/export.ts';
import { openMatrices } from '../src/infer.ts';
import { partKey } from '../src/layout.ts';
import { decodeHead, encodeHead, type Head, throwIfOtherModel } from '../src/models/head.ts';
import type { Objects } from '../src/objects/objects.ts';
import { openObjects } from '../src/objects/open-objects.ts';
import { collectExamples } from '../src/probe/examples.ts';
import { readLabels } from '../src/probe/labels.ts';
import { predictionFormats, predictionWriter, rankRows } from '../src/probe/predictions.ts';
import { readRun } from '../src/runs/run.ts';
import { openTable, tableParts } from '../src/runs/table.ts';
import { sourceUri } from '../src/sources/open-source.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { lensmill } from './helpers/cli.ts';
import { type Ends, embeddingValue, makeFinishedRun } from './helpers/finished-run.ts';
import { s3Defaults } from './helpers/s3-options.ts';
import { sourceDefaults } from './helpers/source-options.ts';
import { wrapStore } from './helpers/store-wrappers.ts';
import { tempFolder } from './helpers/temp.ts';

/** 48 images in 12 parts; two fail, of which a retry mends the first. */
const ids = Array.from({ length: 48 }, (_, n) => `${String(n).padStart(2, '0')}.jpg`);
const ends: Ends = Object.fromEntries(
  ids.map((id) => [id, id === '03.jpg' ? 'timeout' : id === '20.jpg' ? 'truncated' : 'ok']),
);

let folder: string;
let store: Store;
let objects: Objects;
let fingerprint: string;

beforeAll(async () => {
  folder = tempFolder();
  store = openStore(folder, s3Defaults);
  await store.probe();
  objects = openObjects(sourceDefaults);
  await makeFinishedRun(store, 'r', { ends });
  await makeFinishedRun(store, 'r.retry-1', {
    ends: { '03.jpg': 'ok', '20.jpg': 'truncated' },
    request: { retryOf: 'r' },
  });
  fingerprint = (await readRun(store, 'r')).model.fingerprint;
});
afterAll(async () => {
  await objects.close();
  await store.close();
});

/** An image's numbers are all one, which tells the class. */
const classOf = (id: string): string =>
  embeddingValue(id === '03.jpg' ? 'r.retry-1' : 'r', id) > 1.5 ? 'high' : 'low';

function listOf(text: string, name = 'labels.csv'): string {
  const path = join(tempFolder(), name);
  writeFileSync(path, text);
  return path;
}

const csvOf = (some: readonly string[]): string =>
  `id,label\n${some.map((id) => `${id},${classOf(id)}\n`).join('')}`;

const labelsOf = (text: string, name?: string, columns: { idColumn?: string; labelColumn?: string } = {}) =>
  readLabels(sourceUri(listOf(text, name)), objects, {
    idColumn: columns.idColumn,
    labelColumn: columns.labelColumn ?? 'label',
  });

async function collect(text: string, from = store) {
  const labels = await labelsOf(text);
  return collectExamples(from, tableParts(from, await openTable(from, 'r')), labels, {
    dimension: 2048,
    fingerprint,
  });
}

describe('labels', () => {
  test('come by id, URI or path, in any kind of list', async () => {
    const lines = '{"id":"b.jpg","label":7}\n{"id":"/photos/a b.jpg","label":"seven"}\n';
    expect(await labelsOf(lines, 'labels.jsonl')).toEqual({
      classes: ['7', 'seven'],
      byName: new Map([
        ['b.jpg', 0],
        ['file:///photos/a%20b.jpg', 1],
      ]),
    });
    const named = await labelsOf('kind\tpicture\nx\ta.jpg\n', 'labels.tsv', {
      idColumn: 'picture',
      labelColumn: 'kind',
    });
    expect(named.byName).toEqual(new Map([['a.jpg', 0]]));
  });

  test.each([
    ['id,label\na,x\na,y\n', 'bad-list', /line 3 .*'y'.*'x'/],
    ['id,label\na,\n', 'bad-list', /line 2 has no text or number in column 'label'/],
    ['id,kind\na,x\n', 'no-column', /no column label, it has id, kind: correct --label-column/],
    ['name,label\na,x\n', 'no-column', /correct --id-column/],
    ['id,label\n', 'bad-list', /names no picture/],
  ])('that are none are refused: %j', async (text, code, message) => {
    await expect(labelsOf(text)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });
});

describe('the labelled rows', () => {
  test('are read from the parts that have them, a mended one from its retry', async () => {
    const whole: string[] = [];
    const counting = wrapStore(store, {
      read: (key, range) => {
        if (!range && key.endsWith('.parquet')) whole.push(key);
        return store.read(key, range);
      },
    });
    const { examples, pictures, counts } = await collect(csvOf(['02.jpg', '03.jpg', '41.jpg']), counting);
    expect(whole.toSorted()).toEqual([partKey('r.retry-1', 0), partKey('r', 0), partKey('r', 10)]);
    expect(counts).toMatchObject({ labels: 3, used: 3, unknown: 0, failed: 0, copies: 0 });
    const values = [0, 1, 2].map((row) => examples.blocks[0]?.[row * 2048]);
    expect(values).toEqual([
      embeddingValue('r', '02.jpg'),
      embeddingValue('r.retry-1', '03.jpg'),
      embeddingValue('r', '41.jpg'),
    ]);
    expect(examples.blocks[0]).toHaveLength(3 * 2048);
    expect(pictures[1]?.sha256).toHaveLength(64);
  });

  test('go by their URIs too; who has no row, or a failed one, is counted', async () => {
    const uri = 'file:///nowhere/05.jpg';
    const { counts } = await collect(`uri,label\n${uri},x\n20.jpg,y\nnowhere.jpg,y\n`);
    expect(counts).toMatchObject({
      labels: 3,
      used: 1,
      failed: 1,
      unknown: 1,
      unknownNames: ['nowhere.jpg'],
    });
  });

  test('are none where the list is of other images, and both names are told', async () => {
    await expect(collect('id,label\na.png,x\nb.png,y\n')).rejects.toMatchObject({
      code: 'no-examples',
      message: expect.stringMatching(/'a\.png'.*'00\.jpg'/),
    });
  });
});

const head: Head = {
  record: {
    v: 1,
    lensmill: '0.1.0',
    classes: ['high', 'low', 'quoted, "so"'],
    model: { ref: 'random:0', fingerprint: 'f'.repeat(64), untrained: true, dimension: 2048 },
    run: 'r',
    training: {
      examples: 3,
      heldOut: 1,
      seed: 0,
      l2: 1,
      temperature: 1,
      accuracy: { share: 1, low: 0.2, high: 1 },
      baseline: 0.5,
      calibrationError: 0,
    },
  },
  // High and low by the mean of the numbers; the third never.
  weights: Float32Array.from({ length: 3 * 2048 }, (_, at) => (at < 2048 ? 8 / 2048 : 0)),
  biases: Float32Array.of(-12, 0, -30),
};

describe('a head', () => {
  test('is an ONNX file that says what it is', () => {
    const decoded = decodeHead(encodeHead(head), 'head.onnx');
    expect(decoded).toEqual(head);
    expect(encodeHead(head)).toEqual(encodeHead(decoded));
  });

  test('gives softmax(W·x + b) in ONNX Runtime', async () => {
    const matrices = await openMatrices(encodeHead(head), 1);
    const { probabilities } = await matrices.run({
      embedding: { values: new Float32Array(2 * 2048).fill(1).fill(2, 2048), columns: 2048 },
    });
    await matrices.release();
    const high = [8 - 12, 16 - 12].map((logit) => Math.exp(logit) / (Math.exp(logit) + 1));
    // Rounding of 2048 float32 sums.
    expect(probabilities?.[0]).toBeCloseTo(high[0] ?? 0, 5);
    expect(probabilities?.[3]).toBeCloseTo(high[1] ?? 0, 5);
  });

  test('that is damaged, or none, is refused', () => {
    const bytes = Buffer.from(encodeHead(head));
    const changed = (from: string, to: string) =>
      Buffer.from(bytes.toString('latin1').replaceAll(from, to), 'latin1');
    const decoding = (file: Uint8Array) => expect(() => decodeHead(file, 'x'));
    decoding(bytes.subarray(0, 100)).toThrow(expect.objectContaining({ code: 'bad-onnx' }));
    decoding(changed('lensmill-head', 'lensmill-tail')).toThrow(
      expect.objectContaining({ code: 'bad-head', message: expect.stringContaining('is no head') }),
    );
    for (const damaged of [changed('biases', 'biased'), changed('"v":1', '"v":2')])
      decoding(damaged).toThrow(
        expect.objectContaining({ code: 'bad-head', message: expect.stringContaining('damaged') }),
      );
  });

  test('fits no other embeddings, and both models are named', () => {
    const names = { file: 'head.onnx', of: 'run r' };
    expect(() => throwIfOtherModel(head, head.record.model, names)).not.toThrow();
    expect(() => throwIfOtherModel(head, { ref: 'other', fingerprint: 'e'.repeat(64) }, names)).toThrow(
      expect.objectContaining({
        code: 'wrong-head',
        message: expect.stringMatching(/random:0 \(ffffffffffff\).*run r.*other \(eeeeeeeeeeee\)/),
      }),
    );
  });
});

test('the best few of a row come best first, of equal ones the first', () => {
  const ranked = rankRows(Float32Array.of(0.1, 0.4, 0.4, 0.1, 0.7, 0.1, 0.15, 0.05), 4, 3);
  expect([...ranked.labels]).toEqual([1, 2, 0, 0, 2, 1]);
  expect([...ranked.scores]).toEqual([0.4, 0.4, 0.1, 0.7, 0.15, 0.1].map(Math.fround));
});

describe('predictions', () => {
  async function predict(format: (typeof predictionFormats)[number], change: Partial<Head> = {}) {
    const to = join(tempFolder(), 'out');
    const matrices = await openMatrices(encodeHead({ ...head, ...change }), 1);
    try {
      const parts = tableParts(store, await openTable(store, 'r'));
      const writer = predictionWriter(format, { matrices, record: head.record, topK: 2 });
      const request = { store, run: 'r', parts, to, rowsPerFile: 1_000_000 };
      return { to, manifest: await exportParts(request, writer, { format, head: head.record }) };
    } finally {
      await matrices.release();
    }
  }

  const wanted = ids.map((id) => ({
    id,
    status: id === '20.jpg' ? 'failed' : 'ok',
    label: id === '20.jpg' ? null : classOf(id),
  }));

  test('are a row an image, a failed one with its reason, alike in all formats', async () => {
    const [parquet, jsonl, csv] = await Promise.all(predictionFormats.map((format) => predict(format)));
    if (!parquet || !jsonl || !csv) throw new Error('there are three formats');
    expect(parquet.manifest).toMatchObject({
      format: 'parquet',
      rows: 48,
      ok: 47,
      failed: 1,
      runs: ['r', 'r.retry-1'],
    });
    expect((await readdir(parquet.to)).toSorted()).toEqual(['export.json', 'predictions-00000.parquet']);
    const duckdb = await (await DuckDBInstance.create()).connect();
    const query = `SELECT id, status, label, score, labels, error FROM '${parquet.to}/predictions-00000.parquet'`;
    const rows = (await duckdb.runAndReadAll(query)).getRowObjectsJson();
    duckdb.closeSync();
    expect(rows.map(({ id, status, label }) => ({ id, status, label }))).toEqual(wanted);
    expect(rows[20]).toMatchObject({ score: null, labels: null, error: 'truncated' });
    expect(rows.map(({ labels }) => (labels as number[] | null)?.[0] ?? null)).toEqual(
      wanted.map(({ label }) => (label === null ? null : head.record.classes.indexOf(label))),
    );

    const lines = readFileSync(join(jsonl.to, 'predictions-00000.jsonl'), 'utf8').trimEnd().split('\n');
    const objects = lines.map((line) => JSON.parse(line));
    expect(objects.map(({ id, status, label = null }) => ({ id, status, label }))).toEqual(wanted);
    expect(objects[20]).toEqual({
      id: '20.jpg',
      uri: 'file:///nowhere/20.jpg',
      status: 'failed',
      error: 'truncated',
      message: '20.jpg is truncated',
    });
    expect(objects.map(({ score = null }) => score && Math.fround(score))).toEqual(
      rows.map(({ score }) => score && Math.fround(Number(score))),
    );

    const table = readFileSync(join(csv.to, 'predictions-00000.csv'), 'utf8').split('\r\n');
    expect(table[0]).toBe('id,uri,status,label,score,error,message');
    expect(table.slice(1, -1).map((line) => line.split(',')[3] || null)).toEqual(
      wanted.map(({ label }) => label),
    );
  });

  test('put a name with a comma in quotes', async () => {
    const { to } = await predict('csv', { biases: Float32Array.of(-12, 0, 30) });
    const [, line] = readFileSync(join(to, 'predictions-00000.csv'), 'utf8').split('\r\n');
    expect(line).toContain(',ok,"quoted, ""so""",1,,');
  });
});

test('a probe is trained, described and applied from the command line', async () => {
  const place = tempFolder();
  const to = join(place, 'head.onnx');
  const labels = listOf(`${csvOf(ids)}nowhere.jpg,low\n`);
  const trained = await lensmill(['probe', 'train', folder, labels, '--to', to, '--json']);
  expect(trained.stderr).not.toContain('lensmill:');
  expect(trained.exitCode).toBe(0);
  const report = JSON.parse(trained.stdout);
  // One number tells the classes apart, so all that is held out is right, or nearly.
  expect(report).toMatchObject({
    file: to,
    record: { classes: ['high', 'low'], model: { fingerprint, untrained: true }, run: 'r' },
    labels: { labels: 49, used: 47, failed: 1, unknown: 1, unknownNames: ['nowhere.jpg'] },
  });
  expect(report.heldOut.accuracy.share).toBeGreaterThan(0.7);

  const info = await lensmill(['probe', 'info', to]);
  expect(info.stdout).toContain('UNTRAINED');
  expect(info.stdout).toContain(report.sha256);

  const out = join(place, 'predictions');
  const applied = await lensmill(['probe', 'apply', folder, to, '--to', out, '--format', 'csv', '--json']);
  expect(JSON.parse(applied.stdout)).toMatchObject({
    format: 'csv',
    head: { sha256: report.sha256 },
    rows: 48,
    ok: 47,
    failed: 1,
  });
});
