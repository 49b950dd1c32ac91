/**
 * Single pictures by the model of a run, for those who search by them: as a worker embeds a run's images, but for one picture
 * at a time and at once.
 *
 *   1. A picture is read here (an upload is here already), under the run's limits.
 *   2. A sandbox decodes it: what strangers send may crash a decoder, and shall not end a server.
 *   3. The one inference thread embeds it, alone: on a CPU eight at once take eight times as long.
 * There is no lane and no batch: pictures come by the handful, and a lane would only pass them on.
 */
import { hash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import pLimit from 'p-limit';
import { describeDecoder } from '../src/decode.ts';
import { type Device, requirePrecision } from '../src/devices/device.ts';
import { requireRealDevice } from '../src/devices/sleep.ts';
import type { Failure } from '../src/errors.ts';
import { fetchItem } from '../src/fetch.ts';
import { openObjects } from '../src/objects/open-objects.ts';
import type { Run } from '../src/runs/run.ts';
import { sourceOptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import type { Source } from '../src/sources/source.ts';
import type { Store } from '../src/stores/store.ts';
import type { ByteFacts, ImageFacts } from '../src/types.ts';
import { fileUri, rawOfText, schemeOf } from '../src/uri.ts';
import { obtainModel } from '../src/weights.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from './inference.ts';
import { openSandbox } from './sandbox.ts';
import { makeSlot } from './slot.ts';
import { openThread } from './thread.ts';

export type EmbedderSettings = Parameters<typeof sourceOptionsOf>[0] &
  Pick<Settings, 'cacheDir' | 'decoder' | 'threads'>;

export interface EmbedderOptions {
  device: Device;
  settings: EmbedderSettings;
  /** Something that the operator should know, once. */
  onNotice(notice: string): void;
}

/**
 * Bytes; the absolute path of a file, for whoever may read every file of this machine; or the URI of an object on the web or
 * on S3, under the same guard as those that a list names.
 */
export type Picture = { content: Uint8Array } | { file: string } | { uri: string };

export interface EmbeddedPicture {
  /** [dimension], as the model made it: of no certain length. */
  embedding: Float32Array;
  /** [topK of the run] each, best first. */
  labels: number[];
  scores: number[];
  facts: ImageFacts & ByteFacts;
  /** As it was read. */
  content: Uint8Array;
}

export interface Embedder {
  /**
   * Each picture's, in their order; a bad one costs nobody else anything. Calls may overlap, and take turns by picture. Throws
   * ConfigError where an object store refuses everything ('bad-credentials', 'no-bucket'), the reason of `signal`, and what ended
   * the inference thread: then this embedder is of no more use.
   */
  embed(
    pictures: readonly Picture[],
    options?: { signal?: AbortSignal },
  ): Promise<(EmbeddedPicture | Failure)[]>;
  /** Lets what is under way end. Safe to call twice. */
  close(): Promise<void>;
}

/** Somebody is waiting. A picture of 100 megapixels takes seconds. */
const longestDecodeMs = 30_000;
/** Pictures in memory at once, each of up to the run's `maxBytes`. */
const reads = 4;

/**
 * Resolves when the model is loaded and warm. `run`: any finished run of the fingerprint. Throws ConfigError 'device-failed',
 * 'wrong-device', 'no-native-decoder' and those of `obtainModel`.
 */
export async function openEmbedder(
  store: Store,
  run: Run,
  { device, settings, onNotice }: EmbedderOptions,
): Promise<Embedder> {
  const { model, topK, maxBytes, maxPixels } = run;
  const { preprocessing, resizeMode, dimension } = model;
  const { crop } = preprocessing;
  requirePrecision(device, model.precision);
  requireRealDevice(device, model.ref);
  // Throws where it insists on what is not here; that another one is slower is no matter for a few pictures.
  if (settings.decoder === 'native') await describeDecoder(settings.decoder, resizeMode);
  const modelPath = await obtainModel(store, run, settings);

  const slot = makeSlot({ batch: 1, crop, dimension, topK });
  const threads = settings.threads || availableParallelism();
  const session = openThread<InferenceRequest, InferenceReply>('inference', {
    slots: [slot],
    modelPath,
    device,
    batch: 1,
    crop,
    threads,
  } satisfies InferenceOptions);
  try {
    await session.call({ kind: 'open' });
  } catch (error) {
    await session.close();
    throw error;
  }
  const objects = openObjects(sourceOptionsOf(settings));
  const source: Pick<Source, 'read'> = {
    read: ({ uri, etag }, options) => objects.read(uri, { etag, ...options }),
  };
  const sandbox = openSandbox(longestDecodeMs);
  const limit = pLimit(reads);
  const inTurn = pLimit(1);
  const underWay = new Set<Promise<unknown>>();

  async function embedOne(picture: Picture, signal: AbortSignal | undefined) {
    signal?.throwIfAborted();
    const fetched = await read(picture, signal);
    if ('error' in fetched) return fetched;
    const { content, ...bytes } = fetched;
    const pixels = new Uint8Array(crop ** 2 * 3);
    const { decoder } = settings;
    const decoded = await sandbox.decode(content, pixels, { preprocessing, resizeMode, maxPixels, decoder });
    if ('error' in decoded) return decoded;
    return inTurn(async () => {
      signal?.throwIfAborted();
      new Uint8Array(slot.pixels).set(pixels);
      const done = await session.call({ kind: 'infer', slot: 0 });
      if (done?.notice !== undefined) onNotice(done.notice);
      const { embeddings, labels, scores } = slot.result;
      return {
        // A copy in memory of its own: the next picture's comes to the same place.
        embedding: embeddings.slice(),
        labels: [...labels],
        scores: [...scores],
        facts: { ...decoded, ...bytes },
        content,
      };
    });
  }

  async function read(
    picture: Picture,
    signal: AbortSignal | undefined,
  ): Promise<({ content: Uint8Array } & ByteFacts) | Failure> {
    if ('content' in picture) {
      const { content } = picture;
      const bytes = content.length;
      if (bytes > maxBytes)
        return { error: 'too-many-bytes', message: `${bytes} bytes, the limit is ${maxBytes}` };
      return { content, bytes, sha256: hash('sha256', content) };
    }
    const uri = 'file' in picture ? fileUri(rawOfText(picture.file)) : picture.uri;
    if ('uri' in picture && schemeOf(uri) === 'file')
      return { error: 'not-allowed', message: `'${uri}' is no URL; expected https://… or s3://…` };
    const item = { id: uri, uri, etag: '', size: 0 };
    const timeoutMs = settings.readTimeoutMs;
    return fetchItem(source, item, { maxBytes, timeoutMs, ...(signal && { signal }) });
  }

  return {
    async embed(pictures, { signal } = {}) {
      const all = pictures.map((picture) => {
        const embedding = limit(() => embedOne(picture, signal));
        underWay.add(embedding);
        void embedding.catch(() => undefined).finally(() => underWay.delete(embedding));
        return embedding;
      });
      return Promise.all(all);
    },
    async close() {
      await Promise.allSettled(underWay);
      sandbox.close();
      await Promise.all([session.close(), objects.close()]);
    },
  };
}
