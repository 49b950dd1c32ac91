/** The process in a sandbox: decodes the picture it is given, answers, and waits for the next. */
import { writeFileSync } from 'node:fs';
import { type DecodeOptions, decodeImage } from '../src/decode.ts';
import type { Failure } from '../src/errors.ts';
import { makeThumbnail, type Thumbnail, type ThumbnailOptions } from '../src/thumbnail.ts';
import type { ImageFacts } from '../src/types.ts';

/** `bytes`: length of the crop's pixels. */
export type DecodeRequest =
  | { kind: 'decode'; content: Uint8Array; bytes: number; options: DecodeOptions }
  | { kind: 'thumbnail'; content: Uint8Array; options: ThumbnailOptions };

export type DecodeReply =
  | { kind: 'decode'; decoded: ImageFacts | Failure; pixels: Uint8Array }
  | { kind: 'thumbnail'; made: Thumbnail | Failure };

// Where memory runs out the kernel shall end this process, and not the worker. Other systems have no such file.
try {
  writeFileSync('/proc/self/oom_score_adj', '1000');
} catch {}

process.on('message', async (request: DecodeRequest) => {
  process.send?.(await answer(request));
});
// Ctrl-C, or its end, reaches every process of a terminal; this one ends with its worker.
for (const signal of ['SIGINT', 'SIGHUP']) process.on(signal, () => undefined);

async function answer(request: DecodeRequest): Promise<DecodeReply> {
  const { kind, content } = request;
  if (kind === 'thumbnail') return { kind, made: await makeThumbnail(content, request.options) };
  const pixels = new Uint8Array(request.bytes);
  return { kind, decoded: await decodeImage(content, pixels, request.options), pixels };
}
