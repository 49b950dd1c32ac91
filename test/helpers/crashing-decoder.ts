/**
 * Given to `node --import`: a decoder that crashes, or hangs, on pictures that ask for it. Whoever asks sharp to decode a
 * buffer that ends in one of the words below loses the process, as with a native decoder that follows a bad pointer.
 */
import sharp from 'sharp';

export const crashes = Buffer.from('CRASHES THE DECODER');
export const hangs = Buffer.from('HANGS THE DECODER');

// sharp keeps what it was given in `options`, which its types do not tell of.
const prototype = sharp.prototype as { toBuffer: (...args: unknown[]) => Promise<unknown> };
const { toBuffer } = prototype;
prototype.toBuffer = function (this: { options: { input: { buffer?: Buffer } } }, ...args: unknown[]) {
  const bytes = Buffer.from(this.options.input.buffer ?? []);
  if (endsIn(bytes, crashes)) process.kill(process.pid, 'SIGSEGV');
  if (endsIn(bytes, hangs)) return new Promise(() => undefined);
  return toBuffer.apply(this, args);
};

function endsIn(bytes: Buffer, word: Buffer): boolean {
  return bytes.subarray(-word.length).equals(word);
}
