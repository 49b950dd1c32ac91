/** The passes of resample.ts in WebAssembly's SIMD (assembly/kernel.ts): the same pixels, five times as fast. */
import { readFileSync } from 'node:fs';
import { javascriptPasses, type Passes } from './resample.ts';
import type { Taps } from './taps.ts';

// The types of this global come with those of the DOM, which are not ours to have.
declare const WebAssembly: {
  validate(code: Uint8Array): boolean;
  Module: new (code: Uint8Array) => object;
  Instance: new (module: object) => { exports: unknown };
};

/** What assembly/kernel.ts exports. */
interface Kernel {
  memory: { buffer: ArrayBuffer; grow(pages: number): void };
  resampleFourRows(
    source: number,
    stride: number,
    target: number,
    targetStride: number,
    width: number,
    starts: number,
    counts: number,
    quads: number,
    quadStride: number,
  ): void;
  resampleColumns(
    source: number,
    stride: number,
    target: number,
    rowBytes: number,
    height: number,
    starts: number,
    counts: number,
    quads: number,
    quadStride: number,
  ): void;
}

/** The kernel, or JavaScript where this processor has no SIMD that WebAssembly may use: its name says which. */
export function openPasses(): Passes {
  const code = readFileSync(new URL('./kernel.wasm', import.meta.url));
  return WebAssembly.validate(code) ? openKernel(new WebAssembly.Module(code)) : javascriptPasses;
}

const pageBytes = 65_536;
/** A memory of WebAssembly never shrinks. One that a huge picture made grow is let go. */
const maxKeptBytes = 32 * 2 ** 20;

function openKernel(module: object): Passes {
  // It exports what assembly/kernel.ts does.
  const instantiate = (): Kernel => new WebAssembly.Instance(module).exports as Kernel;
  let kernel = instantiate();
  let bytes = new Uint8Array(kernel.memory.buffer);
  let place: Layout;

  return {
    name: 'WebAssembly SIMD',
    begin(columns, rows, stripRows) {
      place = layOut(columns, rows, stripRows);
      const { memory } = kernel;
      const missing = place.end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / pageBytes));
      if (bytes.buffer !== memory.buffer) bytes = new Uint8Array(memory.buffer);
      bytes.set(place.columns.packed.bytes, place.columns.at);
      bytes.set(place.rows.packed.bytes, place.rows.at);
      return bytes.subarray(place.strip, place.end);
    },
    across(first, count) {
      const { strip, stripStride, between, betweenStride, columns } = place;
      for (let row = 0; row < count; row += 4)
        kernel.resampleFourRows(
          strip + row * stripStride,
          stripStride,
          between + (first + row) * betweenStride,
          betweenStride,
          columns.packed.samples,
          ...tableOf(columns),
        );
    },
    down() {
      const { between, betweenStride, crop, cropStride: stride, rows } = place;
      const { samples } = rows.packed;
      kernel.resampleColumns(between, betweenStride, crop, stride, samples, ...tableOf(rows));
      const pixels = bytes.subarray(crop, crop + samples * stride);
      if (bytes.length > maxKeptBytes) {
        kernel = instantiate();
        bytes = new Uint8Array(kernel.memory.buffer);
      }
      return { pixels, stride };
    },
  };
}

interface Placed {
  at: number;
  packed: PackedTaps;
}

/** Byte offsets into the kernel's memory, multiples of 16, and distances between rows. */
interface Layout {
  columns: Placed;
  rows: Placed;
  /** The picture between the passes. */
  between: number;
  betweenStride: number;
  crop: number;
  cropStride: number;
  strip: number;
  stripStride: number;
  end: number;
}

function layOut(columns: Taps, rows: Taps, stripRows: number): Layout {
  let end = 0;
  const reserve = (length: number): number => {
    const at = end;
    end = roundUp(at + length);
    return at;
  };
  const place = (packed: PackedTaps): Placed => ({ at: reserve(packed.bytes.length), packed });
  const cropStride = roundUp(columns.counts.length * 3);
  // One byte more is written after each row, and rows are made, and read, in fours.
  const betweenStride = roundUp(columns.counts.length * 3 + 1);
  const stripStride = (columns.end - columns.first) * 3;
  return {
    columns: place(packedOf(columns)),
    rows: place(packedOf(rows)),
    between: reserve((rows.end - rows.first + 6) * betweenStride),
    betweenStride,
    crop: reserve(rows.counts.length * cropStride),
    cropStride,
    strip: reserve(stripRows * stripStride + 16),
    stripStride,
    end,
  };
}

function roundUp(bytes: number): number {
  return (bytes + 15) & ~15;
}

/** Weights as the kernel reads them: `samples` starts, as many counts of quads (int32), and the quads. */
interface PackedTaps {
  bytes: Uint8Array;
  samples: number;
  /** Bytes of one sample's quads. */
  quadStride: number;
}

const packed = new WeakMap<Taps, PackedTaps>();

function packedOf(taps: Taps): PackedTaps {
  const known = packed.get(taps) ?? pack(taps);
  packed.set(taps, known);
  return known;
}

const lowBits = 15;
const quadBytes = 16;

function pack({ starts, counts, weights, stride, first }: Taps): PackedTaps {
  const samples = starts.length;
  const quadStride = Math.ceil(Math.max(...counts) / 4) * quadBytes;
  const quadsAt = roundUp(samples * 8);
  const bytes = new Uint8Array(quadsAt + samples * quadStride);
  const numbers = new Int32Array(bytes.buffer, 0, samples * 2);
  const halves = new Int16Array(bytes.buffer);
  for (let i = 0; i < samples; i++) {
    const count = counts[i] ?? 0;
    numbers[i] = (starts[i] ?? 0) - first;
    numbers[samples + i] = Math.ceil(count / 4);
    for (let k = 0; k < count; k++) {
      const weight = weights[i * stride + k] ?? 0;
      // Of two weights first the lower halves, then the upper ones.
      const at = (quadsAt + i * quadStride) / 2 + (k >> 1) * 4 + (k & 1);
      halves[at] = weight & ((1 << lowBits) - 1);
      halves[at + 2] = weight >> lowBits;
    }
  }
  return { bytes, samples, quadStride };
}

/** The last arguments of both passes. */
function tableOf({
  at,
  packed,
}: Placed): [starts: number, counts: number, quads: number, quadStride: number] {
  const { samples, quadStride } = packed;
  return [at, at + samples * 4, at + roundUp(samples * 8), quadStride];
}
