import type { Item, Outcome, Provenance, ShardRows } from '../../src/types.ts';
import { uniform } from '../../src/uniform.ts';

/**
 * A shard's rows with every 7th item failed (or what `isFailed` says). Embeddings look like ResNet's pooled features:
 * not negative, a few exact zeros, mean 0.4; failed rows hold rubbish, as a batch slot would.
 */
export function makeShardRows(
  count: number,
  { shard = 0, dimension = 2048, topK = 5, isFailed = (row: number) => row % 7 === 3 } = {},
): ShardRows {
  const random = uniform(shard + 1);
  const items: Item[] = Array.from({ length: count }, (_, row) => ({
    id: `album ${shard}/ü-${String(row).padStart(5, '0')}.jpg`,
    uri: `file:///photos/album%20${shard}/%C3%BC-${String(row).padStart(5, '0')}.jpg`,
    etag: `${row.toString(16)}-${shard}`,
    size: 100_000 + row,
  }));
  const outcomes: Outcome[] = items.map((_, row) => {
    const bytes = { sha256: (shard * 1e6 + row).toString(16).padStart(64, '0'), bytes: 100_000 + row };
    if (!isFailed(row)) return { status: 'ok', ...bytes, width: 500, height: 375 + row, format: 'jpeg' };
    return row % 2 === 0
      ? { status: 'failed', ...bytes, error: 'truncated', message: 'premature end of JPEG image' }
      : { status: 'failed', error: 'not-found', message: 'gone since it was listed' };
  });
  return {
    items,
    outcomes,
    embeddings: Float32Array.from({ length: count * dimension }, () =>
      random() < 0.03 ? 0 : -Math.log(random() || 1) * 0.4,
    ),
    scores: Float32Array.from({ length: count * topK }, (_, i) => 0.5 / (1 + (i % topK)) + random() / 100),
    labels: Int32Array.from({ length: count * topK }, () => Math.floor(random() * 1000)),
  };
}

export function makeProvenance(change: Partial<Provenance> = {}): Provenance {
  return {
    run: 'holiday',
    shard: 0,
    lensmill: '0.1.0',
    source: 'file:///photos',
    model: {
      ref: 'random:0',
      architecture: 'resnet152',
      weights: '9f'.repeat(32),
      untrained: true,
      preprocessing: {
        resize: 256,
        crop: 224,
        interpolation: 'bilinear',
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
      },
      resizeMode: 'exact',
      precision: 'fp32',
      calibration: null,
      dimension: 2048,
      classes: 1000,
      fingerprint: 'ab'.repeat(32),
    },
    topK: 5,
    device: 'cpu, onnxruntime 1.30.0',
    batch: 8,
    reused: 0,
    ...change,
  };
}
