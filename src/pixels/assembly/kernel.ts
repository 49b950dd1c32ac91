/**
 * The two passes of resample.ts in 128-bit SIMD, equal to the last bit. AssemblyScript, compiled by
 * `npm run build:kernel` to ../kernel.wasm. What lies where in memory is for ../kernel.ts to say.
 *
 * A weight of 22 bits is cut in two, high · 2^15 + low, so that `dot_i16x8_s` multiplies two samples of four channels at
 * once; the two sums meet at the end. They may overflow in between: their total, modulo 2^32, is that of resample.ts.
 */

/** Four weights: low 0, low 1, high 0, high 1, low 2, low 3, high 2, high 3; int16 each. */
const quadBytes: usize = 16;
const lowBits: i32 = 15;
const precisionBits: i32 = 22;

/**
 * Four rows of RGB, `stride` bytes apart, to `width` pixels each. Pixel i is made of `counts[i]` quads of weights, from
 * `quads + i * quadStride` on, over samples from pixel `starts[i]` of the row on. Reads up to 16 bytes after the last
 * sample, and writes one byte after each row's last pixel.
 */
export function resampleFourRows(
  source: usize,
  stride: usize,
  target: usize,
  targetStride: usize,
  width: i32,
  starts: usize,
  counts: usize,
  quads: usize,
  quadStride: usize,
): void {
  const half = i32x4.splat(1 << (precisionBits - 1));
  for (let i = 0; i < width; i++) {
    let from = source + 3 * <usize>load<u32>(starts + (i << 2));
    let quad = quads + <usize>i * quadStride;
    const end = quad + <usize>load<u32>(counts + (i << 2)) * quadBytes;
    let low0 = half;
    let low1 = half;
    let low2 = half;
    let low3 = half;
    let high0 = i32x4.splat(0);
    let high1 = high0;
    let high2 = high0;
    let high3 = high0;
    for (; quad < end; quad += quadBytes, from += 12) {
      const lowA = v128.load_splat<u32>(quad);
      const highA = v128.load_splat<u32>(quad, 4);
      const lowB = v128.load_splat<u32>(quad, 8);
      const highB = v128.load_splat<u32>(quad, 12);

      let four = v128.load(from);
      let a = firstTwo(four);
      let b = lastTwo(four);
      low0 = i32x4.add(low0, i32x4.add(i32x4.dot_i16x8_s(a, lowA), i32x4.dot_i16x8_s(b, lowB)));
      high0 = i32x4.add(high0, i32x4.add(i32x4.dot_i16x8_s(a, highA), i32x4.dot_i16x8_s(b, highB)));

      four = v128.load(from + stride);
      a = firstTwo(four);
      b = lastTwo(four);
      low1 = i32x4.add(low1, i32x4.add(i32x4.dot_i16x8_s(a, lowA), i32x4.dot_i16x8_s(b, lowB)));
      high1 = i32x4.add(high1, i32x4.add(i32x4.dot_i16x8_s(a, highA), i32x4.dot_i16x8_s(b, highB)));

      four = v128.load(from + 2 * stride);
      a = firstTwo(four);
      b = lastTwo(four);
      low2 = i32x4.add(low2, i32x4.add(i32x4.dot_i16x8_s(a, lowA), i32x4.dot_i16x8_s(b, lowB)));
      high2 = i32x4.add(high2, i32x4.add(i32x4.dot_i16x8_s(a, highA), i32x4.dot_i16x8_s(b, highB)));

      four = v128.load(from + 3 * stride);
      a = firstTwo(four);
      b = lastTwo(four);
      low3 = i32x4.add(low3, i32x4.add(i32x4.dot_i16x8_s(a, lowA), i32x4.dot_i16x8_s(b, lowB)));
      high3 = i32x4.add(high3, i32x4.add(i32x4.dot_i16x8_s(a, highA), i32x4.dot_i16x8_s(b, highB)));
    }
    const pixels = clip(total(low0, high0), total(low1, high1), total(low2, high2), total(low3, high3));
    // The fourth byte of each is overwritten by the next pixel.
    v128.store_lane<u32>(target, pixels, 0);
    v128.store_lane<u32>(target + targetStride, pixels, 1);
    v128.store_lane<u32>(target + 2 * targetStride, pixels, 2);
    v128.store_lane<u32>(target + 3 * targetStride, pixels, 3);
    target += 3;
  }
}

