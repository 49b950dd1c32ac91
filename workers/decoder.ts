/** The process in a sandbox: decodes the picture it is given, answers, and waits for the next. */
import { writeFileSync } from 'node:fs';
import { type DecodeOptions, decodeImage } from '../src/decode.ts';
import type { Failure } from '../src/errors.ts';
import type { ImageFacts } from '../src/types.ts';

export interface DecodeRequest {
  content: Uint8Array;
  /** Length of the crop's pixels. */
  bytes: number;
  options: DecodeOptions;
}

export interface DecodeReply {
  decoded: ImageFacts | Failure;
  pixels: Uint8Array;
}

// Where memory runs out the kernel shall end this process, and not the worker. Other systems have no such file.
try {
  writeFileSync('/proc/self/oom_score_adj', '1000');
} catch {}

process.on('message', async ({ content, bytes, options }: DecodeRequest) => {
  const pixels = new Uint8Array(bytes);
  const decoded = await decodeImage(content, pixels, options);
  process.send?.({ decoded, pixels } satisfies DecodeReply);
});
// Ctrl-C reaches every process of the terminal; this one ends with its worker.
process.on('SIGINT', () => undefined);
