/**
 * Parity with torchvision: its ResNets' answers to real photographs, with weights that lensmill made. See
 * fixtures/reference/README.md; LENSMILL_REFERENCE names another folder that make.py filled.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { resolveModel } from '../src/models/model.ts';
import { valueInfo } from '../src/models/onnx.ts';
import { encodeSafetensors } from '../src/models/safetensors.ts';
import { relativeError, runGraph } from './helpers/graphs.ts';
import { tempFolder } from './helpers/temp.ts';

interface Reference {
  madeBy: string;
  /** Every so many numbers of a picture are kept. */
  steps: { logits: number; embedding: number };
  models: Record<string, { parameters: number; weights: string; answers: Answer[] }>;
}

interface Answer {
  picture: string;
  top5: number[];
  scores: number[];
  /** float32, little-endian, base64. */
  logits: string;
  embedding: string;
}

const folder = process.env.LENSMILL_REFERENCE ?? join(import.meta.dirname, 'fixtures/reference');
const reference: Reference = JSON.parse(readFileSync(join(folder, 'answers.json'), 'utf8'));

test.each(Object.entries(reference.models))(
  '%s answers as torchvision does',
  async (name, { parameters, weights, answers }) => {
    expect(answers.length).toBeGreaterThanOrEqual(5);
    const options = { cacheDir: tempFolder(), resizeMode: 'exact', precision: 'fp32' } as const;
    const model = await resolveModel(`random:0:${name}`, options);
    expect(model.parameters).toBe(parameters);

    // The seed gives, bit for bit, the weights that torchvision was given: on this machine, under this V8.
    const hash = createHash('sha256');
    for (const chunk of encodeSafetensors(model.network?.tensors ?? new Map())) hash.update(chunk);
    expect(hash.digest('hex')).toBe(weights);

    const graph = model.build(5);
    graph.proto.graph?.output?.push(valueInfo('logits', 'float32', ['N', 1000]));
    const pictures = await Promise.all(
      answers.map(({ picture }) => sharp(join(folder, picture)).removeAlpha().raw().toBuffer()),
    );
    const outputs = await runGraph(graph, Buffer.concat(pictures), 224);
    const errors = { logits: 0, embedding: 0, scores: 0 };
    for (const [row, answer] of answers.entries()) {
      expect([...rowOf(outputs.labels, row, 5)], answer.picture).toEqual(answer.top5);
      for (const [kind, length] of [
        ['logits', 1000],
        ['embedding', 2048],
      ] as const) {
        const found = rowOf(outputs[kind], row, length).filter(
          (_, index) => index % reference.steps[kind] === 0,
        );
        errors[kind] = Math.max(errors[kind], relativeError(found, decodeFloats(answer[kind])));
      }
      errors.scores = Math.max(errors.scores, relativeError(rowOf(outputs.scores, row, 5), answer.scores));
    }
    console.info(`${name}, ${answers.length} pictures, largest relative errors:`, errors);
    // float32 rounds to 6e-8; 155 layers of sums in another order, and norms folded beforehand, come to about 3e-6. Any
    // mistake in a layer's arithmetic shows as 1e-2 and more.
    for (const error of Object.values(errors)) expect(error).toBeLessThan(1e-4);
  },
);

function rowOf(
  values: Float32Array | Int32Array | undefined,
  row: number,
  length: number,
): Float32Array | Int32Array {
  return values?.slice(row * length, (row + 1) * length) ?? new Float32Array();
}

function decodeFloats(base64: string): Float32Array {
  return new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer);
}
