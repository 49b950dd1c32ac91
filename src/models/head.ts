/**
 * A head: a linear classifier over embeddings, as an ONNX file of a few kilobytes that any runtime can run.
 *
 *   embedding float32 [N,dimension] → Gemm → Softmax → probabilities float32 [N,classes]
 *
 * What it was fitted on, its class names and how good it was stand in the file's metadata, under 'lensmill-head'.
 */
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import {
  dataType,
  decodeOnnx,
  encodeOnnx,
  type GraphProto,
  type Sketch,
  startSketch,
  valueInfo,
} from './onnx.ts';

/** What a head says of itself: plain JSON values. */
export interface HeadRecord {
  v: 1;
  /** The version that made it. */
  lensmill: string;
  /** Names by class. */
  classes: string[];
  /** Of the embeddings that it reads; it fits no others. */
  model: {
    ref: string;
    fingerprint: string;
    /** Their network has learned nothing. */
    untrained: boolean;
    dimension: number;
  };
  /** The run whose embeddings it was fitted on. */
  run: string;
  /** How it was fitted, and what it reached on examples that were held out. */
  training: {
    examples: number;
    heldOut: number;
    seed: number;
    l2: number;
    temperature: number;
    accuracy: { share: number; low: number; high: number };
    /** Of whoever always says the most frequent class. */
    baseline: number;
    calibrationError: number;
  };
}

export interface Head {
  record: HeadRecord;
  /** [classes × dimension] */
  weights: Float32Array;
  /** [classes] */
  biases: Float32Array;
}

const share = z.number().min(0).max(1);
const count = z.int().nonnegative();
const headRecord: z.ZodType<HeadRecord> = z.object({
  v: z.literal(1),
  lensmill: z.string(),
  classes: z.array(z.string()).min(2),
  model: z.object({
    ref: z.string(),
    fingerprint: z.string(),
    untrained: z.boolean(),
    dimension: z.int().positive(),
  }),
  run: z.string(),
  training: z.object({
    examples: count,
    heldOut: count,
    seed: z.int(),
    l2: z.number().positive(),
    temperature: z.number().positive(),
    accuracy: z.object({ share, low: share, high: share }),
    baseline: share,
    calibrationError: share,
  }),
});

const metadataKey = 'lensmill-head';

/** The file: the same bytes for the same head. */
export function encodeHead(head: Head): Uint8Array {
  const { model, classes } = head.record;
  const sketch = startSketch();
  drawHead(sketch, head);
  const graph = {
    name: 'head',
    node: sketch.nodes,
    input: [valueInfo('embedding', 'float32', ['N', model.dimension])],
    output: [valueInfo('probabilities', 'float32', ['N', classes.length])],
  };
  const record = { key: metadataKey, value: JSON.stringify(headRecord.parse(head.record)) };
  const proto = {
    irVersion: 8,
    opsetImport: [{ domain: '', version: 15 }],
    producerName: 'lensmill',
    metadataProps: [record],
    graph,
  };
  return Buffer.concat([...encodeOnnx({ proto, weights: sketch.weights })]);
}

/** Adds a head's nodes behind a tensor; names begin with `prefix`. Returns that of the probabilities. */
export function drawHead(
  sketch: Sketch,
  { record, weights, biases }: Head,
  { embedding = 'embedding', prefix = '' } = {},
): string {
  const { classes, model } = record;
  const dense = [
    sketch.weight(`${prefix}weights`, 'float32', [classes.length, model.dimension], () => weights),
    sketch.weight(`${prefix}biases`, 'float32', [classes.length], () => biases),
  ];
  const logits = sketch.node('Gemm', [embedding, ...dense], `${prefix}logits`, { transB: 1 });
  return sketch.node('Softmax', [logits], `${prefix}probabilities`, { axis: 1 });
}

/** Throws ConfigError 'bad-onnx' and 'bad-head' naming `file`. */
export function decodeHead(bytes: Uint8Array, file: string): Head {
  const { metadataProps, graph } = decodeOnnx(bytes, file);
  const value = metadataProps?.find(({ key }) => key === metadataKey)?.value;
  if (value === undefined || value === null)
    throw new ConfigError('bad-head', `${file} is no head: make one with \`lensmill probe train\``);
  try {
    const record = headRecord.parse(JSON.parse(value));
    const { classes, model } = record;
    return {
      record,
      weights: readFloats(graph, 'weights', classes.length * model.dimension),
      biases: readFloats(graph, 'biases', classes.length),
    };
  } catch (error) {
    throw new ConfigError(
      'bad-head',
      `${file} is a damaged head: make it again with \`lensmill probe train\``,
      {
        cause: error,
      },
    );
  }
}

function readFloats({ initializer }: GraphProto, name: string, length: number): Float32Array {
  const tensor = initializer?.find((one) => one.name === name);
  // A copy: where its bytes lie in the file, a float could not begin.
  const bytes = Uint8Array.from(tensor?.rawData ?? []);
  if (tensor?.dataType !== dataType.float32 || bytes.length !== length * 4)
    throw new Error(`'${name}' is not ${length} floats`);
  return new Float32Array(bytes.buffer);
}

/** Throws ConfigError 'wrong-head' where a head was fitted on other embeddings than those of `model`. */
export function throwIfOtherModel(
  { record: { model: own } }: Head,
  model: { ref: string; fingerprint: string },
  { file, of }: { file: string; of: string },
): void {
  if (own.fingerprint === model.fingerprint) return;
  const named = ({ ref, fingerprint }: typeof model): string => `${ref} (${fingerprint.slice(0, 12)})`;
  throw new ConfigError(
    'wrong-head',
    `${file} was fitted on embeddings by ${named(own)}, and ${of} has those by ${named(model)}: fit one with \`lensmill probe train\` on a run of that model`,
  );
}
