/** The text of one object, in a single pass: decompressed, and proven to be UTF-8. */
import { isUtf8 } from 'node:buffer';
import { pipeline, Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { errnoOf } from '../errno.ts';
import type { Objects } from '../objects/objects.ts';
import { cutAtFrames } from '../zstd-frames.ts';

export interface TextObject {
  uri: string;
  etag: string;
  /** Patient ones: what breaks off here ends the list. */
  objects: Objects;
  compression: Compression | undefined;
  signal: AbortSignal | undefined;
  /** What to throw about a line, the first being 1. */
  fail: (line: number, what: string) => Error;
}

export type Compression = '.gz' | '.zst';

const decompressors = { '.gz': createGunzip, '.zst': createZstdDecompress };

/** Of text, decompressed. A quote that is never closed would else be a line of gigabytes. */
export const maxLineBytes = 1_000_000;

const newline = 0x0a;

/** In pieces that end between characters. Throws what `fail` makes, and ReadError. */
export async function* readText(object: TextObject): AsyncGenerator<Buffer> {
  let line = 1;
  let rest = Buffer.alloc(0);
  for await (const piece of decompressed(object)) {
    const bytes = Buffer.concat([rest, piece]);
    const whole = bytes.subarray(0, endOfCharacters(bytes));
    const isGood = isUtf8(whole);
    for (let at = 0, end = 0; at < whole.length; at = end) {
      end = whole.indexOf(newline, at) + 1 || whole.length;
      if (!isGood && !isUtf8(whole.subarray(at, end))) throw object.fail(line, 'is not UTF-8');
      if (whole[end - 1] === newline) line++;
    }
    yield whole;
    rest = bytes.subarray(whole.length);
  }
  if (rest.length > 0) throw object.fail(line, 'is not UTF-8');
}

/** Without their ends (LF or CR LF) and a byte order mark; empty ones too. Throws as `readText`, for one over `maxLineBytes` too. */
export async function* readLines(object: TextObject): AsyncGenerator<{ line: number; text: string }> {
  let line = 1;
  let begun: Buffer[] = [];
  let bytes = 0;
  const add = (piece: Buffer): void => {
    begun.push(piece);
    bytes += piece.length;
    if (bytes > maxLineBytes) throw object.fail(line, `is longer than ${maxLineBytes} bytes`);
  };
  const take = (): { line: number; text: string } => {
    const text = Buffer.concat(begun).toString();
    begun = [];
    bytes = 0;
    return { line, text: text.replace(line++ === 1 ? /^\uFEFF|\r$/g : /\r$/, '') };
  };
  for await (const piece of readText(object)) {
    let at = 0;
    for (let end = piece.indexOf(newline); end !== -1; end = piece.indexOf(newline, at)) {
      add(piece.subarray(at, end));
      yield take();
      at = end + 1;
    }
    add(piece.subarray(at));
  }
  if (bytes > 0) yield take();
}

async function* decompressed(object: TextObject): AsyncGenerator<Uint8Array> {
  const { uri, etag, objects, compression, signal, fail } = object;
  const stored = objects.stream(uri, { etag, signal });
  if (!compression) return yield* stored;
  const packed = compression === '.zst' ? cutAtFrames(stored) : stored;
  try {
    // What is wrong with either stream reaches the last one; leaving the loop closes both.
    yield* pipeline(Readable.from(packed), decompressors[compression](), () => {});
  } catch (error) {
    throw /^Z_|^ZSTD_/.test(errnoOf(error) ?? '')
      ? fail(1, `is not whole as ${compression}: pack it again`)
      : error;
  }
}

/** Where the last character that is whole ends; of bytes that are not UTF-8 anywhere in their last four. */
function endOfCharacters(bytes: Buffer): number {
  for (let at = bytes.length - 1; at >= Math.max(0, bytes.length - 3); at--) {
    const lead = bytes[at] ?? 0;
    if (lead < 0x80) break;
    if (lead < 0xc0) continue;
    const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    return at + length > bytes.length ? at : bytes.length;
  }
  return bytes.length;
}
