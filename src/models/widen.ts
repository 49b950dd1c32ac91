/**
 * A graph whose rows are longer (parts/row-extras.ts says of what): what it makes already is renamed, and what is added joined to it.
 *
 *   embedding ────────────────┬─ Concat → embedding float32 [N, dimension + features]
 *   layer3's last block → mean┘
 *   scores, labels ───────────┬─ Concat → scores, labels [N, k + the head's k]
 *   embedding → head → top-k ─┘
 */
import { ConfigError } from '../errors.ts';
import type { Features, Layer } from '../parts/row-extras.ts';
import { drawHead, type Head } from './head.ts';
import { dataType, type GraphProto, type OnnxModel, type Sketch, startSketch, valueInfo } from './onnx.ts';

export interface Widening {
  ref: string;
  /** As in the graph. */
  dimension: number;
  topK: number;
  head?: { head: Head; topK: number } | undefined;
  features: readonly Features[];
}

/** Of a stage's last block, in every ResNet with bottlenecks. */
export const channelsOf: Readonly<Record<Layer, number>> = { layer1: 256, layer2: 512, layer3: 1024 };

/** Prefix of all names that are added. */
const added = 'lensmill.';

/** Throws ConfigError 'no-features' where the graph does not say where its stages end. */
export function widenGraph({ proto, weights }: OnnxModel, widening: Widening): OnnxModel {
  const { dimension, topK, head, features } = widening;
  const sketch = startSketch();
  const own = (name: string): string => `${added}own.${name}`;
  const joined = ['embedding', 'scores', 'labels'].filter((name) =>
    name === 'embedding' ? features.length > 0 : head !== undefined,
  );
  const rename = (name: string): string => (joined.includes(name) ? own(name) : name);
  const nodes = proto.graph?.node ?? [];
  sketch.nodes.push(
    ...nodes.map((node) => ({
      ...node,
      name: rename(node.name ?? ''),
      input: node.input?.map(rename) ?? [],
      output: node.output?.map(rename) ?? [],
    })),
  );
  sketch.weights.push(...weights);
  const names = new Set(nodes.flatMap(({ output }) => output ?? []));
  const pooled = features.map(({ layer }) => {
    const last = findStageEnd(names, layer, widening.ref);
    const floats = sketch.node('Cast', [last], `${added}${layer}`, { to: dataType.float32 });
    const mean = sketch.node('GlobalAveragePool', [floats], `${added}${layer}.mean`);
    return sketch.node('Flatten', [mean], `${added}${layer}.flat`, { axis: 1 });
  });
  if (pooled.length > 0) sketch.node('Concat', [own('embedding'), ...pooled], 'embedding', { axis: 1 });
  if (head) joinHead(sketch, head, { embedding: rename('embedding'), own });
  const width = features.reduce((sum, { length }) => sum + length, dimension);
  const k = topK + (head?.topK ?? 0);
  const graph: GraphProto = {
    ...proto.graph,
    node: sketch.nodes,
    output: [
      valueInfo('embedding', 'float32', ['N', width]),
      valueInfo('scores', 'float32', ['N', k]),
      valueInfo('labels', 'int32', ['N', k]),
    ],
  };
  // Without the record: this graph is of one run, and no model that others may be given.
  return { proto: { ...proto, metadataProps: [], graph }, weights: sketch.weights };
}

function joinHead(
  sketch: Sketch,
  { head, topK }: { head: Head; topK: number },
  { embedding, own }: { embedding: string; own(name: string): string },
): void {
  const probabilities = drawHead(sketch, head, { embedding, prefix: `${added}head.` });
  const k = sketch.weight(`${added}head.k`, 'int64', [1], () => BigInt64Array.of(BigInt(topK)));
  const [scores, ranking, labels] = ['scores', 'ranking', 'labels'].map((name) => `${added}head.${name}`) as [
    string,
    string,
    string,
  ];
  sketch.node('TopK', [probabilities, k], [scores, ranking], { axis: 1, largest: 1, sorted: 1 });
  sketch.node('Cast', [ranking], labels, { to: dataType.int32 });
  sketch.node('Concat', [own('scores'), scores], 'scores', { axis: 1 });
  sketch.node('Concat', [own('labels'), labels], 'labels', { axis: 1 });
}

/** The tensor that a stage's last block makes: as trunk.ts names it, and as quantize.ts does. */
function findStageEnd(names: ReadonlySet<string>, layer: Layer, ref: string): string {
  let last: string | undefined;
  for (let block = 0; ; block++) {
    const made = [`${layer}.${block}.relu3`, `${layer}.${block}.relu3.kept`].find((name) => names.has(name));
    if (made === undefined) break;
    last = made;
  }
  if (last !== undefined) return last;
  throw new ConfigError(
    'no-features',
    `${ref} does not say which of its tensors is ${layer}: for --features give a preset, a .safetensors file or random:SEED, or leave it out`,
  );
}
