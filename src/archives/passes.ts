/**
 * Reads places of streams that can only be read forward. A pass goes through a stream once and serves whoever waits for
 * bytes ahead of it, in their order; while nobody waits, it stands still. What it has just passed stays at hand, so readers may
 * come in another order than the bytes', within limits. A reader behind a pass, and all that it keeps, begins another one.
 *
 * Several passes of one stream are open at once, one for each shard that reads a stretch of it.
 */
import { type ItemRead, ReadError } from '../sources/source.ts';

/** Behind its position a pass keeps this much: hundreds of pictures. */
const keptBytes = 32 * 2 ** 20;

/** Passes that stay open while nobody waits for them. */
const idlePasses = 4;

/** A pass whose readers are busy with other things; then its connection and memory are given back. */
const idleMs = 60_000;

export interface Place {
  first: number;
  count: number;
}

/** Opens a stream at its beginning. */
export type OpenStream = (signal: AbortSignal) => AsyncIterable<Uint8Array>;

export class Passes {
  /** Least recently used first. */
  readonly #passes = new Set<Pass>();

  /**
   * The bytes of a place, in a buffer of their own. `stream` names what `open` opens. Throws what the stream throws, ReadError
   * 'corrupt' where it ends before, and the signal's reason.
   */
  async read(
    stream: string,
    open: OpenStream,
    { first, count, ...options }: Place & Pick<ItemRead, 'signal' | 'onProgress'>,
  ): Promise<Uint8Array> {
    options.signal?.throwIfAborted();
    const suited = [...this.#passes].filter((pass) => pass.stream === stream && pass.reaches(first));
    const pass = suited.toSorted((a, b) => b.position - a.position)[0] ?? this.#begin(stream, open);
    this.#passes.delete(pass);
    this.#passes.add(pass);
    return pass.read({ first, count }, options);
  }

  async close(): Promise<void> {
    for (const pass of this.#passes) pass.close();
    this.#passes.clear();
  }

  #begin(stream: string, open: OpenStream): Pass {
    const idle = [...this.#passes].filter((pass) => pass.isIdle);
    for (const pass of idle.slice(0, Math.max(0, this.#passes.size - idlePasses + 1))) pass.close();
    return new Pass(stream, open, (over) => this.#passes.delete(over));
  }
}

interface Waiting extends Place {
  onProgress: (() => void) | undefined;
  resolve(bytes: Uint8Array): void;
  reject(reason: unknown): void;
}

class Pass {
  readonly stream: string;
  /** Of the next byte to come. */
  position = 0;
  readonly #left = new AbortController();
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #onOver: (pass: Pass) => void;
  /** One behind the other, up to `position`. */
  #kept: Uint8Array[] = [];
  /** Position of the first byte kept. */
  #keptFrom = 0;
  readonly #waiting = new Set<Waiting>();
  #isRunning = false;
  #idle: NodeJS.Timeout | undefined;

  /** `onOver` is called when no further reader may come. */
  constructor(stream: string, open: OpenStream, onOver: (pass: Pass) => void) {
    this.stream = stream;
    this.#chunks = open(this.#left.signal)[Symbol.asyncIterator]();
    this.#onOver = onOver;
  }

  get isIdle(): boolean {
    return this.#waiting.size === 0;
  }

  reaches(first: number): boolean {
    return this.#keptFrom <= first;
  }

  async read(
    place: Place,
    { signal, onProgress }: Pick<ItemRead, 'signal' | 'onProgress'>,
  ): Promise<Uint8Array> {
    if (place.first + place.count <= this.position) return this.#copy(place);
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const waiting = { ...place, onProgress, resolve, reject };
    const leave = (): void => reject(signal?.reason);
    signal?.addEventListener('abort', leave);
    this.#waiting.add(waiting);
    clearTimeout(this.#idle);
    if (!this.#isRunning) this.#run();
    try {
      return await promise;
    } finally {
      signal?.removeEventListener('abort', leave);
      this.#waiting.delete(waiting);
    }
  }

  close(): void {
    this.#end(new Error('the pass was closed'));
  }

  /** Goes on as long as anybody waits. Throws nothing: whoever waits is told. */
  async #run(): Promise<void> {
    this.#isRunning = true;
    try {
      while (this.#waiting.size > 0) {
        const chunk = await this.#chunks.next();
        if (chunk.done) throw new ReadError('corrupt', `its archive ends at unpacked byte ${this.position}`);
        this.#kept.push(chunk.value);
        this.position += chunk.value.length;
        for (const waiting of this.#waiting) {
          if (waiting.first + waiting.count > this.position) {
            waiting.onProgress?.();
            continue;
          }
          this.#waiting.delete(waiting);
          waiting.resolve(this.#copy(waiting));
        }
        this.#forget();
      }
      this.#isRunning = false;
      this.#idle = setTimeout(() => this.close(), idleMs).unref();
    } catch (error) {
      this.#end(error);
    }
  }

  #end(reason: unknown): void {
    this.#onOver(this);
    clearTimeout(this.#idle);
    for (const waiting of this.#waiting) waiting.reject(reason);
    this.#waiting.clear();
    this.#kept = [];
    this.#left.abort(reason);
    this.#chunks.return?.().catch(() => undefined); // it ends as it was told to
  }

  /** Keeps what the readers that wait have begun to need, too. */
  #forget(): void {
    const needed = [...this.#waiting].map(({ first }) => first);
    const from = Math.min(this.position - keptBytes, ...needed);
    let count = 0;
    for (const { length } of this.#kept) {
      if (this.#keptFrom + length > from) break;
      this.#keptFrom += length;
      count++;
    }
    if (count > 0) this.#kept.splice(0, count);
  }

  /** Of a place that is kept whole. */
  #copy({ first, count }: Place): Uint8Array {
    const bytes = Buffer.allocUnsafeSlow(count);
    let from = this.#keptFrom;
    for (const chunk of this.#kept) {
      const start = Math.max(first, from);
      const end = Math.min(first + count, from + chunk.length);
      if (start < end) bytes.set(chunk.subarray(start - from, end - from), start - first);
      from += chunk.length;
    }
    return bytes;
  }
}
