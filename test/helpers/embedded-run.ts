/** Finished runs of images that never were, with embeddings, sizes and hashes that the test chooses. */
import { createHash } from 'node:crypto';
import { commitPart } from '../../src/commit.ts';
import { finalizeRun } from '../../src/finalize.ts';
import { identify } from '../../src/models/identity.ts';
import { openPlan } from '../../src/page.ts';
import { encodePart } from '../../src/parts/part.ts';
import { planRun } from '../../src/plan.ts';
import { claimRun, type RunRequest, sourceName } from '../../src/runs/run.ts';
import type { FinishedRun } from '../../src/runs/view.ts';
import type { Store } from '../../src/stores/store.ts';
import type { Outcome, ShardRows } from '../../src/types.ts';
import { compareBytewise } from '../../src/uri.ts';
import { itemsOf, listerOf } from './finished-run.ts';
import { makeRequest } from './requests.ts';

export interface EmbeddedImage {
  id: string;
  embedding: ArrayLike<number>;
  /** What its hash is made of; its id unless given. */
  content?: string;
  width?: number;
  height?: number;
  bytes?: number;
  /** Best first; as many as the run's topK. */
  labels?: readonly number[];
}

/** The model that such a run says it is of; another length of embedding is another model. */
export function modelOf(dimension: number): RunRequest['model'] {
  const { fingerprint, ...model } = makeRequest('any').model;
  return identify({ ...model, dimension });
}

export async function makeEmbeddedRun(
  store: Store,
  id: string,
  images: readonly EmbeddedImage[],
  request: Partial<RunRequest> = {},
): Promise<FinishedRun> {
  const dimension = images[0]?.embedding.length ?? 2048;
  const asked = makeRequest(id, { model: modelOf(dimension), shardSize: 1024, topK: 2, ...request });
  await claimRun(store, asked);
  const byId = new Map(images.map((image) => [image.id, image]));
  const items = itemsOf([...byId.keys()].toSorted(compareBytewise));
  const run = await planRun(store, listerOf(items), asked, { rowsBefore: 0 });
  const { topK, model } = run;
  const readItems = openPlan(store);
  for (let shard = 0; shard < run.shards; shard++) {
    const listed = await readItems(run, shard);
    const members = listed.map((item) => byId.get(item.id) as EmbeddedImage); // they were made of these
    const rows: ShardRows = {
      items: listed,
      outcomes: members.map(outcomeOf),
      embeddings: Float32Array.from(members.flatMap(({ embedding }) => Array.from(embedding))),
      scores: Float32Array.from(
        members.flatMap(() => Array.from({ length: topK }, (_, at) => 0.5 / (at + 1))),
      ),
      labels: Int32Array.from(members.flatMap(({ labels = [7, 8] }) => labels)),
    };
    const made = { run: id, shard, lensmill: run.lensmill, source: sourceName(run), model, topK };
    const shape = { dimension, topK, embeddingType: run.embedding };
    const part = encodePart(rows, { ...made, device: 'cpu', batch: 8, reused: 0 }, shape);
    await commitPart(store, id, shard, part);
  }
  return { run, success: await finalizeRun(store, run) };
}

function outcomeOf({ id, content = id, width = 400, height = 300, bytes = 1000 }: EmbeddedImage): Outcome {
  const sha256 = createHash('sha256').update(content).digest('hex');
  return { status: 'ok', sha256, bytes, width, height, format: 'jpeg' };
}