/**
 * `height` rows of `rowBytes` bytes, a multiple of 16, one after the other into `target`. Row i is made of `counts[i]`
 * quads of weights, from `quads + i * quadStride` on, over rows of `stride` bytes from row `starts[i]` of `source` on.
 * Reads up to three rows after the last sample.
 */
export function resampleColumns(
  source: usize,
  stride: usize,
  target: usize,
  rowBytes: usize,
  height: i32,
  starts: usize,
  counts: usize,
  quads: usize,
  quadStride: usize,
): void {
  const half = i32x4.splat(1 << (precisionBits - 1));
  for (let i = 0; i < height; i++) {
    const row = source + stride * <usize>load<u32>(starts + (i << 2));
    const firstQuad = quads + <usize>i * quadStride;
    const end = firstQuad + <usize>load<u32>(counts + (i << 2)) * quadBytes;
    for (let at: usize = 0; at < rowBytes; at += 16, target += 16) {
      let low0 = half;
      let low1 = half;
      let low2 = half;
      let low3 = half;
      let high0 = i32x4.splat(0);
      let high1 = high0;
      let high2 = high0;
      let high3 = high0;
      // By halves: two weights, two rows.
      for (let quad = firstQuad, from = row + at; quad < end; quad += quadBytes >> 1, from += 2 * stride) {
        const low = v128.load_splat<u32>(quad);
        const high = v128.load_splat<u32>(quad, 4);
        const one = v128.load(from);
        const other = v128.load(from + stride);
        const left = v128.shuffle<i8>(one, other, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const right = v128.shuffle<i8>(
          one,
          other,
          8,
          24,
          9,
          25,
          10,
          26,
          11,
          27,
          12,
          28,
          13,
          29,
          14,
          30,
          15,
          31,
        );

        let pairs = i16x8.extend_low_i8x16_u(left);
        low0 = i32x4.add(low0, i32x4.dot_i16x8_s(pairs, low));
        high0 = i32x4.add(high0, i32x4.dot_i16x8_s(pairs, high));

        pairs = i16x8.extend_high_i8x16_u(left);
        low1 = i32x4.add(low1, i32x4.dot_i16x8_s(pairs, low));
        high1 = i32x4.add(high1, i32x4.dot_i16x8_s(pairs, high));

        pairs = i16x8.extend_low_i8x16_u(right);
        low2 = i32x4.add(low2, i32x4.dot_i16x8_s(pairs, low));
        high2 = i32x4.add(high2, i32x4.dot_i16x8_s(pairs, high));

        pairs = i16x8.extend_high_i8x16_u(right);
        low3 = i32x4.add(low3, i32x4.dot_i16x8_s(pairs, low));
        high3 = i32x4.add(high3, i32x4.dot_i16x8_s(pairs, high));
      }
      v128.store(
        target,
        clip(total(low0, high0), total(low1, high1), total(low2, high2), total(low3, high3)),
      );
    }
  }
}

/** Of four RGB pixels the first two, as int16: r0 r1 g0 g1 b0 b1 0 0. */
function firstTwo(four: v128): v128 {
  return v128.shuffle<i8>(four, i32x4.splat(0), 0, 16, 3, 16, 1, 16, 4, 16, 2, 16, 5, 16, 16, 16, 16, 16);
}

function lastTwo(four: v128): v128 {
  return v128.shuffle<i8>(four, i32x4.splat(0), 6, 16, 9, 16, 7, 16, 10, 16, 8, 16, 11, 16, 16, 16, 16, 16);
}

function total(low: v128, high: v128): v128 {
  return i32x4.shr_s(i32x4.add(low, i32x4.shl(high, lowBits)), precisionBits);
}

/** Sixteen sums to 0–255. */
function clip(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
}
