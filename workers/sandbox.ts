/**
 * Decoding where a crash costs one row: in a child process (decoder.ts) that is given one picture at a time. What ends the process, twice,
 * is the picture's doing, and its row says so; the next picture gets a new process.
 *
 * It costs a process and two copies, 0.3 ms a picture and all parallel decoding, so it is for suspects only: the shards of a
 * worker that died, and all shards for a while after a crash (workers/supervisor.ts).
 */
import type { ChildProcess } from 'node:child_process';
import pLimit from 'p-limit';
import type { DecodeOptions } from '../src/decode.ts';
import { type Failure, messageOf } from '../src/errors.ts';
import type { Thumbnail, ThumbnailOptions } from '../src/thumbnail.ts';
import type { ImageFacts } from '../src/types.ts';
import type { DecodeReply, DecodeRequest } from './decoder.ts';
import { forkEntry } from './thread.ts';

export interface Sandbox {
  /** As `decodeImage`, and fails with 'crashed-worker' or 'timeout' where the decoder does not come back. */
  decode(content: Uint8Array, target: Uint8Array, options: DecodeOptions): Promise<ImageFacts | Failure>;
  /** As `makeThumbnail`, and fails as `decode` does. */
  shrink(content: Uint8Array, options: ThumbnailOptions): Promise<Thumbnail | Failure>;
  /** Safe to call twice. */
  close(): void;
}

/** Once could be bad luck, such as a machine short of memory. */
const strikes = 2;

/** A picture of 100 megapixels takes seconds: a decoder that needs this long will not come back. */
export const longestDecodeMs = 120_000;

/** The process is started with the first picture. */
export function openSandbox(decodeMs: number): Sandbox {
  const oneAtATime = pLimit(1);
  let child: ChildProcess | undefined;

  async function decode(request: DecodeRequest): Promise<DecodeReply | Failure> {
    let ending = '';
    for (let strike = 0; strike < strikes; strike++) {
      child ??= forkEntry('decoder', {
        serialization: 'advanced',
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      });
      const answer = await ask(child, request, decodeMs);
      if (typeof answer !== 'string') return answer;
      child.kill('SIGKILL');
      child = undefined;
      ending = answer;
      if (ending === hangs)
        return { error: 'timeout', message: `decoding did not end in ${decodeMs / 1000} s` };
    }
    return {
      error: 'crashed-worker',
      message: `decoding ended the process with ${ending}, ${strikes} times`,
    };
  }

  return {
    async decode(content, target, options) {
      const request = { kind: 'decode', content, bytes: target.length, options } as const;
      const reply = await oneAtATime(() => decode(request));
      if ('error' in reply) return reply;
      if (reply.kind !== request.kind) throw otherReply();
      target.set(reply.pixels);
      return reply.decoded;
    },
    async shrink(content, options) {
      const request = { kind: 'thumbnail', content, options } as const;
      const reply = await oneAtATime(() => decode(request));
      if ('error' in reply) return reply;
      if (reply.kind !== request.kind) throw otherReply();
      return reply.made;
    },
    close() {
      // While it waited, the kernel may have ended it.
      if (child?.connected) child.disconnect();
      child = undefined;
    },
  };
}

function otherReply(): Error {
  return new Error('the decoder answered another question: this is a bug');
}

const hangs = 'hangs';

/** The reply, or how the process ended instead. */
function ask(child: ChildProcess, request: DecodeRequest, timeoutMs: number): Promise<DecodeReply | string> {
  return new Promise((resolve) => {
    const settle = (answer: DecodeReply | string): void => {
      clearTimeout(timer);
      child.off('message', settle).off('exit', onExit).off('error', onError);
      resolve(answer);
    };
    const onExit = (code: number | null, signal: string | null): void =>
      settle(signal ?? `exit code ${code}`);
    const onError = (error: unknown): void => settle(messageOf(error));
    const timer = setTimeout(() => settle(hangs), timeoutMs);
    child.on('message', settle).on('exit', onExit).on('error', onError);
    child.send(request);
  });
}
