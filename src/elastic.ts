/**
 * A session that gives way where memory is short: it takes the batches it was opened for, and runs them in pieces as
 * small as the device can hold. It never grows again, since what took the memory would make it fail again.
 */
import { ConfigError, messageOf } from './errors.ts';
import { OutOfMemory, type Session } from './infer.ts';
import type { BatchResult } from './types.ts';

export interface ElasticSession extends Session {
  /** Images per run of the model, by now. */
  readonly batch: number;
}

export interface ElasticOptions {
  /** Opens a session of `batch` images and warms it up. Throws OutOfMemory where that takes more than there is. */
  open: (batch: number) => Promise<Session>;
  /** Images that `run` is given. */
  batch: number;
  /** For messages: 'cuda:0'. */
  deviceName: string;
  /** For the operator, each time that it runs again after having become smaller. */
  onSmaller: (notice: string) => void;
}

/** Throws ConfigError 'device-failed', here and in `run`, where the device cannot hold a single image. */
export async function openElasticSession(options: ElasticOptions): Promise<ElasticSession> {
  const { open, deviceName, onSmaller } = options;
  let batch = options.batch;
  let said = batch;
  // Undefined after a release, until it is opened smaller.
  let session: Session | undefined;

  const current = async (): Promise<Session> => {
    while (!session) {
      try {
        session = await open(batch);
        if (batch < said) {
          onSmaller(
            `${deviceName} has too little memory for ${options.batch} images at a time, going on with ${batch}: --batch ${batch} starts so`,
          );
        }
        said = batch;
      } catch (error) {
        await shrink(error);
      }
    }
    return session;
  };
  const shrink = async (error: unknown): Promise<void> => {
    if (!(error instanceof OutOfMemory)) throw error;
    // First: what it holds, the smaller one needs.
    await release();
    if (batch === 1) {
      throw new ConfigError(
        'device-failed',
        `${deviceName} has too little memory for one image at a time (${messageOf(error)}): end what else uses it, or give a smaller --batch, --sessions 1 or --precision fp16`,
        { cause: error },
      );
    }
    batch = Math.floor(batch / 2);
  };
  const release = async (): Promise<void> => {
    const released = session;
    session = undefined;
    await released?.release();
  };

  await current();
  return {
    get batch() {
      return batch;
    },
    async run(pixels) {
      const imageBytes = pixels.length / options.batch;
      let whole: BatchResult | undefined;
      for (let done = 0; done < options.batch; ) {
        try {
          const running = await current();
          // The last piece ends where the batch does, and does some images again, so that every run has its full size.
          const first = Math.min(done, options.batch - batch);
          const piece = pixels.subarray(first * imageBytes, (first + batch) * imageBytes);
          const result = await running.run(piece);
          if (batch === options.batch) return result;
          whole ??= roomFor(result, options.batch / batch);
          placePiece(whole, result, first / batch);
          done = first + batch;
        } catch (error) {
          await shrink(error);
        }
      }
      // A batch has at least one image.
      return whole as BatchResult;
    },
    release,
  };
}

/** `times`: how many pieces like `result` the room is for. */
function roomFor({ embeddings, scores, labels }: BatchResult, times: number): BatchResult {
  return {
    embeddings: new Float32Array(embeddings.length * times),
    scores: new Float32Array(scores.length * times),
    labels: new Int32Array(labels.length * times),
  };
}

/** `at`: where it begins, in pieces. */
function placePiece(whole: BatchResult, piece: BatchResult, at: number): void {
  for (const column of ['embeddings', 'scores', 'labels'] as const)
    whole[column].set(piece[column], piece[column].length * at);
}
