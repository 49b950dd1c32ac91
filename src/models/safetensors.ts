/**
 * The safetensors format (https://huggingface.co/docs/safetensors#format): eight bytes of header length, a JSON header
 * of names, types, shapes and byte ranges, then the tensors' bytes, little-endian and without gaps. Tensors are read one
 * at a time, when asked for, so a 240 MB file never lies in memory whole.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { z } from 'zod';
import { ConfigError, messageOf } from '../errors.ts';
import { fromBfloat, fromHalf } from './half.ts';
import { sizeOf, type Tensor, type Tensors } from './spec.ts';

/** The limit of the reference implementation. */
const maxHeaderBytes = 100_000_000;

const count = z.int().nonnegative();
const entrySchema = z.object({
  dtype: z.string(),
  shape: z.array(count),
  data_offsets: z.tuple([count, count]),
});
const headerSchema = z.record(z.string(), z.unknown());

/**
 * The tensors of a file by name. Opens and checks the header only; `read` opens the file again and takes F32, F16 and
 * BF16. Throws ConfigError 'bad-safetensors' naming the file and what is wrong with it.
 */
export function openSafetensors(path: string): Tensors {
  const bad = (what: string) =>
    new ConfigError('bad-safetensors', `${path} is not a safetensors file: ${what}`);
  const { header, start, end } = readHeader(path, bad);
  const tensors = new Map<string, Tensor>();
  const ranges: [number, number][] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const entry = entrySchema.safeParse(value);
    if (!entry.success)
      throw bad(`the entry of tensor '${name}': ${z.prettifyError(entry.error).split('\n', 1)[0]}`);
    const { dtype, shape, data_offsets } = entry.data;
    const width = bytesOf(dtype);
    if (width === undefined) throw bad(`tensor '${name}' is of unknown type '${dtype}'`);
    const length = data_offsets[1] - data_offsets[0];
    if (length !== sizeOf(shape) * width) {
      throw bad(
        `tensor '${name}' ${dtype} [${shape}] needs ${sizeOf(shape) * width} bytes, its range holds ${length}`,
      );
    }
    ranges.push(data_offsets);
    const read = () => decode(readRange(path, start + data_offsets[0], length, bad), dtype, name, path);
    tensors.set(name, { shape, read });
  }
  checkRanges(ranges, end - start, bad);
  return tensors;
}

/**
 * The file's bytes, a tensor a chunk, all F32 and in the map's order. The header is padded so that tensors lie on
 * multiples of eight bytes.
 */
export function* encodeSafetensors(tensors: Tensors): Generator<Uint8Array> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const [name, { shape }] of tensors) {
    const end = offset + 4 * sizeOf(shape);
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = Buffer.from(JSON.stringify(header));
  const start = 8 + Math.ceil(json.length / 8) * 8;
  const head = Buffer.alloc(start, ' ');
  head.writeBigUInt64LE(BigInt(start - 8));
  json.copy(head, 8);
  yield head;
  for (const { read } of tensors.values()) yield new Uint8Array(read().buffer);
}

type Bad = (what: string) => ConfigError;

/** `start` and `end` are file offsets of the tensors' bytes. */
function readHeader(path: string, bad: Bad): { header: Record<string, unknown>; start: number; end: number } {
  const end = sizeOfFile(path);
  if (end < 8) throw bad(`${end} bytes are too few`);
  const length = readRange(path, 0, 8, bad).readBigUInt64LE();
  if (length > maxHeaderBytes) throw bad(`its header claims ${length} bytes`);
  const start = 8 + Number(length);
  if (start > end) throw bad(`its header claims ${length} bytes, the file has ${end}: truncated?`);
  let json: unknown;
  try {
    json = JSON.parse(readRange(path, 8, start - 8, bad).toString('utf8'));
  } catch (error) {
    throw bad(`its header is not JSON: ${messageOf(error)}`);
  }
  const header = headerSchema.safeParse(json);
  if (!header.success) throw bad('its header is not an object');
  return { header: header.data, start, end };
}

/** Bytes of an element: the type's name says its bits. */
function bytesOf(dtype: string): number | undefined {
  if (dtype === 'BOOL') return 1;
  const bits = /^(?:BF|F|I|U)(8|16|32|64)(?:_E\dM\d)?$/.exec(dtype)?.[1];
  return bits === undefined ? undefined : Number(bits) / 8;
}

/** The ranges must cover the data without hole or overlap; otherwise the file is truncated or was tampered with. */
function checkRanges(ranges: [number, number][], bytes: number, bad: Bad): void {
  let covered = 0;
  for (const [first, last] of ranges.toSorted((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (first !== covered)
      throw bad(`the tensors' ranges leave a hole or overlap at byte ${Math.min(first, covered)}`);
    covered = last;
  }
  if (covered !== bytes) throw bad(`its tensors need ${covered} bytes, the file holds ${bytes}: truncated?`);
}

function decode(bytes: Buffer, dtype: string, name: string, path: string): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer);
  if (dtype === 'F16') return fromHalf(new Uint16Array(bytes.buffer));
  if (dtype === 'BF16') return fromBfloat(new Uint16Array(bytes.buffer));
  throw new ConfigError(
    'bad-safetensors',
    `${path}: tensor '${name}' is ${dtype}; F32, F16 and BF16 are read`,
  );
}

function sizeOfFile(path: string): number {
  const file = openSync(path, 'r');
  try {
    return fstatSync(file).size;
  } finally {
    closeSync(file);
  }
}

/** Exactly those bytes, in a buffer of their own (so that `.buffer` is all of it). */
function readRange(path: string, offset: number, length: number, bad: Bad): Buffer {
  const bytes = Buffer.from(new ArrayBuffer(length));
  const file = openSync(path, 'r');
  try {
    for (let filled = 0; filled < length; ) {
      const got = readSync(file, bytes, filled, length - filled, offset + filled);
      if (got === 0) throw bad(`it ends at byte ${offset + filled}: truncated`);
      filled += got;
    }
  } finally {
    closeSync(file);
  }
  return bytes;
}
